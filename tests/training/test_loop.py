"""The training loop in this process: history, best checkpoint, early stopping, resuming, clear ends."""

from __future__ import annotations

import json
import shutil
import signal

import keras
import numpy as np
import pandas as pd
import pytest
import yaml

from busmt.config import Config
from busmt.data.pipeline import read_samples, steps_per_epoch
from busmt.errors import RunError
from busmt.model.network import REFINEMENT_LAYER, build_network
from busmt.prediction import load_network
from busmt.training.checkpoint import read_checkpoint
from busmt.training.loop import SilentReporter, averaged_weights, train
from busmt.training.prepare import prepare_run
from busmt.training.run import Run
from busmt.training.trainer import MultiTaskTrainer, compile_trainer
from busmt.training.validation import ValidationSet

HISTORY = {
    "epoch", "loss", "mask_loss", "label_loss", "val_dice", "val_balanced_accuracy", "val_auroc", "val_score",
    "val_loss",
}  # fmt: skip
SMALLEST = {"input_size": 32, "width": 4, "depth": 2}


class Recorder(SilentReporter):
    def __init__(self, stop_at=None):
        self.steps, self.epochs, self.warnings, self.stop_at = [], [], [], stop_at

    def step(self, epoch, step, losses):
        self.steps.append((epoch, step, losses))
        if (epoch, step) == self.stop_at:
            raise KeyboardInterrupt

    def epoch(self, row, best):
        self.epochs.append((row, best))

    def warn(self, text):
        self.warnings.append(text)


def small_run(phantom_folder, folder, loss=None, **training) -> Run:
    training = {"batch_size": 8, "deterministic": False} | training
    sections = {"data": {"path": str(phantom_folder)}, "network": SMALLEST, "loss": loss or {}, "training": training}
    return prepare_run(Config.preset("tiny", sections), folder)


def editable(run_folder, target, **training) -> Run:
    """A copy of a run that this process may go on with."""
    folder = shutil.copytree(run_folder, target)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["training"] |= {"deterministic": False} | training
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return Run.open(folder)


@pytest.fixture(scope="module")
def tiny_run(tiny_run_folder) -> Run:
    return Run.open(tiny_run_folder)


@pytest.fixture(scope="module")
def stopped_early(phantom_folder, tmp_path_factory):
    """Nothing is learned, so that the first epoch stays the best; both alternative losses are in use."""
    run = small_run(
        phantom_folder,
        tmp_path_factory.mktemp("runs") / "early",
        loss={"mask": "focal_tversky", "task_balance": "uncertainty"},
        learning_rate=1e-8, epochs=9, patience=2, warmup_epochs=0,
    )  # fmt: skip
    reporter = Recorder()
    return train(run, reporter), reporter


def test_a_finished_run_has_everything(tiny_run):
    names = {entry.name for entry in tiny_run.path.iterdir()}
    assert names == {
        "config.yaml", "catalog.csv", "decisions.csv", "folds.csv", "environment.json", "checkpoints", "logs",
        "history.csv", "calibration.json", "model.keras",
    }  # fmt: skip
    scores = tiny_run.history()["val_score"].to_numpy()
    best = {f"best_{scores[: epoch + 1].argmax():05d}.npz" for epoch in (2, 3)}  # one for each checkpoint
    assert {entry.name for entry in (tiny_run.path / "checkpoints").iterdir()} == {
        "epoch_00002.npz", "epoch_00003.npz", *best,
    }  # fmt: skip
    assert any(entry.name.startswith("events") for entry in (tiny_run.path / "logs").rglob("*"))
    assert tiny_run.finished
    assert tiny_run.environment()["backend"] == "tensorflow"
    assert tiny_run.environment()["threads"]["inter_op"] == 1


