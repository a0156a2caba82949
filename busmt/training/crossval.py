"""Cross-validation: every fold trained and tested in a process of its own, small results that can be merged.

A finished fold leaves `fold_K.json` in the experiment's folder: configuration, versions, cost and the scores of
every test image. The pooled metrics are a function of these files alone, so that folds may be computed at
different times and places and put together afterwards.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from busmt.config import Config
from busmt.data.cohorts import read_cohort
from busmt.data.folds import read_folds
from busmt.data.images import write_json
from busmt.errors import ConfigError, DataError, RunError
from busmt.evaluation.compare import fold_by_fold, system_of
from busmt.evaluation.evaluate import home_cohort
from busmt.evaluation.protocol import (
    METRICS_FILE,
    Evaluation,
    evaluate_table,
    read_evaluation,
    with_texts,
    write_metrics,
)
from busmt.training.run import Run

if TYPE_CHECKING:
    from busmt.training.loop import Reporter
    from busmt.training.prepare import Stage

SCHEMA: str = "busmt-fold"
SCHEMA_VERSION: int = 1
_FLOATS = "%.7g"
"""Scores in a fold file: as many digits as float32 holds."""

RunFold = Callable[[Config, Path], None]
Display = Callable[[Run], AbstractContextManager["Reporter"]]
"""Opens a display of a training."""


@dataclass(frozen=True)
class CrossValidation:
    """The folds of one experiment put together.

    Attributes:
        name: of the experiment.
        folder: where the fold files and metrics.json lie.
        done: folds that are finished.
        missing: folds that are not.
        evaluation: of all finished folds' test images together.
    """

    name: str
    folder: Path
    done: tuple[int, ...]
    missing: tuple[int, ...]
    evaluation: Evaluation


def cross_validate(
    config: Config,
    name: str,
    run_one: RunFold | None = None,
    *,
    results: str | os.PathLike[str] = "results",
    runs: str | os.PathLike[str] = "runs",
    only: Sequence[int] = (),
    say: Callable[[str], None] = lambda text: None,
) -> CrossValidation:
    """Train and test the folds that are not finished yet, one after the other, and pool all finished ones.

    Run folders are `RUNS/NAME-foldK`, results `RESULTS/NAME/fold_K.json`. A run that was interrupted goes on.

    Args:
        config: of every fold; `folds.fold` is set for each.
        name: of the experiment.
        run_one: `run_fold`, or a partial of it with displays; called in a new process, so it must be picklable.
        results, runs: parent folders.
        only: folds to compute; none: all.
        say: called with a line of text at each stage.

    Raises:
        RunError: a fold file or run folder of this name belongs to another configuration, or a fold's process
            was ended from outside.
        DataError, ConfigError: the data or the split cannot be used, or a fold does not exist.
    """
    folder, folds = Path(results) / name, fold_numbers(config)
    unknown = sorted(set(only) - set(folds))
    if unknown:
        raise DataError(f"fold {unknown[0]} does not exist; the folds are {', '.join(map(str, folds))}")
    for fold in only or folds:
        file, own = fold_file(folder, fold), config.replace({"folds": {"fold": fold}})
        if file.exists():
            _require_same(read_fold(file), own.portable(), file)
            say(f"fold {fold}: finished, kept as it is ({file})")
            continue
        say(f"fold {fold} of {', '.join(map(str, folds))}")
        place = Path(runs) / f"{name}-fold{fold}"
        _in_new_process(run_one or run_fold, own, place)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, fold_record(name, fold, place))
    return pool_folds(folder, folds)


def run_fold(
    config: Config,
    place: Path,
    stage: Stage | None = None,
    display: Display | None = None,
) -> None:
    """Train the run of a configuration in a folder, or continue it, and evaluate its test part.

    With several `training.members` the run averages the weights of as many trainings, PLACE-member0 and so on.

    Args:
        config: of this fold.
        place: the run folder.
        stage: as for `busmt.training.prepare.prepare_run`.
        display: opens a display of the training.

    Raises:
        RunError: the folder holds a run of another configuration.
    """
    from busmt.evaluation.evaluate import evaluate_run
    from busmt.prediction import Predictor

    run = (
        _average(config, place, stage, display)
        if config.training.members > 1
        else _train(config, place, stage, display)
    )
    evaluate_run(run, Predictor.load(run.path), pictures=False)


def _train(config: Config, place: Path, stage: Stage | None, display: Display | None) -> Run:
    from busmt.training.loop import SilentReporter, train
    from busmt.training.prepare import open_or_prepare

    run = open_or_prepare(config, place, stage)
    if not run.finished:
        with display(run) if display else nullcontext(SilentReporter()) as reporter:
            train(run, reporter)
    return run


def _average(config: Config, place: Path, stage: Stage | None, display: Display | None) -> Run:
    """Train the members, each in a run folder of its own beside the place, and average their weights."""
    from busmt.training.ensemble import make_ensemble

    runs = []
    for number in range(config.training.members):
        order = config.training.seed + number if number else None
        own = config.replace({"training": {"members": 1, "order_seed": order}})
        runs.append(_train(own, place.with_name(f"{place.name}-member{number}"), stage, display))
    return Run.open(place) if place.exists() else make_ensemble(runs, place, weights=True, config=config)


def average_experiments(
    names: Sequence[str],
    name: str,
    run_one: RunFold | None = None,
    *,
    mirror: bool = False,
    results: str | os.PathLike[str] = "results",
    runs: str | os.PathLike[str] = "runs",
    only: Sequence[int] = (),
    say: Callable[[str], None] = lambda text: None,
) -> CrossValidation:
    """A cross-validation whose network of each fold averages the answers of those of other experiments.

    Each fold's networks have held out the same images, and chosen on the same; threshold and temperature are fitted
    on these validation images again, and the test images are scored with the average alone.

    Args:
        names: of two or more experiments on the same images and folds; their runs RUNS/NAME-foldK are needed. One
            will do with `mirror`.
        name: of the new one; its fold files hold the configuration of the first, and what all members are.
        run_one: `average_fold` of `names`, or a fake.
        mirror: average over each image and its mirror image as well.
        results, runs, only, say: as for `cross_validate`.

    Raises:
        RunError: fewer than two experiments, a run is not there or not finished, or they differ in their images,
            their folds, or in what their networks take and give.
    """
    from busmt.training.ensemble import largest_input

    if len(set(names)) < 2 and not mirror:
        raise RunError("an average is of two or more experiments: give --average twice, or --mirror")
    members = [_some_fold(Path(runs), member) for member in dict.fromkeys(names)]
    config = members[0].config.replace({"network": {"input_size": largest_input(members)}})
    average = run_one or partial(average_fold, tuple(dict.fromkeys(names)), mirror)
    return cross_validate(config, name, average, results=results, runs=runs, only=only, say=say)


def _some_fold(runs: Path, name: str) -> Run:
    """A run of an experiment, of whichever fold."""
    for path in sorted(runs.glob(f"{name}-fold*")):
        if path.name.removeprefix(f"{name}-fold").isdigit():
            return Run.open(path)
    raise RunError(f"{runs / name}-fold*: no run folders; busmt crossval --name {name} makes them")


def average_fold(names: Sequence[str], mirror: bool, config: Config, place: Path) -> None:
    """Average the answers of one fold's runs, which lie beside the new one, and evaluate it.

    Raises:
        RunError: a run is not there or not finished, or they do not hold out the same images.
    """
    from busmt.evaluation.evaluate import evaluate_run
    from busmt.prediction import Predictor
    from busmt.training.ensemble import make_ensemble

    members = [Run.open(place.with_name(f"{name}-fold{config.folds.fold}")) for name in names]
    tables = [member.folds().set_index("image_id")["part"].sort_index() for member in members]
    for member, table in zip(members, tables, strict=True):
        if not table.equals(tables[0]):
            raise RunError(f"{member.path}: its images have other parts than in {members[0].path}; no fold to average")
    run = Run.open(place) if place.exists() else make_ensemble(members, place, mirror=mirror, config=config)
    evaluate_run(run, Predictor.load(run.path), pictures=False)


def pool_folds(folder: str | os.PathLike[str], folds: Sequence[int] | None = None) -> CrossValidation:
    """Put the fold files of an experiment together and write the pooled metrics.json beside them.

    Args:
        folder: with the fold files.
        folds: those that there should be; None: as many as their configuration says, or those that are there.

    Raises:
        DataError: no fold file, or one that is damaged.
        RunError: files of different configurations or data.
    """
    folder = Path(folder)
    records = [read_fold(file) for file in fold_files(folder)]
    if not records:
        raise DataError(f"{folder}: no fold_K.json there; `busmt crossval --name NAME` makes them")
    for record in records[1:]:
        _require_same(record, records[0]["config"], fold_file(folder, record["fold"]))
        if record["data_fingerprint"] != records[0]["data_fingerprint"]:
            raise RunError(f"{fold_file(folder, record['fold'])}: made from other data than fold {records[0]['fold']}")
    done = tuple(record["fold"] for record in records)
    expected = tuple(folds if folds is not None else records[0]["folds"])
    tables = [Evaluation(fold_table(record), {}) for record in records]
    system = system_of(folder.name, tables)
    evaluation = evaluate_table(system.table, seed=records[0]["config"]["folds"]["seed"])
    missing = tuple(fold for fold in expected if fold not in done)
    evaluation.metrics["cross_validation"] = {
        "experiment": folder.name,
        "folds": list(done),
        "missing": list(missing),
        "by_fold": fold_by_fold(system, evaluation.classes),
        "cpu_hours": _total([record["cpu_hours"] for record in records]),
        "training_seed": records[0]["config"]["training"]["seed"],
        "data_fingerprint": records[0]["data_fingerprint"],
        "busmt": sorted({record["environment"]["busmt"] for record in records}),
    }
    write_metrics(evaluation.metrics, folder / METRICS_FILE)
    return CrossValidation(folder.name, folder, done, missing, evaluation)


def metrics_for(run: Run, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The pooled metrics of a cross-validation, to stand for the test of a run that holds no fold out.

    Raises:
        DataError: no fold file, or one that is damaged.
        RunError: the run has a test part of its own, or differs from the folds in its data or in a setting other than
            the fold.
    """
    if run.config.folds.fold is not None:
        raise RunError(f"{run.path}: holds fold {run.config.folds.fold} out; its own test part says how good it is")
    outcome, config = pool_folds(folder), run.config.portable()
    file = fold_file(outcome.folder, outcome.done[0])
    _require_same(read_fold(file), config, file)
    metrics, facts = outcome.evaluation.metrics, outcome.evaluation.metrics["cross_validation"]
    if facts["data_fingerprint"] != run.environment().get("data", {}).get("fingerprint"):
        raise RunError(f"{file}: made from other data than {run.path}")
    metrics["provenance"] = {
        "cohort": home_cohort(run),
        "part": "cross-validation",
        "created": datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        "data_fingerprint": facts["data_fingerprint"],
    }
    return metrics


