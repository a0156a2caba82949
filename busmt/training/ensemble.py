"""Finished runs put together into one run: the average of their answers, or of their weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busmt.config import Config
from busmt.data.catalog import Catalog
from busmt.data.folds import PARTS, write_folds
from busmt.data.images import file_hash
from busmt.data.pipeline import read_samples, steps_per_epoch, training_dataset
from busmt.errors import RunError
from busmt.model.ensemble import average, soup
from busmt.model.outputs import REFINEMENT_LAYER
from busmt.prediction import load_network
from busmt.training.environment import describe
from busmt.training.run import CALIBRATION, CATALOG, CONFIG, DECISIONS, ENVIRONMENT, FOLDS, MODEL, Run, draft_folder
from busmt.training.validation import ValidationSet, calibrate

_FITTED = ("mask_threshold", "temperature", "referral_threshold")
_NEUTRAL = {"mask_offset": 0.0, "temperature": 1.0}
"""What the fitted weights of the last layer are before they are fitted."""
_SAME = ("tasks", "refinement")
"""Settings of the network in which members must agree."""
_ONE_START = "weights can be averaged where networks set out from the same ones"


def make_ensemble(
    runs: Sequence[Run],
    folder: str | os.PathLike[str],
    *,
    mirror: bool = False,
    weights: bool = False,
    config: Config | None = None,
) -> Run:
    """Write a run folder with the average of finished runs on the same images.

    Threshold and temperature are fitted on the validation part where all members have the same one; otherwise they
    are the means of the members'.

    An image is in the part "train" if any member was trained on it, else in "validation" if it helped any member to
    choose, else in "test": members of one fold with several seeds keep its test part, and members of all folds have
    none, and are tested on other cohorts alone.

    Args:
        runs: two or more, or one with `mirror`.
        folder: the new run folder.
        mirror: average over each image and its mirror image as well.
        weights: average the weights instead of the answers; see `busmt.model.ensemble.soup`. The statistics of batch
            normalisation come from one epoch of the training images of all members, balanced and augmented as in
            training.
        config: what the new run's configuration is; None: that of the first run.

    Raises:
        RunError: the folder exists, there are fewer than two runs, one is not finished, or they differ in their
            images or in what their networks take and give; with `weights`, also in the network or in the seed or start
            that their weights set out from.
    """
    folder = Path(folder)
    if folder.exists():
        raise RunError(f"{folder}: exists already; choose another --name")
    if len(runs) < 2 and not mirror:
        raise RunError("an ensemble has at least two members; give two or more runs, or --mirror")
    if weights and mirror:
        raise RunError("mirror images are averaged with answers, not with weights: make two runs, one from the other")
    _require_alike(runs, weights)
    first, catalog = runs[0], runs[0].catalog()
    parts = _parts([run.folds() for run in runs])
    held = first.config.folds.fold if (parts["part"] == "test").any() else None
    config = (config or first.config).replace({"folds": {"fold": held}, "network": {"input_size": largest_input(runs)}})
    networks = [load_network(run.model_path) for run in runs]
    if weights:
        network = soup(networks, _inputs(catalog, parts, config))
    else:
        network = average(networks, config.network.refinement, mirror)
    chosen_on = [set(run.part(PARTS[1]).ids) for run in runs]
    one_part = all(names == chosen_on[0] for names in chosen_on)
    fitted = _fit(network, runs[0].part(PARTS[1]), config) if one_part else _means(runs)
    hours = [run.environment().get("cpu_seconds") for run in runs]
    record: dict[str, Any] = describe(config, catalog) | {
        "averaged": "weights" if weights else "answers, also of mirror images" if mirror else "answers",
        "ensemble": [
            {
                "run": run.name,
                "fold": run.config.folds.fold,
                "seed": run.config.training.seed,
                "order_seed": run.config.training.order_seed,
                "epochs": len(run.history()),
                "sha256": file_hash(run.model_path),
            }
            for run in runs
        ],
    }
    known = [value for value in hours if value is not None]
    if len(known) == len(runs):
        record["cpu_seconds"] = round(sum(known), 1)
    try:
        with draft_folder(folder.with_name(f".{folder.name}.{os.getpid()}.draft")) as draft:
            catalog.to_csv(draft / CATALOG)
            if (first.path / DECISIONS).exists():
                shutil.copyfile(first.path / DECISIONS, draft / DECISIONS)
            write_folds(parts, draft / FOLDS)
            config.to_yaml(draft / CONFIG)
            made = Run(draft, config)
            made.write_json(ENVIRONMENT, record)
            made.write_json(CALIBRATION, fitted)
            network.save(draft / MODEL)
            os.replace(draft, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error
    return Run.open(folder)


def largest_input(runs: Sequence[Run]) -> int:
    """The input size of an average of runs."""
    return max(run.config.network.input_size for run in runs)


def _inputs(catalog: Catalog, parts: pd.DataFrame, config: Config) -> Iterator[np.ndarray]:
    """One epoch of training batches, (B, S, S, 1), of all images that a member was trained on."""
    trained = catalog.select(parts["image_id"][parts["part"] == "train"])
    batches = training_dataset(trained, config).take(steps_per_epoch(trained, config))
    return (image for image, _ in batches.as_numpy_iterator())


def _require_alike(runs: Sequence[Run], weights: bool) -> None:
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
        if weights:
            _require_one_start(run, first)


def _require_one_start(run: Run, first: Run) -> None:
    here, there = (one.config.to_dict() for one in (run, first))
    for section, key in [*(("network", key) for key in here["network"]), ("training", "seed"), ("training", "start")]:
        if here[section][key] != there[section][key]:
            raise RunError(
                f"{run.path}: {section}.{key} is {here[section][key]!r}, and {there[section][key]!r} in {first.path}; "
                + _ONE_START
            )
    if run.start_sha256() != first.start_sha256():
        raise RunError(f"{run.path}: was started from other weights than {first.path}; {_ONE_START}")


def _parts(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The folds table of the first run, with the part that each image has for all members together."""
    together = tables[0].copy()
    own = np.stack([table.set_index("image_id").loc[together["image_id"], "part"].to_numpy(str) for table in tables])
    order = list(PARTS[:2])  # train before validation
    together["part"] = np.select([(own == part).any(axis=0) for part in order], order, PARTS[2])
    return together


def _fit(network: Any, images: Catalog, config: Config) -> dict[str, Any]:
    """Fit threshold and temperature on validation images, as after a training."""
    for weight in network.get_layer(REFINEMENT_LAYER).weights:
        if weight.name in _NEUTRAL:
            weight.assign(_NEUTRAL[weight.name])
    samples = read_samples(images, config.network.input_size)
    validation = ValidationSet(*samples, images.labels, config.training.batch_size)
    return calibrate(network, validation)


def _means(runs: Sequence[Run]) -> dict[str, Any]:
    """What the members fitted on their validation parts, averaged; None where one of them has none."""
    members = [run.calibration() for run in runs]
    facts: dict[str, Any] = {"fitted_on": "validation parts of the members, averaged"}
    for key in _FITTED:
        if key in members[0]:
            values = [member[key] for member in members if member.get(key) is not None]
            facts[key] = float(np.mean(values)) if len(values) == len(members) else None
    return facts