def test_history_has_one_row_per_epoch_with_losses_and_scores(tiny_run):
    history = tiny_run.history()
    assert history.columns[0] == "epoch"
    assert set(history.columns) == HISTORY
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert np.isfinite(history.to_numpy()).all()
    scores = history[["val_dice", "val_balanced_accuracy", "val_auroc", "val_score"]].to_numpy()
    assert scores.min() >= 0
    assert scores.max() <= 1
    expected = 0.5 * history["val_dice"] + 0.25 * (history["val_balanced_accuracy"] + history["val_auroc"])
    np.testing.assert_allclose(history["val_score"], expected, atol=1e-9)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_best_epoch_is_the_one_that_is_kept(tiny_run):
    """The saved network has the best epoch's score, but for what threshold and temperature change."""
    calibration, history = tiny_run.calibration(), tiny_run.history()
    assert calibration["best_epoch"] == int(history["val_score"].to_numpy().argmax())
    with np.load(tiny_run.path / "checkpoints" / f"best_{calibration['best_epoch']:05d}.npz") as best:
        assert json.loads(best["meta"].tobytes()) == {"epoch": calibration["best_epoch"]}
        network = load_network(tiny_run.model_path)
        layer = network.get_layer(REFINEMENT_LAYER)
        fitted = {id(layer.mask_offset), id(layer.temperature)}
        for index, weight in enumerate(network.weights):
            if id(weight) not in fitted:
                assert np.array_equal(best[f"network/{index:04d}"], np.asarray(weight))
    layer.mask_offset.assign(0.0)
    layer.temperature.assign(1.0)
    part = tiny_run.part("validation")
    scores = ValidationSet(*read_samples(part, 64), part.labels, 8).score(network)
    row = history.iloc[calibration["best_epoch"]]
    for name, value in scores.items():
        assert value == pytest.approx(row[name], abs=1e-6)


def test_calibration_is_fitted_on_validation_and_lies_in_the_network(tiny_run):
    calibration = tiny_run.calibration()
    network = load_network(tiny_run.model_path)
    layer, part = network.get_layer(REFINEMENT_LAYER), tiny_run.part("validation")
    assert calibration["fitted_on"] == "validation"
    assert calibration["images"] == len(part)
    assert float(layer.temperature) == pytest.approx(calibration["temperature"], rel=1e-5)
    threshold = calibration["mask_threshold"]
    assert float(layer.mask_offset) == pytest.approx(-np.log(threshold / (1 - threshold)), abs=1e-5)
    scores = ValidationSet(*read_samples(part, 64), part.labels, 8).score(network)
    for name, value in scores.items():
        assert value == pytest.approx(calibration["validation"][name], abs=1e-6)


def test_training_stops_where_the_score_no_longer_rises(stopped_early):
    run, reporter = stopped_early
    scores = run.history()["val_score"].tolist()
    best = run.calibration()["best_epoch"]
    assert best == int(np.argmax(scores))
    assert len(scores) == best + 1 + 2
    assert len(scores) < 9
    assert [flag for _, flag in reporter.epochs] == [
        value > max(scores[:place], default=-np.inf) for place, value in enumerate(scores)
    ]
    assert run.finished


def test_the_epoch_with_the_smallest_validation_loss_can_be_kept(phantom_folder, tmp_path):
    run = train(
        small_run(phantom_folder, tmp_path / "run", choose="loss", learning_rate=0.3, epochs=8, patience=2, ema=0.0)
    )
    losses, kept = run.history()["val_loss"], run.calibration()["best_epoch"]
    assert kept == losses.idxmin()
    assert len(losses) == min(8, kept + 1 + 2)
    network = build_network(run.config.network)
    read_checkpoint(run.path / "checkpoints" / f"best_{kept:05d}.npz", {"network": network.weights})
    part = run.part("validation")
    images, masks = read_samples(part, 32)
    trainer = compile_trainer(network, run.config, 1)
    truth = {"mask": masks.astype(np.float32), "label": np.eye(3, dtype=np.float32)[part.labels]}
    evaluated = trainer.evaluate(images, truth, batch_size=len(part), verbose=0, return_dict=True)
    assert losses[kept] == pytest.approx(evaluated["loss"], rel=1e-4)


def test_the_last_epoch_can_be_kept_and_nothing_stops_before_it(phantom_folder, tmp_path):
    run = small_run(phantom_folder, tmp_path / "run", choose="last", learning_rate=1e-8, epochs=3, patience=1)
    reporter = Recorder()
    train(run, reporter)
    assert run.calibration()["best_epoch"] == len(run.history()) - 1 == 2
    assert [best for _, best in reporter.epochs] == [True, True, True]
    assert (run.path / "checkpoints" / "best_00002.npz").exists()


