"""Train, or take up what is there: what a script or a notebook can call again and again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from busmt.config import Config
from busmt.errors import RunError
from busmt.training.prepare import Stage, prepare_run
from busmt.training.run import Run

if TYPE_CHECKING:
    from busmt.training.loop import Reporter


def train_or_resume(
    config: Config, folder: str | os.PathLike, *, stage: Stage | None = None, reporter: Reporter | None = None
) -> Run:
    """A finished run of this configuration: trained anew, continued, or found as it is.

    Args:
        config: the whole configuration.
        folder: the run folder; made where it does not exist.
        stage: opens a progress display for reading and curating; see `busmt.training.prepare.prepare_run`.
        reporter: is told about every step and epoch.

    Raises:
        RunError: the folder holds a run of another configuration, or training fails.
        DataError, ConfigError: the data or the split cannot be used.
    """
    if Path(folder).exists():
        run = Run.open(folder)
        if run.config != config:
            raise RunError(f"{folder}: holds a run of another configuration ({_first_difference(run.config, config)})")
    else:
        run = prepare_run(config, folder, stage)
    if not run.finished:
        from busmt.training.loop import train

        train(run, reporter)
    return run


def _first_difference(found: Config, asked: Config) -> str:
    there, here = found.to_dict(), asked.to_dict()
    for section, values in here.items():
        for key, value in values.items():
            if there[section][key] != value:
                return f"{section}.{key} is {there[section][key]!r} there, {value!r} here"
    raise AssertionError("equal configurations")
