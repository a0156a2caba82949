"""A new run folder is complete, or it is not there at all."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from busmt.config import Config
from busmt.errors import BusmtError, ConfigError, DataError, RunError
from busmt.training import prepare
from busmt.training.prepare import prepare_run
from busmt.training.run import Run


def config(**sections) -> Config:
    return Config.preset("tiny", sections)


@pytest.fixture
def cohort(phantom_folder, tmp_path_factory):
    return shutil.copytree(phantom_folder, tmp_path_factory.mktemp("cohort") / "busi")


@pytest.fixture(scope="module")
def run(phantom_folder, tmp_path_factory) -> Run:
    settings = config(data={"path": str(phantom_folder)}, training={"seed": 3})
    return prepare_run(settings, tmp_path_factory.mktemp("work") / "runs" / "first")


def test_it_records_configuration_data_and_split(run):
    assert {entry.name for entry in run.path.iterdir()} == {
        "config.yaml", "catalog.csv", "decisions.csv", "folds.csv", "environment.json", "checkpoints", "logs",
    }  # fmt: skip
    assert Run.open(run.path).config == run.config
    assert not run.finished
    assert run.history().empty
    assert run.calibration() == {}
    assert [entry.name for entry in run.path.parent.iterdir()] == ["first"]


def test_parts_are_disjoint_and_cover_the_catalog(run):
    parts = {name: set(run.part(name).ids) for name in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(run.catalog())
    assert all(parts.values())
    with pytest.raises(RunError, match="unknown part 'exam'"):
        run.part("exam")


def test_the_environment_says_what_was_used(run):
    environment = run.environment()
    assert environment["seed"] == 3
    assert environment["deterministic"] is True
    assert environment["packages"]["keras"]
    assert environment["data"]["fingerprint"] == run.catalog().fingerprint()
    assert environment["data"]["images"] == len(run.catalog())
    assert json.dumps(environment)


def test_without_data_phantoms_are_made_in_the_run_folder(tmp_path):
    run = prepare_run(config(data={"phantoms_per_class": 10}), tmp_path / "phantoms")
    assert set(run.catalog().counts()) == {"normal", "benign", "malignant"}
    table = pd.read_csv(run.path / "catalog.csv")
    assert table["image"].str.startswith("data/").all()
    moved = run.path.rename(tmp_path / "moved")
    assert Run.open(moved).part("test")[0].read_mask().ndim == 2


def test_stages_are_announced(cohort, tmp_path):
    from contextlib import contextmanager

    seen = {}

    @contextmanager
    def stage(title):
        yield lambda done, total: seen.setdefault(title, []).append((done, total))

    prepare_run(config(data={"path": str(cohort)}), tmp_path / "run", stage)
    assert seen["Checking files"][-1] == (40, 40)
    assert "Curating" in seen


def fails_with(cohort, tmp_path, error, message, **sections):
    folder = tmp_path / "new" / "runs" / "failed"
    sections = {"data": {"path": str(cohort)}, **sections}
    with pytest.raises(error, match=message):
        prepare_run(config(**sections), folder)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_a_file_is_damaged(cohort, tmp_path):
    bad = cohort / "benign" / "benign (2).png"
    bad.write_bytes(bad.read_bytes()[:700])
    fails_with(cohort, tmp_path, DataError, r"benign \(2\)\.png")


def test_nothing_is_left_where_the_data_are_missing(tmp_path):
    fails_with(tmp_path.parent / "nowhere", tmp_path, DataError, "nowhere: no such file or folder")


def test_nothing_is_left_where_there_is_one_class_only(cohort, tmp_path):
    shutil.rmtree(cohort / "benign")
    shutil.rmtree(cohort / "malignant")
    fails_with(cohort, tmp_path, ConfigError, "at least two classes")


def test_nothing_is_left_where_the_fold_does_not_exist(cohort, tmp_path):
    fails_with(cohort, tmp_path, ConfigError, "folds.fold is 9", folds={"fold": 9})
    fails_with(cohort, tmp_path, DataError, "folds.count is 40", folds={"count": 40})
    fails_with(cohort, tmp_path, DataError, r"none\.csv: no such file", folds={"file": "none.csv"})


def test_nothing_is_left_after_an_interruption(cohort, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "make_folds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_run(config(data={"path": str(cohort)}), tmp_path / "runs" / "new")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_not_touched(run):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with pytest.raises(RunError, match="exists already; choose another --name, or continue it with --resume"):
        prepare_run(run.config, run.path)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="file/runs/new: cannot be written"):
        prepare_run(config(), tmp_path / "file" / "runs" / "new")


def test_the_folds_of_an_earlier_run_can_be_used_again(run, cohort, tmp_path):
    sections = {"data": {"path": str(cohort)}, "folds": {"file": str(run.path / "folds.csv")}}
    again = prepare_run(config(**sections), tmp_path / "again")
    pd.testing.assert_frame_equal(again.folds(), run.folds())


def test_opening_something_else_is_refused(tmp_path, run):
    with pytest.raises(RunError, match="none: no such run folder"):
        Run.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"not a run folder \(config.yaml is missing\)"):
        Run.open(tmp_path)
    broken = shutil.copytree(run.path, tmp_path / "broken")
    (broken / "environment.json").write_text('{"seed": ')
    with pytest.raises(RunError, match=r"environment\.json: damaged JSON file"):
        Run.open(broken).environment()
    (broken / "config.yaml").write_text("training: {epochs: many}")
    with pytest.raises(BusmtError, match="training.epochs must be int"):
        Run.open(broken)


def test_the_model_of_an_unfinished_run_is_refused_with_the_way_on(run):
    with pytest.raises(RunError, match="training has not finished; continue it with: busmt train --resume"):
        run.model_path  # noqa: B018


@pytest.mark.parametrize("section", ["training", "folds"])
def test_a_seed_beyond_what_generators_take_is_refused_before_anything_is_made(section):
    with pytest.raises(ConfigError, match=f"{section}.seed must be between 0 and 2147483647, got 5000000000"):
        config(**{section: {"seed": 5_000_000_000}})


def test_paths_in_the_configuration_are_those_of_any_folder(phantom_folder, tmp_path, monkeypatch):
    """A run is continued and repeated from anywhere."""
    (tmp_path / "first.keras").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cohort").symlink_to(phantom_folder)
    settings = {"data": {"path": "cohort"}, "training": {"start": "first.keras"}}
    run = prepare_run(Config.preset("tiny", settings), "run")
    assert run.config.data.path == str(tmp_path / "cohort")
    assert run.config.training.start == str(tmp_path / "first.keras")
    run = prepare_run(Config.preset("tiny", {"data": {"path": "cohort"}, "folds": {"file": "run/folds.csv"}}), "other")
    assert run.config.folds.file == str(tmp_path / "run" / "folds.csv")