def test_the_reporter_hears_of_every_step_and_epoch(stopped_early):
    run, reporter = stopped_early
    steps = steps_per_epoch(run.part("train"), run.config)
    epochs = len(run.history())
    assert [(epoch, step) for epoch, step, _ in reporter.steps] == [
        (epoch, step) for epoch in range(epochs) for step in range(1, steps + 1)
    ]
    assert all(np.isfinite(losses["loss"]) for _, _, losses in reporter.steps)
    reported = pd.DataFrame([row for row, _ in reporter.epochs])
    pd.testing.assert_frame_equal(reported, run.history(), check_dtype=False)


def test_learned_task_weights_are_kept_in_the_checkpoint(stopped_early):
    newest = max((stopped_early[0].path / "checkpoints").glob("epoch_*.npz"))
    with np.load(newest) as stored:
        assert stored["tasks/0000"].shape == (2,)


def test_a_run_is_trained_by_one_process_at_a_time(phantom_folder, tmp_path, python):
    run = small_run(phantom_folder, tmp_path / "shared", epochs=1)
    code = "import sys; from busmt.training.run import Run; Run.open(sys.argv[1]).locked().__enter__()"
    with run.locked():
        assert "another process is training this run" in python(code, run.path, check=False).stderr
    assert python(code, run.path).returncode == 0


def test_a_finished_run_is_not_trained_again(tiny_run):
    with pytest.raises(RunError, match="training has finished; evaluate it with: busmt evaluate"):
        train(tiny_run)


