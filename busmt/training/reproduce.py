"""Train a run once more from its own record, and say whether the result is the same, bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from busmt.config import Config
from busmt.data.folds import write_folds
from busmt.data.tables import read_table
from busmt.errors import RunError
from busmt.prediction import load_network
from busmt.training.environment import describe, differences
from busmt.training.loop import Reporter, train
from busmt.training.run import (
    CALIBRATION,
    CATALOG,
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    FOLDS,
    HISTORY,
    LOGS,
    Run,
    draft_folder,
)  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """How a run and its repetition compare.

    Attributes:
        run, again: the two run folders.
        differences: where they differ, in the order in which a training makes them; empty if they match.
        environment: how versions, machine and threads differ from the record.
        promised: whether the run was trained in deterministic mode.
    """

    run: Path
    again: Path
    differences: list[dict[str, Any]]
    environment: list[str]
    promised: bool

    @property
    def matches(self) -> bool:
        """Whether history, calibration and every weight are the same, bit for bit."""
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": str(self.run),
            "again": str(self.again),
            "matches": self.matches,
            "first_difference": self.differences[0] if self.differences else None,
            "differences": self.differences,
            "environment": self.environment,
            "deterministic": self.promised,
        }


def reproduce(run: Run, folder: str | os.PathLike[str], reporter: Reporter | None = None) -> Reproduction:
    """Train a finished run again, from its configuration, its images, its folds and its start.

    Args:
        run: the run; not changed.
        folder: for the repetition; must not exist. It is a run folder like any other.
        reporter: is told of the training.

    Raises:
        RunError: the run has not finished, the folder exists, or images, masks or start are no longer those of
            the run.
    """
    if not run.finished:
        raise RunError(f"{run.path}: only a finished run can be reproduced; finish it with --resume {run.path}")
    if "ensemble" in run.environment():
        raise RunError(f"{run.path}: an average of other runs; reproduce those, and average them again")
    again = _prepare(run, Path(folder))
    train(again, reporter)
    return Reproduction(
        run.path,
        again.path,
        list(compare_runs(run, again)),
        differences(run.environment(), again.environment()),
        run.config.training.deterministic,
    )


def compare_runs(one: Run, other: Run) -> Iterator[dict[str, Any]]:
    """Where two finished runs differ, bit by bit: start, history, calibration, weights."""
    starts = [run.start_sha256() for run in (one, other)]
    if starts[0] != starts[1]:
        yield {"where": "start", "recorded": starts[0], "now": starts[1]}
    yield from _history(one, other)
    yield from _values("calibration", one.calibration(), other.calibration())
    yield from _weights(one, other)


def describe_difference(difference: dict[str, Any]) -> str:
    """One line for people."""
    place = {
        "history": "history.csv, epoch {epoch}, column {column}",
        "weights": "model.keras, layer {layer}, weight {weight}: {unequal} of {values} values",
    }.get(difference["where"], "{where}")
    if "key" in difference:
        place = f"{CALIBRATION}, {{key}}"
    text = place.format(**difference)
    if difference["where"] == "weights":
        return f"{text}, the largest difference is {difference['largest']:.3g}"
    return f"{text}: {difference['recorded']}, now {difference['now']}"


def _prepare(run: Run, folder: Path) -> Run:
    if folder.exists():
        raise RunError(f"{folder}: exists already; name another folder with --to")
    catalog = run.catalog()
    now = describe(run.config, catalog)
    known = run.environment().get("data", {}).get("fingerprint")
    if known not in (None, now["data"]["fingerprint"]):
        raise RunError(f"{run.path}: its images, masks or classes have changed since it was trained")
    try:
        with draft_folder(folder.with_name(f".{folder.name}.{os.getpid()}.draft")) as draft:
            catalog.to_csv(draft / CATALOG)
            write_folds(run.folds(), draft / FOLDS)
            Config.from_yaml(run.path / CONFIG).to_yaml(draft / CONFIG)
            (draft / CHECKPOINTS).mkdir()
            (draft / LOGS).mkdir()
            # sums are cut into as many parts as an operation has threads: as many as the run had
            threads = run.environment().get("threads", {})
            record = now | {"reproduces": str(run.path.resolve()), "threads": threads}
            Run(draft, run.config).write_json(ENVIRONMENT, record)
            os.replace(draft, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error
    return Run.open(folder)


def _history(one: Run, other: Run) -> Iterator[dict[str, Any]]:
    """Text is compared: it holds every bit of a number, which pandas' quick reading does not.

    A column that one of the two lacks was not yet written by its version; the weights tell whether they agree.
    """
    tables = [read_table(run.path / HISTORY, dtype=str, keep_default_na=False) for run in (one, other)]
    rows = [table.to_dict("records") for table in tables]
    for first, second in zip(*rows, strict=False):
        for column in (name for name in first if name in second):
            if first[column] != second[column]:
                yield {
                    "where": "history",
                    "epoch": int(first["epoch"]) + 1,
                    "column": column,
                    "recorded": first[column],
                    "now": second[column],
                }
    if len(rows[0]) != len(rows[1]):
        yield {"where": "number of epochs", "recorded": len(rows[0]), "now": len(rows[1])}


def _values(key: str, one: Any, other: Any) -> Iterator[dict[str, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            yield from _values(f"{key}.{name}", one.get(name), other.get(name))
    elif json.dumps(one) != json.dumps(other):
        yield {"where": "calibration", "key": key.partition(".")[2], "recorded": one, "now": other}


def _weights(one: Run, other: Run) -> Iterator[dict[str, Any]]:
    layers = [{layer.name: layer.weights for layer in load_network(run.model_path).layers} for run in (one, other)]
    for name in dict.fromkeys([*layers[0], *layers[1]]):
        first, second = (found.get(name, []) for found in layers)
        if [tuple(weight.shape) for weight in first] != [tuple(weight.shape) for weight in second]:
            yield {"where": f"layers of the network: {name}", "recorded": len(first), "now": len(second)}
            continue
        for weight, twin in zip(first, second, strict=True):
            values, twins = np.asarray(weight), np.asarray(twin)
            unequal = values != twins
            if unequal.any():
                yield {
                    "where": "weights",
                    "layer": name,
                    "weight": weight.path,
                    "unequal": int(unequal.sum()),
                    "values": int(unequal.size),
                    "largest": float(np.abs(values.astype(np.float64) - twins.astype(np.float64)).max()),
                }
