"""The crossval command on phantoms, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from busmt.cli.main import cli
from busmt.errors import ConfigError, DataError

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


@pytest.mark.parametrize(
    "arguments, error, message",
    [
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
