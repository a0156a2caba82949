"""`busmt benchmark ablation`: our system and the same without one of its parts, on the same test images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from busmt.config import OURS, Config
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import curate
from busmt.data.folds import make_folds, write_folds
from busmt.data.phantom import write_phantoms
from busmt.data.pipeline import steps_per_epoch
from busmt.deployment.accuracy import benchmark_accuracy
from busmt.errors import ConfigError
from busmt.training.prepare import fingerprint_cache

FOLDS_FILE = "folds.csv"
EVERYTHING: dict[str, Any] = {
    "duplicates": "all", "contradictions": "keep", "unusable": "keep", "drop_flags": None, "curated": None,
}  # fmt: skip
"""Settings of the curation that remove nothing: what shows one lesion is known to be one group, and stays."""
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "no-attention": {"network": {"attention": False}},
    "hard-rules": {"network": {"refinement": "rules"}},
    "no-refinement": {"network": {"refinement": "none"}},
    "no-repetition": {"balance": {"enabled": False}},
    "mask-alone": {"network": {"tasks": "mask"}},
    "class-alone": {"network": {"tasks": "label"}},
    "no-curation": {"curation": EVERYTHING},
    "no-imagenet": {"network": {"pretrained": False}},
    "cohort-pretraining": {"training": {"start": None}},
}
"""What each row changes in our configuration, and nothing else."""
START = "cohort-pretraining"
"""The row that starts from a network of another cohort; there where one is given."""


def ablation_configs(ours: Config, parts: Sequence[str] = (), start: str | None = None) -> dict[str, Config]:
    """Our configuration and its changes, by name.

    Args:
        ours: the configuration that the parts are taken from.
        parts: names of `PARTS`; none: all that can be made.
        start: a finished run on another cohort, for the row that starts from it.

    Raises:
        ConfigError: no such part, one that our configuration does not have, or the pretraining without a run.
    """
    missing = {}
    if start is None:
        missing[START] = "needs a finished run on another cohort to start from; name it with --start"
    if not ours.curation.enabled:
        missing["no-curation"] = "the configuration does not curate"
    if ours.network.encoder == "unet":
        missing["no-imagenet"] = "the plain U-Net encoder has no ImageNet weights"
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"--part {part}: not one of {', '.join(PARTS)}")
        if part in missing:
            raise ConfigError(f"{part}: {missing[part]}")
    configs = {OURS: ours}
    for part in parts or [name for name in PARTS if name not in missing]:
        configs[part] = ours.replace({"training": {"start": start}} if part == START else PARTS[part])
    return configs


def ablate(
    ours: Config,
    name: str,
    run_one: Any = None,
    *,
    parts: Sequence[str] = (),
    start: str | None = None,
    seeds: Sequence[int] = (0, 1),
    only: Sequence[int] = (0, 1),
    results: str | os.PathLike[str] = "results",
    runs: str | os.PathLike[str] = "runs",
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> dict[str, Any]:
    """Train and test our configuration and each of its changes, and write the table of `benchmark_accuracy`.

    All rows have the same folds: of everything, duplicates and contradictions too, in whole groups
    (RESULTS/NAME/folds.csv). So the row without curation trains on more images than the others, with none that shows
    a lesion of its test images, and all are compared on the images that the curation keeps. Rows whose epochs are
    longer or shorter, because of more images or of no repetition, have so many epochs that they take as many steps.

    Args:
        ours: the configuration that the parts are taken from; `folds.file` is set here where it has none.
        name: of the table.
        run_one: as for `busmt.training.crossval.cross_validate`.
        parts, start: as for `ablation_configs`.
        seeds: training seeds, put together as in `benchmark_accuracy`.
        only: folds to compute.
        results, runs: parent folders.
        say: called with a line of text at each stage.
        options: `rounds` and `resamples` of `benchmark_accuracy`.

    Raises:
        ConfigError: as `ablation_configs`.
        DataError, RunError: the data or the split cannot be used, or a fold fails.
    """
    configs = ablation_configs(ours, parts, start)
    shared = _shared_protocol(ours, Path(results) / name / FOLDS_FILE, Path(runs) / name, say)
    return benchmark_accuracy(
        as_many_steps({part: config.replace(shared) for part, config in configs.items()}),
        name,
        run_one,
        seeds=seeds,
        only=only,
        common=True,
        results=results,
        runs=runs,
        say=say,
        **options,
    )


def _shared_protocol(ours: Config, file: Path, runs: Path, say: Callable[[str], None]) -> Mapping[str, Any]:
    """The data and folds that all rows have: folds of everything, made once."""
    path = ours.data.path
    if path is None:
        path = str(runs / "phantoms")
        if not Path(path).exists():
            write_phantoms(path, per_class=ours.data.phantoms_per_class, seed=ours.data.phantom_seed)
    if not ours.folds.file and not file.exists():
        say(f"folds of everything, in whole groups: {file}")
        catalog = _catalog(ours.replace({"data": {"path": path}, "curation": EVERYTHING}))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_folds(make_folds(catalog, ours.replace({"folds": {"fold": None}}).folds), file)
    return {"data": {"path": path}, "folds": {"file": ours.folds.file or str(file)}}


def as_many_steps(configs: Mapping[str, Config]) -> dict[str, Config]:
    """The same rows, with epochs (and patience) of those with longer or shorter ones changed to the steps of ours."""
    ours, changed = configs[OURS], dict(configs)
    others = [part for part, row in configs.items() if (row.curation, row.balance) != (ours.curation, ours.balance)]
    steps = {part: steps_per_epoch(_catalog(configs[part]), configs[part]) for part in (OURS, *others) if others}
    for part in others:
        config, ratio = configs[part], steps[OURS] / steps[part]
        epochs, patience = (max(1, round(ratio * n)) for n in (ours.training.epochs, ours.training.patience))
        changed[part] = config.replace({"training": {"epochs": epochs, "patience": patience}})
    return changed


def _catalog(config: Config) -> Catalog:
    """All images of a configuration, as it curates them."""
    assert config.data.path is not None
    catalog = read_cohort(config.data.path, config.data.cohort)
    if not config.curation.enabled:
        return catalog
    return curate(catalog, config.curation, cache_dir=fingerprint_cache(config)).catalog
