"""Finished runs put together into one run whose network averages theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busmt.data.folds import PARTS, write_folds
from busmt.data.images import file_hash
from busmt.errors import RunError
from busmt.model.ensemble import average
from busmt.prediction import load_network
from busmt.training.environment import describe
from busmt.training.run import CALIBRATION, CATALOG, CONFIG, DECISIONS, ENVIRONMENT, FOLDS, MODEL, Run, draft_folder

_FITTED = ("mask_threshold", "temperature", "referral_threshold")
_SAME = ("input_size", "tasks", "refinement")
"""Settings of the network in which members must agree."""


def make_ensemble(runs: Sequence[Run], folder: str | os.PathLike[str], mirror: bool = False) -> Run:
    """Write a run folder with the average of finished runs on the same images.

    An image is in the part "train" if any member was trained on it, else in "validation" if it helped any member to
    choose, else in "test": members of one fold with several seeds keep its test part, and members of all folds have
    none, and are tested on other cohorts alone.

    Args:
        runs: two or more, or one with `mirror`.
        folder: the new run folder.
        mirror: average over each image and its mirror image as well.

    Raises:
        RunError: the folder exists, there are fewer than two runs, one is not finished, or they differ in their
            images or in what their networks take and give.
    """
    folder = Path(folder)
    if folder.exists():
        raise RunError(f"{folder}: exists already; choose another --name")
    if len(runs) < 2 and not mirror:
        raise RunError("an ensemble has at least two members; give two or more runs, or --mirror")
    _require_alike(runs)
    first, catalog = runs[0], runs[0].catalog()
    parts = _parts([run.folds() for run in runs])
    held = first.config.folds.fold if (parts["part"] == "test").any() else None
    config = first.config.replace({"folds": {"fold": held}})
    network = average([load_network(run.model_path) for run in runs], config.network.refinement, mirror)
    hours = [run.environment().get("cpu_seconds") for run in runs]
    record: dict[str, Any] = describe(config, catalog) | {
        "mirror": mirror,
        "ensemble": [
            {
                "run": run.name,
                "fold": run.config.folds.fold,
                "seed": run.config.training.seed,
                "sha256": file_hash(run.model_path),
            }
            for run in runs
        ],
    }
    if None not in hours:
        record["cpu_seconds"] = round(sum(hours), 1)
    try:
        with draft_folder(folder.with_name(f".{folder.name}.{os.getpid()}.draft")) as draft:
            for name in (CATALOG, DECISIONS):
                if (first.path / name).exists():
                    shutil.copyfile(first.path / name, draft / name)
            write_folds(parts, draft / FOLDS)
            config.to_yaml(draft / CONFIG)
            made = Run(draft, config)
            made.write_json(ENVIRONMENT, record)
            made.write_json(CALIBRATION, _calibration(runs))
            network.save(draft / MODEL)
            os.replace(draft, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error
    return Run.open(folder)


def _require_alike(runs: Sequence[Run]) -> None:
    first = runs[0]
    data = [run.environment().get("data", {}).get("fingerprint") for run in runs]
    for run, fingerprint in zip(runs, data, strict=True):
        _ = run.model_path  # raises where the run is not finished
        if fingerprint != data[0]:
            raise RunError(f"{run.path}: was trained on other images than {first.path}")
        for key in _SAME:
            own, other = getattr(run.config.network, key), getattr(first.config.network, key)
            if own != other:
                raise RunError(f"{run.path}: network.{key} is {own!r}, and {other!r} in {first.path}")


def _parts(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The folds table of the first run, with the part that each image has for all members together."""
    together = tables[0].copy()
    own = np.stack([table.set_index("image_id").loc[together["image_id"], "part"].to_numpy(str) for table in tables])
    order = list(PARTS[:2])  # train before validation
    together["part"] = np.select([(own == part).any(axis=0) for part in order], order, PARTS[2])
    return together


def _calibration(runs: Sequence[Run]) -> dict[str, Any]:
    """What the members fitted on their validation parts, averaged; None where one of them has none."""
    members = [run.calibration() for run in runs]
    facts: dict[str, Any] = {"fitted_on": "validation parts of the members, averaged"}
    for key in _FITTED:
        if key in members[0]:
            values = [member.get(key) for member in members]
            facts[key] = None if None in values else float(np.mean(values))
    return facts
