"""The run folder: the single source of truth about a training.

What it holds::

    config.yaml       every setting            checkpoints/   state after each epoch, best weights
    catalog.csv       the curated images       model.keras    the finished network
    decisions.csv     what curation did        metrics.json   scores of the test part
    folds.csv         who trains, who tests    history.csv    one row per epoch
    environment.json  versions, threads, data  logs/          TensorBoard
    calibration.json  what was fitted on the validation part
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from busmt.config import Config
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_csv
from busmt.data.folds import PARTS, read_folds
from busmt.data.images import write_json
from busmt.data.tables import read_table
from busmt.errors import RunError

CONFIG, CATALOG, FOLDS, HISTORY = "config.yaml", "catalog.csv", "folds.csv", "history.csv"
ENVIRONMENT, CALIBRATION, DECISIONS = "environment.json", "calibration.json", "decisions.csv"
MODEL, CHECKPOINTS, LOGS = "model.keras", "checkpoints", "logs"


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A new folder to work in; it goes at the end, with those of its parents that it was first to need.

    Raises:
        OSError: it cannot be made.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it holds the finished work
                parent.rmdir()


class Run:
    """A run folder. Open an existing one with `Run.open`; `busmt.training.prepare` makes new ones.

    Attributes:
        path: the folder.
        config: the run's configuration.
    """

    def __init__(self, path: Path, config: Config):
        self.path, self.config = path, config

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open a run folder.

        Raises:
            RunError: no such folder, or it holds no run.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise RunError(f"{folder}: no such run folder; `busmt train --name NAME` makes runs/NAME")
        missing = [name for name in (CONFIG, CATALOG, FOLDS) if not (folder / name).exists()]
        if missing:
            raise RunError(f"{folder}: not a run folder ({missing[0]} is missing)")
        return cls(folder, Config.from_yaml(folder / CONFIG))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run; the lock goes with the process, however that ends.

        Raises:
            RunError: another process is training it.
        """
        from filelock import FileLock, Timeout

        (self.path / LOGS).mkdir(exist_ok=True)
        lock = FileLock(self.path / LOGS / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(
                f"{self.path}: another process is training this run; wait for it, or end it first"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def finished(self) -> bool:
        """Whether training has ended and the final network is there."""
        return (self.path / MODEL).exists()

    @property
    def model_path(self) -> Path:
        """The finished network.

        Raises:
            RunError: training has not ended.
        """
        if not self.finished:
            raise RunError(
                f"{self.path}: training has not finished; continue it with: busmt train --resume {self.path}"
            )
        return self.path / MODEL

    def catalog(self) -> Catalog:
        """The curated images of the run. Raises DataError where files have moved."""
        return read_csv(self.path / CATALOG)

    def folds(self) -> pd.DataFrame:
        """image_id, group, label, fold, part; see `busmt.data.folds`."""
        return read_folds(self.path / FOLDS)

    def part(self, name: str) -> Catalog:
        """The images of one part: "train", "validation" or "test"."""
        if name not in PARTS:
            raise RunError(f"unknown part {name!r}; choose one of {', '.join(PARTS)}")
        folds = self.folds()
        names = folds["image_id"][folds["part"] == name]
        if names.empty:
            raise RunError(f"{self.path}: no image is in the part {name} (the run was trained with --no-test?)")
        return self.catalog().select(names)

    def history(self) -> pd.DataFrame:
        """One row per finished epoch; empty before the first."""
        path = self.path / HISTORY
        return read_table(path) if path.exists() else pd.DataFrame()

    def environment(self) -> dict[str, Any]:
        """Versions, threads, seed and data fingerprint of the training."""
        return self._read_json(ENVIRONMENT)

    def start_sha256(self) -> str | None:
        """sha256 of the network whose weights the training was started from; None where there was none."""
        sha256: str | None = self.environment().get("start", {}).get("sha256")
        return sha256

    def calibration(self) -> dict[str, Any]:
        """Mask threshold, temperature and referral threshold, fitted on validation; empty before the end."""
        return self._read_json(CALIBRATION)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, atomically."""
        write_json(self.path / name, value)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise RunError(f"{path}: damaged JSON file") from error
