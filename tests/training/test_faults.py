"""Full disks, read-only folders, changed data and damaged files: a clear end, and a run that can go on."""

from __future__ import annotations

import builtins
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from busmt.errors import DataError, RunError
from busmt.training.loop import train
from busmt.training.run import Run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def unfinished(tiny_run_folder, tmp_path) -> Run:
    """A run of which only the last file is missing."""
    folder = shutil.copytree(tiny_run_folder, tmp_path / "run")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["training"]["deterministic"] = False  # this process runs already
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "model.keras").unlink()
    return Run.open(folder)


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")]
)
@pytest.mark.parametrize("file", ["environment.json", "calibration.json", "model.keras"])
def test_a_full_or_read_only_disk_ends_in_one_line_and_the_run_goes_on_later(
    unfinished, monkeypatch, code, reason, file
):
    real = builtins.open

    def full(path, mode="r", *arguments, **options):
        if not isinstance(path, int) and file in str(path) and set(mode) & set("wxa+"):
            raise OSError(code, reason, str(path))
        return real(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", full)
        if file == "model.keras":
            patch.setattr("zipfile.io.open", full)
        with pytest.raises(RunError, match=rf"{reason}.*continue with: busmt train --resume") as caught:
            train(unfinished)
    assert "\n" not in str(caught.value)
    assert not unfinished.finished
    assert not list(unfinished.path.rglob("*.tmp"))
    train(Run.open(unfinished.path))
    assert unfinished.finished


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_a_run_that_goes_on(phantom_folder, tmp_path):
    """The operating system itself refuses to write more than 200 KB into one file."""
    (tmp_path / "c.yaml").write_text(
        "network: {encoder: unet, input_size: 32, width: 8, depth: 2}\ntraining: {batch_size: 16, epochs: 1}\n"
    )

    def busmt(*arguments, limit=resource.RLIM_INFINITY):
        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        return subprocess.run(
            [sys.executable, "-m", "busmt", "train", *map(str, arguments)],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=540, preexec_fn=small_files,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    answer = busmt("--data", phantom_folder, "--config", "c.yaml", "--name", "r", limit=200_000)
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    (line,) = [line for line in answer.stderr.splitlines() if "error" in line]
    assert "File too large" in line
    assert "continue with: busmt train --resume runs/r" in line
    assert not list((tmp_path / "runs" / "r").rglob("*.tmp"))
    answer = busmt("--resume", "runs/r")
    assert answer.returncode == 0, answer.stderr
    assert Run.open(tmp_path / "runs" / "r").finished


def test_a_run_folder_that_cannot_be_made_is_named(phantom_folder, tmp_path):
    from busmt.config import Config
    from busmt.training.prepare import prepare_run

    (tmp_path / "runs").write_text("a file where a folder should be")
    settings = {"data": {"path": str(phantom_folder)}, "curation": {"enabled": False}}
    with pytest.raises((RunError, DataError), match="runs/r: cannot be written"):
        prepare_run(Config.preset("tiny", settings), tmp_path / "runs" / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_run_is_not_continued_on_other_data(unfinished, tmp_path):
    """Its promise, to end as if it had not been stopped, could not be kept."""
    data = shutil.copytree(Path(unfinished.catalog().table["image"][0]).parents[1], tmp_path / "data")
    catalog = unfinished.catalog()
    old = str(Path(catalog.table["image"][0]).parents[1])
    for column in ("image", "masks"):
        catalog.table[column] = catalog.table[column].str.replace(old, str(data), regex=False)
    catalog.to_csv(unfinished.path / "catalog.csv")
    first = Path(catalog.table["image"][0])
    pixels = np.array(Image.open(first))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(first)
    with pytest.raises(RunError, match="images, masks or classes have changed since it was started"):
        train(unfinished)


def test_a_run_that_goes_on_elsewhere_is_warned_of_and_written_down(unfinished):
    class Listener:
        warnings: list[str] = []

        def step(self, epoch, step, losses):
            raise AssertionError("nothing is left to train")

        def epoch(self, row, best):
            raise AssertionError("nothing is left to train")

        def warn(self, text):
            self.warnings.append(text)

    record = unfinished.environment()
    record["packages"]["keras"] = "3.0.0"
    unfinished.write_json("environment.json", record)
    train(unfinished, Listener())
    assert any("packages.keras: 3.0.0, now" in text for text in Listener.warnings)
    (resumed,) = unfinished.environment()["resumed"]
    assert resumed["epoch"] == 4
    assert resumed["packages"]["keras"] != "3.0.0"
    assert unfinished.environment()["packages"]["keras"] == "3.0.0"


def test_best_weights_that_are_damaged_are_told(unfinished):
    best = unfinished.calibration()["best_epoch"]
    path = unfinished.path / "checkpoints" / f"best_{best:05d}.npz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"best_\d+\.npz: damaged"):
        train(unfinished)


def test_the_environment_is_recorded(tiny_run_folder):
    record = Run.open(tiny_run_folder).environment()
    assert {"busmt", "git", "python", "platform", "processor", "packages", "variables", "command", "seed", "seeds",
            "deterministic", "data", "backend", "threads"} <= set(record)  # fmt: skip
    assert record["packages"]["tensorflow"]
    assert set(record["seeds"]) == {"training", "folds", "phantoms"}
    assert set(record["threads"]) == {"cores", "inter_op", "intra_op"}
    assert len(record["data"]["fingerprint"]) == 64
    assert json.dumps(record)


@pytest.mark.slow
def test_trainings_and_exports_killed_at_20_random_moments_end_as_if_they_had_not_been(tmp_path):
    """128x128, batch 8: smaller trainings agree even where threads could change sums."""
    script = ROOT / "benchmarks" / "kill_resume.py"
    answer = subprocess.run(
        [sys.executable, script, "--kills", "20", "--export-kills", "2", "--minutes", "120", "--out", tmp_path / "r"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    result = json.loads((tmp_path / "r").read_text())
    assert result["training"]["kills"] == 20
    assert result["training"]["identical"]
    assert result["export"]["faults"] == 0
