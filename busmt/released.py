"""Where the released model lies: installed with the package, or in the checkout. Nothing is fetched."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from busmt.errors import RunError

FOLDER, MODEL = "released", "model-float16.tflite"
"""Folder of the released model in `exports/` and in `share/busmt/`, and the file in it that is used."""


def released_model() -> Path:
    """The file of the released model, a .tflite with `model.json` beside it.

    Raises:
        RunError: it is not there.
    """
    for candidate in (*_installed(), Path(__file__).resolve().parent.parent / "exports" / FOLDER / MODEL):
        if candidate.is_file():
            return candidate
    raise RunError("no released model is installed; name one with --model PATH")


def _installed() -> list[Path]:
    """Where pip put the file, which depends on how it was called."""
    try:
        files = metadata.files("busmt") or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files if file.parts[-3:] == ("busmt", FOLDER, MODEL)]
