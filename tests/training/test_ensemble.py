"""Ensembles: the average of finished runs is a run like any other, and knows what its members have seen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from click.testing import CliRunner

from busmt.cli.ensemble import ensemble
from busmt.config import Config
from busmt.data.folds import read_folds, write_folds
from busmt.data.pipeline import steps_per_epoch, training_dataset
from busmt.deployment.export import export_run
from busmt.errors import ConfigError, RunError
from busmt.evaluation.evaluate import evaluate_run
from busmt.model.network import build_network
from busmt.model.outputs import REFINEMENT_LAYER
from busmt.prediction import Predictor, load_network
from busmt.training.ensemble import make_ensemble
from busmt.training.prepare import prepare_run
from busmt.training.reproduce import reproduce
from busmt.training.run import Run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def members(tiny_run_folder, tmp_path_factory):
    """The tiny run, and a copy with other weights that holds another fold out."""
    folder = shutil.copytree(tiny_run_folder, tmp_path_factory.mktemp("members") / "second")
    network = load_network(folder / "model.keras")
    draw = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.set_weights(
                [value + draw.normal(0, 0.05 * value.std(), value.shape) for value in layer.get_weights()]
            )
    network.get_layer(REFINEMENT_LAYER).mask_offset.assign(0.5)
    network.save(folder / "model.keras")
    folds = read_folds(folder / "folds.csv")
    folds["part"] = np.where(folds["fold"] == 1, "test", "train")
    folds.loc[folds["fold"] == 2, "part"] = "validation"
    write_folds(folds, folder / "folds.csv")
    config = Run.open(folder).config.replace({"folds": {"fold": 1}, "training": {"seed": 3}})
    config.to_yaml(folder / "config.yaml")
    return [Run.open(tiny_run_folder), Run.open(folder)]


@pytest.fixture(scope="module")
def same_start(members):
    """The members as if they had set out from the same weights."""
    first, second = members
    return [first, Run(second.path, second.config.replace({"training": {"seed": first.config.training.seed}}))]


def test_logits_are_the_means_and_mask_and_class_agree(members, tmp_path):
    made = make_ensemble(members, tmp_path / "both")
    image = np.random.default_rng(1).random((3, 64, 64, 1), np.float32)
    own, *parts = (load_network(run.model_path).predict_on_batch(image) for run in (made, *members))
    for name in ("mask_logits", "label_logits"):
        np.testing.assert_allclose(own[name], np.mean([part[name] for part in parts], axis=0), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(own["mask"] > 0.5).any(axis=(1, 2, 3)), own["label"].argmax(axis=1) != 0)
    offsets = [float(load_network(run.model_path).get_layer(REFINEMENT_LAYER).mask_offset) for run in (made, *members)]
    assert offsets[0] == pytest.approx(np.mean(offsets[1:]), abs=1e-6)
    assert made.calibration()["temperature"] == pytest.approx(
        np.mean([run.calibration()["temperature"] for run in members])
    )


def test_what_a_member_was_trained_on_is_no_test(members, tmp_path):
    made = make_ensemble(members, tmp_path / "both")
    parts = [run.folds().set_index("image_id")["part"] for run in (made, *members)]
    for name, part in parts[0].items():
        seen = {parts[1][name], parts[2][name]}
        assert part == ("train" if "train" in seen else "validation" if "validation" in seen else "test")
    assert [entry["fold"] for entry in made.environment()["ensemble"]] == [0, 1]
    assert made.environment()["ensemble"][1]["seed"] == 3


def test_seeds_of_one_fold_keep_its_test_part_and_twins_say_what_each_says(tiny_run_folder, tmp_path):
    run = Run.open(tiny_run_folder)
    made = make_ensemble([run, run], tmp_path / "twins")
    assert made.config.folds.fold == 0
    result = evaluate_run(made, Predictor.load(made.path), resamples=20, pictures=False)
    single = evaluate_run(run, Predictor.load(run.path), resamples=20, pictures=False, out=tmp_path / "single")
    np.testing.assert_allclose(
        result.evaluation.per_image["p_malignant"], single.evaluation.per_image["p_malignant"], atol=1e-3
    )
    assert made.calibration()["fitted_on"] == "validation"
    for key in ("mask_threshold", "temperature", "referral_threshold"):
        assert made.calibration()[key] == pytest.approx(run.calibration()[key], rel=1e-2)


def test_a_member_with_a_smaller_input_sees_the_image_scaled_down(tiny_run_folder, tmp_path):
    first = Run.open(tiny_run_folder)
    config = first.config.replace({"network": {"input_size": 32}})
    small = Run(shutil.copytree(tiny_run_folder, tmp_path / "small"), config)
    config.to_yaml(small.path / "config.yaml")
    network = build_network(config.network)
    network.set_weights(load_network(first.model_path).get_weights())
    network.save(small.model_path)
    made = make_ensemble([small, first], tmp_path / "both")
    assert made.config.network.input_size == 64
    image = np.random.default_rng(1).random((3, 64, 64, 1), np.float32)
    shrunk = image.reshape(3, 32, 2, 32, 2, 1).mean(axis=(2, 4))  # what bilinear resizing to one half is
    own = load_network(made.model_path).predict_on_batch(image)
    parts = [network.predict_on_batch(shrunk), load_network(first.model_path).predict_on_batch(image)]
    np.testing.assert_allclose(own["label_logits"], np.mean([p["label_logits"] for p in parts], axis=0), atol=1e-4)
    grown = [cv2.resize(logits, (64, 64), interpolation=cv2.INTER_LINEAR) for logits in parts[0]["mask_logits"]]
    expected = (np.stack(grown)[..., None] + parts[1]["mask_logits"]) / 2
    np.testing.assert_allclose(own["mask_logits"], expected, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(own["mask"] > 0.5).any(axis=(1, 2, 3)), own["label"].argmax(axis=1) != 0)


def test_an_image_and_its_mirror_image_get_mirrored_answers(tiny_run_folder, tmp_path):
    made = make_ensemble([Run.open(tiny_run_folder)], tmp_path / "mirror", mirror=True)
    assert made.environment()["averaged"] == "answers, also of mirror images"
    network, image = load_network(made.model_path), np.random.default_rng(2).random((2, 64, 64, 1), np.float32)
    one, other = network.predict_on_batch(image), network.predict_on_batch(image[:, :, ::-1])
    np.testing.assert_allclose(one["mask"], other["mask"][:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(one["label"], other["label"], atol=1e-5)
    single = load_network(tiny_run_folder / "model.keras")
    parts = [single.predict_on_batch(view)["label_logits"] for view in (image, image[:, :, ::-1])]
    np.testing.assert_allclose(one["label_logits"], np.mean(parts, axis=0), atol=1e-4)


def test_averaged_weights_are_the_means_and_their_statistics_those_of_the_images(same_start, tmp_path):
    made = make_ensemble(same_start, tmp_path / "soup", weights=True)
    own, *others = (load_network(run.model_path) for run in (made, *same_start))
    assert own.count_params() == others[0].count_params()
    for layer in own.layers:
        pairs = [other.get_layer(layer.name).get_weights() for other in others]
        learned = 2 if isinstance(layer, keras.layers.BatchNormalization) else None
        for value, *values in list(zip(layer.get_weights(), *pairs, strict=True))[:learned]:
            np.testing.assert_allclose(value, np.mean(values, axis=0), atol=1e-6)
    first = next(layer for layer in own.layers if isinstance(layer, keras.layers.BatchNormalization))
    trained = made.part("train")
    batches = training_dataset(trained, made.config).take(steps_per_epoch(trained, made.config))
    features = keras.Model(own.input, first.input)
    means = [np.asarray(features(image, training=True)).mean(axis=(0, 1, 2)) for image, _ in batches]
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), rtol=1e-3, atol=1e-4)
    assert made.environment()["averaged"] == "weights"


def test_weights_of_different_starts_are_not_averaged(members, same_start, tmp_path):
    with pytest.raises(RunError, match=r"training\.seed is 3, and 0 .* set out from the same"):
        make_ensemble(members, tmp_path / "soup", weights=True)
    with pytest.raises(RunError, match="mirror images"):
        make_ensemble(members, tmp_path / "soup", weights=True, mirror=True)
    first, second = same_start
    started = Run(shutil.copytree(second.path, tmp_path / "started"), second.config)
    started.write_json("environment.json", second.environment() | {"start": {"sha256": "0" * 64}})
    with pytest.raises(RunError, match=r"started: was started from other weights than .* set out from the same"):
        make_ensemble([first, started], tmp_path / "soup", weights=True)


def test_an_average_is_not_reproduced_by_one_training(members, tmp_path):
    made = make_ensemble(members, tmp_path / "both")
    with pytest.raises(RunError, match="an average of other runs"):
        reproduce(made, tmp_path / "again")


def test_several_members_are_for_crossval(tmp_path):
    with pytest.raises(ConfigError, match="busmt crossval"):
        prepare_run(Config.preset("tiny", {"training": {"members": 2}}), tmp_path / "run")


def test_the_command_says_what_is_left_to_test(members, tmp_path):
    arguments = [*(str(run.path) for run in members), "--name", "both", "--runs", str(tmp_path)]
    answer = CliRunner().invoke(ensemble, arguments, standalone_mode=False)
    assert answer.exception is None
    assert "answers of 2 networks averaged; " in answer.stderr
    assert Predictor.load(tmp_path / "both").size == 64


def test_what_does_not_fit_together_is_refused(members, tmp_path):
    with pytest.raises(RunError, match="at least two"):
        make_ensemble(members[:1], tmp_path / "new")
    with pytest.raises(RunError, match="exists already"):
        make_ensemble(members, tmp_path)
    other = Run.open(shutil.copytree(members[1].path, tmp_path / "other"))
    other.write_json("environment.json", {"data": {"fingerprint": "0"}})
    with pytest.raises(RunError, match="other images"):
        make_ensemble([members[0], other], tmp_path / "new")
    sized = Run(members[1].path, members[1].config.replace({"network": {"input_size": 96}}))
    with pytest.raises(RunError, match=r"network\.input_size is 96"):
        make_ensemble([members[0], sized], tmp_path / "new", weights=True)
    (other.path / "model.keras").unlink()
    with pytest.raises(RunError, match="not finished"):
        make_ensemble([members[0], other], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_average_that_has_seen_all_images_is_scored_on_another_cohort(tiny_run_folder, tmp_path):
    """Two members, each of which was trained on what the other one held out."""
    halves = []
    for name, test, validation in (("one", 0, 1), ("two", 3, 2)):
        folder = shutil.copytree(tiny_run_folder, tmp_path / name)
        folds = read_folds(folder / "folds.csv")
        folds["part"] = np.select([folds["fold"] == test, folds["fold"] == validation], ["test", "validation"], "train")
        write_folds(folds, folder / "folds.csv")
        halves.append(Run.open(folder))
    made = make_ensemble(halves, tmp_path / "whole")
    assert set(made.folds()["part"]) == {"train"}
    assert made.calibration()["fitted_on"] == "validation parts of the members, averaged"
    result = evaluate_run(made, Predictor.load(made.path), external=made.catalog(), resamples=20, pictures=False)
    assert result.evaluation.metrics["provenance"]["images_also_trained_on"] == len(made.catalog())
    export = export_run(made, tmp_path / "export", ("tflite",), force=True, only=("float16",))
    assert export.source == "train images"


def test_averages_are_chosen_between_on_validation_images(tiny_run_folder, tmp_path):
    shutil.copytree(tiny_run_folder, tmp_path / "a-fold0")
    command = [sys.executable, ROOT / "benchmarks" / "choose_average.py", "a", "a:mirror", "--folds", "1"]
    answer = subprocess.run([*command, "--runs", tmp_path], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    run = Run.open(tiny_run_folder)
    single = evaluate_run(run, Predictor.load(run.path), part="validation", out=tmp_path / "x", pictures=False)
    assert found["images"] == len(run.part("validation"))
    (first,) = {row["dice"]["first"] for row in found["against_first"].values()}
    assert first == pytest.approx(single.evaluation.metrics["segmentation"]["measures"]["dice"]["value"], abs=1e-6)
    assert list(found["against_first"]) == ["a:mirror"]
    assert [path.name for path in tmp_path.glob("a-*")] == ["a-fold0"]
    answer = subprocess.run([*command, "--runs", tmp_path / "none"], capture_output=True, text=True, timeout=300)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "a-fold0" in answer.stderr
    assert "Traceback" not in answer.stderr
