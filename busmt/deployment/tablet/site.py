"""Write the tablet app: the built copy, a model, its card, and a service worker that knows every file."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from busmt.errors import ExportError

MODEL, CARD, WORKER = "model.tflite", "model.json", "sw.js"


def write_site(folder: Path, model: bytes, card: Mapping[str, Any]) -> Path:
    """Write a static web app that runs a model in the browser, offline after the first visit.

    Args:
        folder: made; must not exist.
        model: a .tflite file with float input and outputs `mask`, `label` and, for the attention map, `attention`.
        card: as in the sidecar of an export; `model_sha256` is added.

    Raises:
        ExportError: the built copy is missing from the installation.
    """
    folder.mkdir(parents=True)
    built = resources.files(__package__) / "app"
    if not built.is_dir():
        raise ExportError("the tablet app is missing from this installation of busmt; install it again from a wheel")
    _copy(built, folder)
    (folder / MODEL).write_bytes(model)
    described = {**card, "model_sha256": hashlib.sha256(model).hexdigest()}
    (folder / CARD).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    _complete_worker(folder)
    return folder


def _copy(source: Any, target: Path) -> None:
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir()
            _copy(entry, target / entry.name)
        elif entry.name.endswith(".gz"):  # packed to a third for the Python package; browsers want it plain
            (target / entry.name.removesuffix(".gz")).write_bytes(gzip.decompress(entry.read_bytes()))
        else:
            (target / entry.name).write_bytes(entry.read_bytes())


def _complete_worker(folder: Path) -> None:
    """Name every file, and a version that changes with any of them, in the service worker."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WORKER)
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    names = ["./", *(path.relative_to(folder).as_posix() for path in files)]
    text = (folder / WORKER).read_text(encoding="utf-8")
    text = text.replace("__VERSION__", digest[:16]).replace("__FILES__", json.dumps(names))
    (folder / WORKER).write_text(text, encoding="utf-8")