@pytest.fixture
def ctrl_c():
    """Python's own handler, which is not there in a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def lose_ctrl_c():
    """A Ctrl-C that falls into a destructor, out of which Python cannot raise."""

    class Pressed:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    Pressed()


class LostInAStep(Recorder):
    def step(self, epoch, step, losses):
        super().step(epoch, step, losses)
        if (epoch, step) == (0, 2):
            lose_ctrl_c()


class LostAtTheEnd(Recorder):
    def epoch(self, row, best):
        super().epoch(row, best)
        lose_ctrl_c()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("reporter", "epochs"), [(LostInAStep(), 0), (LostAtTheEnd(), 1)])
def test_ctrl_c_stops_a_training_also_where_python_cannot_raise_it(phantom_folder, tmp_path, reporter, epochs):
    run = small_run(phantom_folder, tmp_path / "run", epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(run, reporter)
    assert (len(reporter.epochs), run.finished) == (epochs, False)
    if not epochs:
        assert [place[:2] for place in reporter.steps] == [(0, 1), (0, 2)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train(run).finished


@pytest.mark.usefixtures("ctrl_c")
def test_another_handler_of_ctrl_c_stays_in_place(phantom_folder, tmp_path):
    pressed = []

    class Pressing(Recorder):
        def step(self, epoch, step, losses):
            if not pressed:
                signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    assert train(small_run(phantom_folder, tmp_path / "run", epochs=1), Pressing()).finished
    assert pressed == [1]


def test_an_interrupted_run_goes_on_from_its_newest_sound_checkpoint(phantom_folder, tmp_path):
    run = small_run(phantom_folder, tmp_path / "run", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(run, Recorder(stop_at=(2, 1)))
    assert not run.finished
    before = run.history()
    assert before["epoch"].tolist() == [0, 1]
    newest = run.path / "checkpoints" / "epoch_00001.npz"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    reporter = Recorder()
    train(Run.open(run.path), reporter)
    (warning,) = reporter.warnings
    assert "epoch_00001.npz: damaged or unreadable checkpoint" in warning
    assert "trying the one before" in warning
    assert reporter.steps[0][:2] == (1, 1)
    after = run.history()
    assert after["epoch"].tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(after.iloc[:1], before.iloc[:1])
    pd.testing.assert_frame_equal(after.iloc[:2], before, atol=0.02)
    assert run.finished


def test_a_run_without_a_sound_checkpoint_is_refused(tiny_run, tmp_path):
    run = editable(tiny_run.path, tmp_path / "copy")
    run.model_path.unlink()
    for path in (run.path / "checkpoints").glob("epoch_*.npz"):
        path.write_bytes(b"nothing")
    with pytest.raises(RunError, match="no checkpoint can be used; start again with another --name"):
        train(run, Recorder())
    assert not run.finished


def test_a_run_killed_before_its_last_file_only_finishes(tiny_run, tmp_path):
    run = editable(tiny_run.path, tmp_path / "copy")
    before = load_network(run.model_path).get_weights()
    run.model_path.unlink()
    (run.path / "calibration.json").unlink()
    reporter = Recorder()
    train(run, reporter)
    assert not reporter.steps
    for one, other in zip(before, load_network(run.model_path).get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_loss_that_is_no_number_ends_the_training_in_one_line(phantom_folder, tmp_path, monkeypatch):
    def diverge(trainer, *_, callbacks, **__):
        callbacks[0].on_epoch_end(1, {"loss": float("nan"), "mask_loss": float("nan")})

    monkeypatch.setattr(MultiTaskTrainer, "fit", diverge)
    run = small_run(phantom_folder, tmp_path / "run", epochs=2)
    with pytest.raises(RunError, match="the loss is not a number in epoch 2; .* lower training.learning_rate"):
        train(run)
    assert not run.finished
    assert run.history().empty


def test_deterministic_training_needs_a_fresh_process(phantom_folder, tmp_path):
    """Here TensorFlow runs already, with its usual threads."""
    import tensorflow as tf

    tf.zeros(1)
    if tf.config.threading.get_inter_op_parallelism_threads() == 1:
        pytest.skip("TensorFlow runs one operation at a time here")
    run = small_run(phantom_folder, tmp_path / "run", epochs=1, deterministic=True)
    with pytest.raises(RunError, match="deterministic training needs a fresh process"):
        train(run)


@pytest.fixture
def trainer():
    keras.utils.set_random_seed(0)
    settings = Config.preset("tiny", {"network": SMALLEST, "training": {"epochs": 10, "learning_rate": 0.004}})
    return compile_trainer(build_network(settings.network), settings, steps=5)


def test_the_averaged_weights_are_in_place_for_validation_only(trainer):
    generator = np.random.default_rng(0)
    images = generator.random((4, 32, 32, 1)).astype(np.float32)
    truth = {"mask": np.zeros_like(images), "label": np.eye(3, dtype=np.float32)[[0, 0, 0, 0]]}
    seen = [[np.array(variable.numpy()) for variable in trainer.trainable_variables]]
    for _ in range(3):
        trainer.train_on_batch(images, truth)
        seen.append([np.array(variable.numpy()) for variable in trainer.trainable_variables])
    decay = trainer.optimizer.ema_momentum
    expected = seen[1]
    for later in seen[2:]:
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, later, strict=True)]
    with pytest.raises(ZeroDivisionError), averaged_weights(trainer):  # noqa: PT012
        for value, variable in zip(expected, trainer.trainable_variables, strict=True):
            np.testing.assert_allclose(variable, value, atol=1e-5)
        raise ZeroDivisionError
    for value, variable in zip(seen[-1], trainer.trainable_variables, strict=True):
        assert np.array_equal(value, variable)


def test_the_learning_rate_warms_up_and_falls_to_zero(trainer):
    """Two epochs of five steps up, then a cosine down to the end."""
    rate = trainer.optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, 5, 10, 30, 50)]
    np.testing.assert_allclose(rates, [0, 0.002, 0.004, 0.002, 0], atol=1e-6)


def test_weight_decay_spares_biases_norms_and_what_the_refinement_learns(trainer):
    spared = {v.name for v in trainer.trainable_variables if not trainer.optimizer._use_weight_decay(v)}
    decayed = {v.name for v in trainer.trainable_variables if trainer.optimizer._use_weight_decay(v)}
    assert spared == {"bias", "gamma", "beta", "class_to_mask", "mask_to_class"}
    assert decayed == {"kernel"}
