"""What commands share: JSON on stdout, messages and progress on stderr."""

from __future__ import annotations

import json
import os
import reprlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from busmt.errors import ConfigError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def say(text: str) -> None:
    """A message of one line for people, on stderr."""
    click.echo(one_line(text), err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinity become null."""
    from busmt.data.images import plain

    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # a file's name may hold bytes that are no text; JSON has an escape for them, UTF-8 has none
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def one_line(text: str) -> str:
    """Text from outside, fit for a terminal or log: one line, nothing in it but visible characters.

    File names may hold line ends, terminal commands and bytes that are no text; they are shown as escapes.

    >>> one_line("a\\n\\x1b[2Jb.png")
    'a \\\\x1b[2Jb.png'
    """
    joined = " ".join(text.split())
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in joined)


def require_plain_name(name: str, place: str, what: str = "name") -> None:
    """Refuse a --name that would lead out of its folder; `place` is the option that names the folder.

    Raises:
        ConfigError: the name holds a separator, or is none.
    """
    if Path(name).name != name:
        raise ConfigError(f"--name {name}: must be a plain {what}; use {place} DIR for its place")


BACKENDS: tuple[str, ...] = ("tensorflow", "jax", "torch")
"""What Keras can compute with here, as KERAS_BACKEND names it."""


def quiet_start() -> None:
    """Import TensorFlow without its start-up messages, which no log level silences.

    What it wrote is shown where the import fails.

    Raises:
        ConfigError: KERAS_BACKEND names none that can be used.
    """
    backend = os.environ.get("KERAS_BACKEND", BACKENDS[0])
    if backend not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND: must be one of {', '.join(BACKENDS)}, got {reprlib.repr(backend)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
        except BaseException:
            swallowed.seek(0)
            os.write(own, swallowed.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)


@contextmanager
def progress(text: str, unit: str = "items") -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with the time that is left, on stderr; call it with (done, total). Unit: items or bytes."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )  # fmt: skip

    counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