def fold_numbers(config: Config) -> list[int]:
    """The folds that a configuration splits its data into: of its folds file, the cohort's own, or 0 to count - 1."""
    if config.folds.file:
        return sorted(int(fold) for fold in read_folds(config.folds.file)["fold"].unique())
    if config.data.path:
        table = read_cohort(config.data.path, config.data.cohort).table
        if "fold" in table:
            return sorted(int(fold) for fold in table["fold"].unique())
    return list(range(config.folds.count))


def fold_file(folder: Path, fold: int) -> Path:
    """Where the result of a fold is kept."""
    return folder / f"fold_{fold}.json"


def fold_files(folder: Path) -> list[Path]:
    """The fold files of an experiment, in the order of their folds; empty where there are none."""
    return sorted(folder.glob("fold_*.json"), key=_number)


def fold_tables(folder: Path) -> list[pd.DataFrame]:
    """The per-image table of each fold file of an experiment.

    Raises:
        DataError: a file is damaged.
    """
    return [fold_table(read_fold(file)) for file in fold_files(folder)]


def accelerators(folders: Iterable[Path]) -> list[str]:
    """Devices other than processors that any fold of some experiments was trained on."""
    records = (read_fold(file) for folder in folders for file in fold_files(folder))
    return sorted({name for record in records if (name := record["environment"].get("accelerator"))})


