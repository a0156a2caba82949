"""The compare command on evaluations that were written before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from disc_cohort import FakePredictor, make_cohort, make_run

from busmt.cli.main import cli
from busmt.errors import DataError
from busmt.evaluation.evaluate import evaluate_run
from busmt.training.crossval import fold_record
from busmt.training.run import Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    catalog = make_cohort(folder / "data")
    for name, skill in (("plain", 0.5), ("better", 3.0)):
        for fold in range(2):
            run = Run.open(make_run(folder / f"{name}-fold{fold}", catalog, fold=fold))
            evaluate_run(run, FakePredictor(skill), resamples=10, pictures=False)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(cli, ["compare", *(str(argument) for argument in arguments), "--resamples", "100"])


def test_two_runs(runs):
    result = invoke(runs / "plain-fold0", runs / "better-fold0")
    assert result.exit_code == 0, result.output
    for text in ("better-fold0 against plain-fold0: 12 images", "Dice", "95 % interval", "second is"):
        assert text in result.stdout


def test_folds_by_pattern_and_by_list(runs, tmp_path):
    listed = ",".join(str(runs / f"better-fold{fold}") for fold in range(2))
    result = invoke(f"base={runs}/plain-fold*", listed, "--json", "--out", tmp_path / "comparison.json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["systems"] == ["base", "better-fold0, better-fold1"]
    assert answer["images"] == 24
    assert len(answer["folds"]["base"]["dice"]["folds"]) == 2
    assert json.loads((tmp_path / "comparison.json").read_text()) == answer
    assert "Fold by fold" in invoke(f"a={runs}/plain-fold*", f"b={runs}/better-fold*").stdout


def test_experiments_are_compared_by_their_result_files(runs, tmp_path):
    """As their runs are, but for the digits that the files keep; without any run at hand."""
    for name in ("plain", "better"):
        for fold in range(2):
            run = Run.open(runs / f"{name}-fold{fold}")
            run.write_json("environment.json", run.environment() | {"data": {"fingerprint": "discs"}})
            record = fold_record(name, fold, run.path)
            file = tmp_path / name / f"fold_{fold}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(record))
    (of_files,) = json.loads(invoke(tmp_path / "plain", tmp_path / "better", "--json").stdout)["comparisons"]
    (of_runs,) = json.loads(invoke(f"{runs}/plain-fold*", f"{runs}/better-fold*", "--json").stdout)["comparisons"]
    assert (of_files["first"], of_files["second"]) == ("plain", "better")
    assert of_files["right_alone"] == of_runs["right_alone"]
    for key, values in of_runs["measures"].items():
        assert of_files["measures"][key]["second"] == pytest.approx(values["second"], abs=1e-5, nan_ok=True)
        assert of_files["measures"][key]["verdict"] == values["verdict"]
    refused = invoke(tmp_path / "plain", tmp_path / "better", "--on", "elsewhere")
    assert isinstance(refused.exception, DataError)
    assert "has no scores on elsewhere" in str(refused.exception)


def test_wrong_use_is_named(runs, tmp_path):
    for arguments, message in (
        ((f"{runs}/nothing*", runs / "plain-fold0"), "no run folder matches"),
        ((tmp_path, runs / "plain-fold0"), "run `busmt evaluate` first"),
        ((runs / "plain-fold0", runs / "better-fold1"), "none in common"),
        ((runs / "plain-fold0",), "at least two"),
    ):
        error = invoke(*arguments).exception
        assert isinstance(error, DataError)
        assert message in str(error)
