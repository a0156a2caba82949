"""From a configuration to a new run folder: read, verify, curate, split, record."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from busmt.config import PATH_SETTINGS, Config
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_busi, read_cohort
from busmt.data.curation import curate, default_cache_dir
from busmt.data.curation.names import built_in_lists
from busmt.data.folds import make_folds, write_folds
from busmt.data.phantom import write_phantoms
from busmt.data.tables import write_table
from busmt.errors import ConfigError, RunError
from busmt.training.environment import describe
from busmt.training.run import CATALOG, CHECKPOINTS, CONFIG, DECISIONS, ENVIRONMENT, FOLDS, LOGS, Run, draft_folder

Progress = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Progress]]


def prepare_run(config: Config, folder: str | os.PathLike[str], stage: Stage | None = None) -> Run:
    """Read and check the data and make the run folder; nothing is left behind if that fails.

    Args:
        config: the whole configuration.
        folder: the new run folder.
        stage: opens a progress display by its title; called with (done, total).

    Raises:
        RunError: the folder exists.
        DataError, ConfigError: the data or the split cannot be used.
    """
    folder = Path(folder)
    if config.training.members > 1:
        raise ConfigError("training.members: several trainings for one network belong to `busmt crossval`")
    stage = stage or (lambda _: nullcontext(lambda done, total: None))
    if folder.exists():
        raise RunError(f"{folder}: exists already; choose another --name, or continue it with --resume {folder}")
    try:
        with draft_folder(folder.with_name(f".{folder.name}.{os.getpid()}.draft")) as draft:
            _fill(draft, config, stage)
            os.replace(draft, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error
    return Run.open(folder)


def open_or_prepare(config: Config, folder: str | os.PathLike[str], stage: Stage | None = None) -> Run:
    """The run of this configuration in a folder: the one that is there, or a new one.

    Args:
        config: the whole configuration.
        folder: the run folder; made where it does not exist.
        stage: as for `prepare_run`.

    Raises:
        RunError: the folder holds no run, or one of another configuration.
        DataError, ConfigError: the data or the split cannot be used.
    """
    if not Path(folder).exists():
        return prepare_run(config, folder, stage)
    run = Run.open(folder)
    there, here = (absolute_paths(which).to_dict() for which in (run.config, config))  # as a run folder keeps them
    for section, values in here.items():
        for key, value in values.items():
            if there[section][key] != value:
                raise RunError(
                    f"{folder}: holds a run of another configuration ({section}.{key} is {there[section][key]!r} "
                    f"there, {value!r} here); choose another name, or delete the folder"
                )
    return run


def _fill(folder: Path, config: Config, stage: Stage) -> None:
    config = absolute_paths(config)
    catalog = _read(config, folder, stage)
    with stage("Checking files") as progress:
        catalog.verify(progress)
    if config.curation.enabled:
        with stage("Curating") as progress:
            curation = curate(catalog, config.curation, cache_dir=fingerprint_cache(config), progress=progress)
        catalog = curation.catalog
        write_table(folder / DECISIONS, curation.decisions)
    if len(catalog.classes) < 2:
        raise ConfigError(f"training needs at least two classes; the catalog holds only {catalog.classes[0]}")
    folds = make_folds(catalog, config.folds)
    catalog.to_csv(folder / CATALOG)
    write_folds(folds, folder / FOLDS)
    config.to_yaml(folder / CONFIG)
    (folder / CHECKPOINTS).mkdir()
    (folder / LOGS).mkdir()
    Run(folder, config).write_json(ENVIRONMENT, describe(config, catalog))


def absolute_paths(config: Config) -> Config:
    """Paths that mean the same wherever the run is continued or repeated from."""
    changes: dict[str, dict[str, str]] = {}
    for section, key in PATH_SETTINGS:
        value = getattr(getattr(config, section), key)
        if not value or value in built_in_lists():
            continue
        if Path(config.in_fold(value)).exists():  # {fold} itself stays: one setting for all folds
            changes[section] = {key: os.path.abspath(value)}
    return config.replace(changes)


def fingerprint_cache(config: Config) -> Path | None:
    """Fingerprints of real cohorts are worth keeping between runs, where the user's cache can be written."""
    if not config.data.path:
        return None
    folder = default_cache_dir()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _read(config: Config, folder: Path, stage: Stage) -> Catalog:
    if config.data.path:
        return read_cohort(config.data.path, config.data.cohort)
    with stage("Making phantoms") as progress:
        write_phantoms(
            folder / "data", per_class=config.data.phantoms_per_class, seed=config.data.phantom_seed, progress=progress
        )
    return read_busi(folder / "data")