def fold_record(name: str, fold: int, place: Path) -> dict[str, Any]:
    """What is kept of a finished and evaluated run: plain JSON, no pixels, no paths of the machine."""
    run = Run.open(place)
    environment, history = run.environment(), run.history()
    table = read_evaluation(place / "evaluation").per_image
    kept = ("busmt", "python", "platform", "packages", "git", "backend", "accelerator", "threads", "deterministic")
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "experiment": name,
        "fold": fold,
        "folds": sorted(int(number) for number in run.folds()["fold"].unique()),
        "config": run.config.portable(),
        "environment": {key: environment.get(key) for key in kept},
        "start_sha256": run.start_sha256(),
        "data_fingerprint": environment["data"]["fingerprint"],
        "images": run.folds()["part"].value_counts().to_dict(),
        "epochs": len(history) or None,
        "members": environment.get("ensemble"),
        "averaged": environment.get("averaged"),
        "cpu_hours": round(environment["cpu_seconds"] / 3600, 4) if "cpu_seconds" in environment else None,
        "calibration": run.calibration(),
        # one string a row, so that two versions of the file can be compared line by line
        "per_image": table.to_csv(index=False, float_format=_FLOATS).splitlines(),
    }


def read_fold(path: Path) -> dict[str, Any]:
    """Read a fold file.

    Raises:
        DataError: unreadable, damaged, or of another version of the schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable fold file; delete it to compute the fold again") from error
    found = (record.get("schema"), record.get("schema_version")) if isinstance(record, dict) else None
    if found != (SCHEMA, SCHEMA_VERSION):
        raise DataError(f"{path}: not a fold file of version {SCHEMA_VERSION}; delete it to compute the fold again")
    try:  # files of earlier versions lack keys, or hold true and false where there are choices now
        record["config"] = Config.from_dict(record["config"], str(path)).portable()
    except ConfigError as error:
        raise DataError(f"{error}; delete the file to compute the fold again") from error
    return record


def fold_table(record: dict[str, Any]) -> pd.DataFrame:
    """The per-image table of a fold file, as `busmt.evaluation.protocol.score_predictions` made it."""
    lines = io.StringIO("\n".join(record["per_image"]))
    return with_texts(pd.read_csv(lines, keep_default_na=False, na_values=[""]))


def _require_same(record: dict[str, Any], config: dict[str, Any], file: Path) -> None:
    """Refuse results of another configuration; the fold itself may differ."""
    for section, values in config.items():
        for key, value in values.items():
            own = record["config"].get(section, {}).get(key)
            if (section, key) != ("folds", "fold") and own != value:
                raise RunError(
                    f"{file}: was computed with {section}.{key} = {own!r}, not {value!r}; choose another --name, "
                    "or delete the file"
                )


def _in_new_process(run_one: RunFold, config: Config, place: Path) -> None:
    """Each fold has a process of its own: nothing of one leaks into the next, and memory is given back."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        try:
            pool.submit(run_one, config, place).result()
        except BrokenProcessPool as error:
            raise RunError(f"{place}: its process was ended; the same command continues it") from error


def _total(hours: list[float | None]) -> float | None:
    """None where the cost of one is not known: of runs that were trained before it was recorded."""
    known = [value for value in hours if value is not None]
    return sum(known) if len(known) == len(hours) else None


def _end_with(parent: int) -> None:
    """End this process soon after its parent, whatever ended that: nobody would collect the result."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _number(file: Path) -> int:
    try:
        return int(file.stem.removeprefix("fold_"))
    except ValueError as error:
        raise DataError(f"{file}: not a fold file; they are called fold_K.json with a number K") from error
