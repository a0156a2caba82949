"""The crossval command on phantoms, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from busmt.cli.main import cli
from busmt.data.folds import read_folds, write_folds
from busmt.errors import ConfigError, DataError, RunError
from busmt.prediction import load_network
from busmt.training.run import Run

SMALLEST = {
    "data": {"phantoms_per_class": 12},
    "folds": {"count": 2, "validation_share": 0.3},
    "network": {"input_size": 32, "width": 4, "depth": 2},
    "training": {"epochs": 1, "batch_size": 8},
}


def crossval(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    answer = subprocess.run(
        [sys.executable, "-m", "busmt", "crossval", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=540, env=os.environ,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer


def test_folds_one_by_one(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALLEST))
    options = ("--name", "try", "--config", "small.yaml")
    first = crossval(*options, "--fold", 0, cwd=tmp_path)
    assert "not finished: folds 1" in first.stderr
    record = (tmp_path / "results" / "try" / "fold_0.json").read_bytes()
    second = crossval(*options, "--json", cwd=tmp_path)
    assert "fold 0: finished" in second.stderr
    assert (tmp_path / "results" / "try" / "fold_0.json").read_bytes() == record
    metrics = json.loads(second.stdout)
    assert metrics["images"] == 36
    assert metrics["cross_validation"]["missing"] == []
    assert metrics["cross_validation"]["cpu_hours"] > 0
    assert (tmp_path / "runs" / "try-fold1" / "model.keras").is_file()


def test_several_trainings_of_a_fold_become_one_network(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALLEST))
    crossval("--name", "pair", "--config", "small.yaml", "--fold", 1, "--members", 2, cwd=tmp_path)
    record = json.loads((tmp_path / "results" / "pair" / "fold_1.json").read_text())
    assert [(one["run"], one["order_seed"], one["epochs"]) for one in record["members"]] == [
        ("pair-fold1-member0", None, 1), ("pair-fold1-member1", 1, 1),
    ]  # fmt: skip
    assert record["config"]["training"]["members"] == 2
    assert record["calibration"]["fitted_on"] == "validation"
    runs = [Run.open(tmp_path / "runs" / name) for name in ("pair-fold1", "pair-fold1-member0", "pair-fold1-member1")]
    assert record["cpu_hours"] * 3600 == pytest.approx(sum(run.environment()["cpu_seconds"] for run in runs[1:]), abs=1)
    own, *members = (load_network(run.model_path).get_layer("mask_head").get_weights()[0] for run in runs)
    assert not np.array_equal(members[0], members[1])
    np.testing.assert_allclose(own, np.mean(members, axis=0), atol=1e-6)
    again = crossval("--name", "pair", "--config", "small.yaml", "--fold", 1, "--members", 2, cwd=tmp_path)
    assert "fold 1: finished" in again.stderr


def test_networks_of_two_experiments_answer_together(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALLEST))
    for seed, name in enumerate(("one", "two")):
        crossval("--name", name, "--config", "small.yaml", "--fold", 1, "--seed", seed, cwd=tmp_path)
    both = ("--average", "one", "--average", "two", "--name", "both")
    metrics = json.loads(crossval(*both, "--fold", 1, "--json", cwd=tmp_path).stdout)
    assert metrics["cross_validation"]["folds"] == [1]
    record, *parts = (
        json.loads((tmp_path / "results" / name / "fold_1.json").read_text()) for name in ("both", "one", "two")
    )
    assert [member["run"] for member in record["members"]] == ["one-fold1", "two-fold1"]
    assert record["cpu_hours"] == pytest.approx(sum(part["cpu_hours"] for part in parts), abs=1e-3)
    assert record["calibration"]["fitted_on"] == "validation"
    crossval("--average", "one", "--mirror", "--name", "turned", "--fold", 1, cwd=tmp_path)
    turned = json.loads((tmp_path / "results" / "turned" / "fold_1.json").read_text())
    assert [member["run"] for member in turned["members"]] == ["one-fold1"]
    assert (record["averaged"], turned["averaged"]) == ("answers", "answers, also of mirror images")
    image = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    runs = [Run.open(tmp_path / "runs" / f"{name}-fold1") for name in ("both", "one", "two")]
    own, *logits = (load_network(run.model_path).predict_on_batch(image)["mask_logits"] for run in runs)
    assert not np.allclose(*logits)
    np.testing.assert_allclose(own, np.mean(logits, axis=0), atol=1e-4)
    runner = CliRunner()
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    missing = runner.invoke(cli, ["crossval", *both, "--fold", "0", *places])
    assert isinstance(missing.exception, RunError)
    assert "one-fold0: no such run" in str(missing.exception)
    folds = read_folds(runs[2].path / "folds.csv")
    write_folds(folds.assign(part=folds["part"].replace("validation", "train")), runs[2].path / "folds.csv")
    other = runner.invoke(cli, ["crossval", *both[:-1], "again", "--fold", "1", *places])
    assert isinstance(other.exception, RunError)
    assert "two-fold1: its images have other parts than in" in str(other.exception)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("--name", "x", "--average", "p1"), RunError, "give --average twice, or --mirror"),
        (("--name", "x", "--average", "p1", "--average", "p2"), RunError, "busmt crossval --name p1 makes them"),
        (("--name", "x", "--mirror"), ConfigError, "name their experiment with --average"),
        (("--name", "x", "--average", "p1", "--epochs", "3"), ConfigError, "--average trains nothing; leave out"),
        (("--name", "a/b"), ConfigError, "plain name"),
        (("--name", "none", "--merge"), DataError, "no fold_K.json"),
        (("--name", "none", "--merge", "--fold", "1"), ConfigError, "--merge computes nothing; leave out --fold"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["crossval", *arguments])
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
