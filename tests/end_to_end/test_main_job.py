"""The main job as a user does it: train, evaluate, predict, export and inform through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busmt.data.phantom import make_phantom, write_phantoms


def busmt(*arguments: object, cwd: Path, code: int = 0, timeout: int = 600) -> subprocess.CompletedProcess:
    """Run the command in its own process and check its exit code; no traceback is ever shown."""
    answer = subprocess.run(
        [sys.executable, "-m", "busmt", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("main_job")


@pytest.fixture(scope="module")
def trained(place) -> dict:
    """The default command, as it stands in the README."""
    answer = busmt("train", "--name", "first", "--json", cwd=place, timeout=900)
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def evaluated(place, trained) -> dict:
    return json.loads(busmt("evaluate", "runs/first", "--json", cwd=place).stdout)


@pytest.fixture(scope="module")
def exported(place, trained) -> dict:
    return json.loads(busmt("export", "runs/first", "--to", "exports", "--json", cwd=place).stdout)


def test_run_folder_is_complete(place, trained):
    run = place / "runs" / "first"
    for name in ("config.yaml", "catalog.csv", "folds.csv", "history.csv", "environment.json", "model.keras"):
        assert (run / name).is_file(), name
    assert list((run / "checkpoints").glob("epoch_*.npz"))
    assert list((run / "logs").rglob("events*"))
    assert len(pd.read_csv(run / "history.csv")) == trained["epochs"]
    folds = pd.read_csv(run / "folds.csv")
    assert folds.groupby("group")["part"].nunique().max() == 1


def test_learns_phantoms_it_has_not_seen(evaluated):
    assert evaluated["segmentation"]["measures"]["dice"]["value"] >= 0.80
    assert evaluated["classification"]["measures"]["accuracy"]["value"] >= 0.90


def test_tasks_never_contradict_each_other(evaluated):
    assert evaluated["agreement"]["after"]["contradictions"] == 0


def test_exports_agree_with_keras(place, exported):
    assert {row["format"] for row in exported["parity"]} == {
        "savedmodel serving_default",
        "savedmodel serving_bytes",
        "tflite float32",
    }
    for row in exported["parity"]:
        assert row["passed"]
        assert row["same_label"] == row["images"] > 0
        assert row["min_mask_dice"] >= 0.999
        assert max(row["max_mask_difference"], row["max_label_difference"]) <= 1e-4
    assert (place / "exports" / "1" / "saved_model.pb").is_file()
    assert (place / "exports" / "model.tflite").is_file()


@pytest.mark.parametrize("model", ["runs/first", "runs/first/model.keras", "exports", "exports/model.tflite"])
def test_predicts_with_every_format(place, exported, model, tmp_path):
    phantom = make_phantom("malignant", seed=991, size=(300, 400))
    Image.fromarray(phantom.image).save(tmp_path / "scan (1).png")
    answer = busmt("predict", tmp_path, "--model", model, "--out", tmp_path / "out", "--json", cwd=place)
    row = json.loads(answer.stdout)["predictions"][0]
    mask = np.asarray(Image.open(row["mask"]))
    assert mask.shape == (300, 400)
    assert set(np.unique(mask)) <= {0, 255}
    assert (row["label"] == "normal") == (not mask.any())
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert Image.open(row["overlay"]).width == 400
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 1


def test_predict_reports_bad_images_and_does_the_others(place, trained, tmp_path):
    good = make_phantom("benign", seed=5, size=(200, 260))
    Image.fromarray(good.image).save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("not an image")
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(tmp_path / "deep.png")
    answer = busmt(
        "predict", tmp_path, tmp_path / "absent.png", "--model", "runs/first", "--out", tmp_path / "out", "--json",
        cwd=place, code=1,
    )  # fmt: skip
    rows = {Path(row["image"]).name: row for row in json.loads(answer.stdout)["predictions"]}
    assert "label" in rows["good.png"]
    for name in ("cut.png", "text.png", "dot.png", "deep.png", "absent.png"):
        assert name in rows[name]["error"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["good_mask.png", "good_overlay.png"]


def test_info_tells_what_and_how_well(place, evaluated):
    facts = json.loads(busmt("info", "runs/first", "--json", cwd=place).stdout)
    assert facts["state"] == "finished"
    assert facts["test"]["segmentation"]["measures"]["dice"] == evaluated["segmentation"]["measures"]["dice"]
    assert "synthetic phantoms" in busmt("info", "runs/first", cwd=place).stdout


def test_folds_file_brings_its_split_and_its_test_fold(place):
    settings = place / "short.yaml"
    settings.write_text("data: {phantoms_per_class: 15}\ntraining: {epochs: 1, warmup_epochs: 0}\n")
    busmt("train", "--name", "one", "--fold", "2", "--config", settings, cwd=place)
    busmt("train", "--name", "two", "--folds", "runs/one/folds.csv", "--config", settings, cwd=place)
    one, two = (pd.read_csv(place / "runs" / name / "folds.csv") for name in ("one", "two"))
    assert set(one["fold"][one["part"] == "test"]) == {2}
    pd.testing.assert_frame_equal(one, two)


class TestBadInputToTrain:
    """Each ends with one line that names the culprit, exit code 2, and no run folder."""

    def refused(self, place: Path, *arguments: object) -> str:
        answer = busmt("train", "--name", "bad", *arguments, cwd=place, code=2)
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        assert lines[-1].startswith("busmt: error: ")
        assert sum(line.startswith("busmt: error") for line in lines) == 1
        assert not (place / "runs" / "bad").exists()
        assert not list((place / "runs").glob(".bad*"))
        return lines[-1]

    @pytest.fixture
    def cohort(self, tmp_path) -> Path:
        return write_phantoms(tmp_path / "cohort", per_class=12, seed=3)

    def test_missing_folder(self, place, trained):
        assert "nowhere" in self.refused(place, "--data", "nowhere")

    def test_empty_folder(self, place, trained, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "empty" in self.refused(place, "--data", tmp_path / "empty")

    def test_truncated_png(self, place, trained, cohort):
        victim = cohort / "benign" / "benign (3).png"
        victim.write_bytes(victim.read_bytes()[:400])
        assert "benign (3).png" in self.refused(place, "--data", cohort)

    def test_mask_of_another_size(self, place, trained, cohort):
        victim = cohort / "malignant" / "malignant (2)_mask.png"
        Image.new("L", (20, 20), 255).save(victim)
        message = self.refused(place, "--data", cohort)
        assert "malignant (2)_mask.png" in message
        assert "20x20" in message

    def test_text_named_png(self, place, trained, cohort):
        (cohort / "normal" / "normal (1).png").write_text("hello")
        assert "normal (1).png" in self.refused(place, "--data", cohort)

    def test_sixteen_bit_png(self, place, trained, cohort):
        victim = cohort / "normal" / "normal (4).png"
        height, width = np.asarray(Image.open(victim)).shape
        Image.fromarray(np.full((height, width), 30000, np.uint16)).save(victim)
        assert "normal (4).png" in self.refused(place, "--data", cohort)

    def test_one_pixel_image(self, place, trained, cohort):
        for name in ("normal (5).png", "normal (5)_mask.png"):
            Image.new("L", (1, 1)).save(cohort / "normal" / name)
        assert "normal (5).png" in self.refused(place, "--data", cohort)

    def test_unknown_key(self, place, trained, tmp_path):
        (tmp_path / "c.yaml").write_text("network:\n  widht: 8\n")
        message = self.refused(place, "--config", tmp_path / "c.yaml")
        assert "network.widht" in message
        assert "width" in message

    def test_taken_name(self, place, trained):
        answer = busmt("train", "--name", "first", cwd=place, code=2)
        assert "--resume" in answer.stderr
