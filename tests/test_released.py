"""The released model: found without a name, offline, without TensorFlow, and whole."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from busmt import released
from busmt.data.images import write_png
from busmt.data.phantom import make_phantom
from busmt.errors import RunError
from busmt.released import released_model

FOLDER = Path(__file__).parents[1] / "exports" / "released"


def test_it_is_found_and_whole():
    model = released_model()
    card = json.loads((model.parent / "model.json").read_text())
    assert hashlib.sha256(model.read_bytes()).hexdigest() == card["sha256"][model.name]
    assert card["classes"] == ["normal", "benign", "malignant"]


def test_the_folder_is_small_and_complete():
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in files.values()) <= 30e6
    assert {
        "1/saved_model.pb",
        "model-float16.tflite",
        "labels.txt",
        "model.json",
        "model_card.md",
        "README.md",
    } <= set(files)
    for name, value in json.loads(files["model.json"].read_text())["sha256"].items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == value


def test_predict_needs_no_name_of_a_model_and_no_tensorflow(tmp_path):
    write_png(tmp_path / "image.png", make_phantom("benign", 0, (96, 120)).image)
    code = (
        "import sys\nsys.modules['tensorflow'] = sys.modules['keras'] = None\nfrom busmt.cli.main import main\nmain()"
    )
    command = [sys.executable, "-c", code, "predict", "image.png", "--json"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    (row,) = json.loads(answer.stdout)["predictions"]
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "predictions" / "image_mask.png").is_file()
    assert f"model: {released_model()}" in answer.stderr


def test_without_it_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(released, "_installed", list)
    monkeypatch.setattr(released, "__file__", str(tmp_path / "site" / "busmt" / "released.py"))
    with pytest.raises(RunError, match="name one with --model PATH"):
        released_model()


def test_the_installed_file_goes_before_the_checkout(monkeypatch, tmp_path):
    installed = tmp_path / "model-float16.tflite"
    installed.write_bytes(b"")
    monkeypatch.setattr(released, "_installed", lambda: [tmp_path / "gone.tflite", installed])
    assert released_model() == installed
