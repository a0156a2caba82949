"""From a configuration to a new run folder: read, verify, curate, split, record."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from busmt._version import __version__
from busmt.config import Config
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_busi, read_cohort
from busmt.data.curation import curate, default_cache_dir
from busmt.data.folds import make_folds, write_folds
from busmt.data.phantom import write_phantoms
from busmt.data.tables import write_table
from busmt.errors import ConfigError, RunError
from busmt.training.run import CATALOG, CHECKPOINTS, CONFIG, DECISIONS, ENVIRONMENT, FOLDS, LOGS, Run, draft_folder

Progress = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Progress]]

_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "opencv-python", "scikit-learn", "Pillow")


def prepare_run(config: Config, folder: str | os.PathLike, stage: Stage | None = None) -> Run:
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


def _fill(folder: Path, config: Config, stage: Stage) -> None:
    catalog = _read(config, folder, stage)
    with stage("Checking files") as progress:
        catalog.verify(progress)
    if config.curation.enabled:
        with stage("Curating") as progress:
            curation = curate(catalog, config.curation, cache_dir=_cache(config), progress=progress)
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
    Run(folder, config).write_json(ENVIRONMENT, _environment(config, catalog))


def _cache(config: Config) -> Path | None:
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


def _environment(config: Config, catalog: Catalog) -> dict[str, Any]:
    return {
        "busmt": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git_state(),
        "command": ["busmt", *sys.argv[1:]],
        "seed": config.training.seed,
        "deterministic": config.training.deterministic,
        "data": {"images": len(catalog), "classes": catalog.counts(), "fingerprint": catalog.fingerprint()},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_state() -> str | None:
    """Commit of the source tree that busmt runs from, with "-dirty" for local changes; None outside git."""
    source = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
