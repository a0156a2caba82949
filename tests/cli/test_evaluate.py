"""The evaluate command on a run whose network is replaced by a fake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from disc_cohort import FakePredictor, make_cohort, make_run

from busmt.cli.main import cli
from busmt.errors import ConfigError, RunError


@pytest.fixture
def run(tmp_path, monkeypatch):
    loaded = []

    class Loader:
        @classmethod
        def load(cls, path):
            loaded.append(Path(path))
            return FakePredictor()

    monkeypatch.setitem(sys.modules, "busmt.prediction", SimpleNamespace(Predictor=Loader))
    catalog = make_cohort(tmp_path / "data")
    return SimpleNamespace(path=make_run(tmp_path / "runs" / "first", catalog), data=tmp_path / "data", loaded=loaded)


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_table_for_people(run):
    result = invoke("evaluate", run.path, "--resamples", 100)
    assert result.exit_code == 0, result.output
    for text in ("Dice", "Balanced accuracy", "95 % interval", "first, test part", "Mask contradicts class"):
        assert text in result.stdout
    assert str(run.path / "evaluation") in result.stderr.replace("\n", "")
    assert (run.path / "evaluation" / "cases").is_dir()


def test_json_is_alone_on_stdout_and_equals_the_file(run, tmp_path):
    result = invoke("evaluate", run.path, "--resamples", 100, "--no-pictures", "--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert not (run.path / "metrics.json").exists()


def test_an_export_is_scored_in_the_runs_place(run, tmp_path):
    export = tmp_path / "model.tflite"
    export.write_bytes(b"export")
    result = invoke("evaluate", run.path, "--resamples", 100, "--no-pictures", "--model", export)
    assert result.exit_code == 0, result.output
    assert run.loaded == [export]
    assert (run.path / "evaluation-model.tflite" / "metrics.json").exists()
    assert not (run.path / "metrics.json").exists()


def test_another_cohort(run, tmp_path):
    make_cohort(tmp_path / "other", per_class=4, seed=5).to_csv(tmp_path / "other" / "catalog.csv")
    result = invoke(
        "evaluate", run.path, "--resamples", 100, "--no-pictures", "--data", tmp_path / "other" / "catalog.csv"
    )
    assert result.exit_code == 0, result.output
    assert "external cohort discs: 12 images" in result.stdout
    assert "were used in training" not in result.stderr


def test_wrong_use_is_named(run, tmp_path):
    assert isinstance(invoke("evaluate", tmp_path / "nowhere").exception, RunError)
    result = invoke("evaluate", run.path, "--data", run.data, "--part", "validation")
    assert isinstance(result.exception, ConfigError)
