"""Systems with one task through the whole of busmt: trained, scored, reported, exported, used."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from busmt.deployment.export import export_run, export_tablet
from busmt.deployment.savedmodel import DEFAULT_SIGNATURE
from busmt.errors import ExportError, RunError
from busmt.evaluation.card import build_card
from busmt.evaluation.explain import Explainer
from busmt.evaluation.report import render_report
from busmt.prediction import Predictor, load_network
from busmt.training.run import Run

TASKS = {"unet": "mask", "classifier": "label"}
_TRAIN = """
import sys
from busmt.cli.main import main
data, runs, config = sys.argv[1:]
for name in ("unet", "classifier"):
    sys.argv[1:] = ["train", "--data", data, "--model", name, "--preset", "tiny", "--config", config, "--name", name]
    sys.argv += ["--runs", runs, "--no-deterministic", "--evaluate"]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


@pytest.fixture(scope="module")
def runs(phantom_folder, tmp_path_factory, python):
    folder = tmp_path_factory.mktemp("one-task")
    settings = {"network": {"input_size": 32, "width": 4, "depth": 2}, "training": {"epochs": 2}}
    (folder / "config.yaml").write_text(json.dumps(settings))
    answer = python(_TRAIN, phantom_folder, folder, folder / "config.yaml")
    return {name: Run.open(folder / name) for name in TASKS}, answer


@pytest.mark.parametrize("name", TASKS)
def test_training_knows_one_task(runs, name):
    run, other = runs[0][name], {"mask": "label", "label": "mask"}[TASKS[name]]
    assert run.finished
    assert run.config.network.architecture == name
    assert run.config.network.tasks == TASKS[name]
    history, calibration = run.history(), run.calibration()
    assert f"{TASKS[name]}_loss" in history
    assert f"{other}_loss" not in history
    assert ("val_dice" in history) == (name == "unet")
    assert ("val_auroc" in history) == (name == "classifier")
    own = {"unet": {"mask_threshold"}, "classifier": {"temperature", "referral_threshold"}}[name]
    assert own == set(calibration) & {"mask_threshold", "temperature", "referral_threshold"}
    expected = history["val_dice"] if name == "unet" else (history["val_balanced_accuracy"] + history["val_auroc"]) / 2
    np.testing.assert_allclose(history["val_score"], expected, atol=1e-9)


def test_the_display_and_the_scores_say_what_there_is(runs):
    trained, answer = runs
    assert "The network gives masks alone: what concerns classes is left out." in answer.stderr
    assert "The network gives classes alone: what concerns masks is left out." in answer.stderr
    assert "validation Dice" in answer.stderr
    for name, run in trained.items():
        metrics = json.loads((run.path / "metrics.json").read_text())
        assert metrics["tasks"] == [TASKS[name]]
        assert (metrics["classification"] is None) == (name == "unet")


@pytest.mark.parametrize("name", TASKS)
def test_report_and_card_speak_of_one_task(runs, name):
    run = runs[0][name]
    report = render_report([run])
    assert "is left out." in report
    assert f"{name}, built to be compared with, the {TASKS[name]} alone" in report
    card = build_card(run)
    assert card["summary"].startswith({"unet": "Lesion mask from", "classifier": "Class from"}[name])
    assert "agree" not in card["output"]["description"]


@pytest.mark.parametrize("name", TASKS)
def test_it_is_exported_and_used(runs, name, tmp_path, python):
    import tensorflow as tf

    run, task = runs[0][name], TASKS[name]
    export = export_run(run, tmp_path / "export", force=True)
    assert all(row.passed for row in export.parity)
    for row in [*export.parity, *export.variants]:
        assert (row.same_label is None) == (task == "mask")
    assert all((row.min_mask_dice is None) == (task == "label") for row in export.parity)
    assert all((row.max_label_drift is None) == (task == "mask") for row in export.variants)
    manifest = json.loads((tmp_path / "export" / "model.json").read_text())
    assert set(manifest["outputs"]) == {task}
    loaded = tf.saved_model.load(str(export.files["savedmodel"]))
    served = set(loaded.signatures[DEFAULT_SIGNATURE].structured_outputs)
    assert served == ({"mask"} if task == "mask" else {"label", "class_id", "refer"})
    bad = loaded.signatures["serving_bytes"](encoded=tf.constant([b"no picture"]))
    assert float(tf.reduce_max(bad[task])) == -1
    picture = run.part("test")[0].image
    for model in (run.path, export.files["savedmodel"], export.files["tflite"]):
        prediction = Predictor.load(model).predict_file(picture)
        assert (prediction.label is None) == (task == "mask")
        assert (prediction.mask is None) == (task == "label")
    code = "import sys; from busmt.cli.main import main; main()"
    python(code, "predict", picture, "--model", export.files["tflite"], "--out", tmp_path / "out")
    row = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"][0]
    assert ("label" in row) == (task == "label")
    assert ("lesion_pixels" in row) == (task == "mask")
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == (task == "mask")
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 1


@pytest.mark.parametrize("name", TASKS)
def test_what_needs_both_tasks_says_so(runs, name, tmp_path):
    run = runs[0][name]
    with pytest.raises(ExportError, match="the tablet app shows mask and class, and this network has one task"):
        export_tablet(run, tmp_path / "tablet")
    with pytest.raises(RunError):
        Explainer(load_network(run.model_path))
