"""A run is trained again and compared, bit for bit; where it first differs is named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busmt.errors import RunError
from busmt.prediction import load_network
from busmt.training.environment import differences, git_state
from busmt.training.reproduce import compare_runs, describe_difference, reproduce
from busmt.training.run import Run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def twin(tiny_run_folder, tmp_path) -> Run:
    return Run.open(shutil.copytree(tiny_run_folder, tmp_path / "twin"))


@pytest.fixture
def run(tiny_run_folder) -> Run:
    return Run.open(tiny_run_folder)


def test_the_number_of_threads_is_that_of_the_record(twin, python):
    """0 is what runs recorded that left it to TensorFlow; they are repeated in the same way."""
    code = """
import json, sys
from pathlib import Path
from busmt.training import determinism
from busmt.training.reproduce import _prepare
from busmt.training.run import Run
run = Run.open(sys.argv[1])
for number, recorded in enumerate(({"intra_op": 3}, {"intra_op": 0}, {})):
    run.write_json("environment.json", run.environment() | {"threads": recorded})
    again = _prepare(run, Path(f"again{number}"))
    determinism.prepare(0, True, again.environment()["threads"].get("intra_op"))
    print(determinism.thread_settings()["intra_op"])
print(determinism.usable_cores())
"""
    recorded, left, missing, cores = map(int, python(code, twin.path).stdout.split())
    assert (recorded, left, missing) == (3, 0, cores)


def test_the_first_difference_in_the_history_is_named(run, twin):
    table = pd.read_csv(twin.path / "history.csv", dtype=str)
    was = table.loc[2, "mask_loss"]
    table.loc[2, "mask_loss"] = was[:-1] + ("1" if was[-1] != "1" else "2")
    table.to_csv(twin.path / "history.csv", index=False)
    (found,) = compare_runs(run, twin)
    assert (found["where"], found["epoch"], found["column"]) == ("history", 3, "mask_loss")
    assert describe_difference(found).startswith(f"history.csv, epoch 3, column mask_loss: {was}, now ")


def test_a_column_that_an_earlier_version_did_not_write_is_no_difference(run, twin):
    pd.read_csv(twin.path / "history.csv", dtype=str).drop(columns="val_loss").to_csv(
        twin.path / "history.csv", index=False
    )
    assert not list(compare_runs(run, twin))
    assert not list(compare_runs(twin, run))


def test_one_bit_of_one_weight_is_found_with_its_layer(run, twin):
    network = load_network(twin.model_path)
    layer = next(layer for layer in network.layers if layer.name == "label_logits")
    values = np.asarray(layer.weights[0]).copy()
    values[0, 0] = np.nextafter(values[0, 0], np.float32(9))
    layer.weights[0].assign(values)
    network.save(twin.path / "model.keras")
    (found,) = compare_runs(run, twin)
    assert (found["layer"], found["unequal"], found["values"]) == ("label_logits", 1, values.size)
    assert "layer label_logits" in describe_difference(found)


def test_missing_epochs_and_other_thresholds_are_differences(run, twin):
    pd.read_csv(twin.path / "history.csv", dtype=str)[:3].to_csv(twin.path / "history.csv", index=False)
    twin.write_json("calibration.json", twin.calibration() | {"temperature": 9.0})
    epochs, temperature = compare_runs(run, twin)
    assert (epochs["recorded"], epochs["now"]) == (4, 3)
    assert (temperature["key"], temperature["now"]) == ("temperature", 9.0)
    assert "temperature" in describe_difference(temperature)


def test_what_cannot_be_reproduced_is_refused(run, twin, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="exists already; name another folder with --to"):
        reproduce(run, tmp_path / "there")
    twin.write_json("environment.json", twin.environment() | {"data": {"fingerprint": "0" * 64}})
    with pytest.raises(RunError, match="its images, masks or classes have changed"):
        reproduce(twin, tmp_path / "new")
    twin.model_path.unlink()
    with pytest.raises(RunError, match="only a finished run can be reproduced"):
        reproduce(twin, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_environments_are_compared_fact_by_fact():
    one = {"python": "3.11", "packages": {"keras": "3.15", "new": "1"}, "threads": {"cores": 2}, "started": "a"}
    other = {"python": "3.11", "packages": {"keras": "3.16"}, "threads": {"cores": 4}, "started": "b"}
    assert differences(one, other) == ["packages.keras: 3.15, now 3.16", "threads.cores: 2, now 4"]


def test_the_git_state_is_that_of_busmt_alone(python, tmp_path):
    """Installed inside another repository, that one's commit says nothing about busmt."""
    shutil.copytree(ROOT / "busmt", tmp_path / "site" / "busmt", ignore=shutil.ignore_patterns("__pycache__"))
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)
    code = "from busmt.training.environment import git_state; print(git_state())"
    answer = python(code, PYTHONPATH=str(tmp_path / "site"))
    assert answer.stdout.strip() == "None"
    assert git_state() is None or len(git_state().removesuffix("-dirty")) == 40
