"""Is a SavedModel the one that was exported? Its version folder carries its own manifest, so that it can be copied to
a server alone.

The manifest finds damage and incomplete copies. It does not find malice, for who can change the model can change
the manifest; the list of operations in `busmt.trust` does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from busmt.data.images import file_hash, write_json
from busmt.errors import ExportError, RunError
from busmt.trust import check_graph

MANIFEST = "assets.extra/manifest.json"
GRAPH = "saved_model.pb"


def write_manifest(version: str | os.PathLike[str]) -> Path:
    """Write the sha256 of every file of a version folder into it; after this nothing in it may change."""
    folder = Path(version)
    path = folder / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_json(path, {"sha256": _checksums(folder)})
    return path


def check_version(version: str | os.PathLike[str]) -> None:
    """Refuse a version folder that is not as it was exported, or that could do more than a model needs.

    Raises:
        ExportError: no manifest, a file that differs, is missing or does not belong there, or an operation that is
            not accepted; it is named.
    """
    folder = Path(version)
    expected = _manifest(folder / MANIFEST)
    found = _checksums(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            kind = "is missing" if name not in found else "has changed" if name in expected else "does not belong there"
            raise ExportError(f"{folder}: {name} {kind}; the copy is damaged or incomplete: copy or export it again")
    try:
        check_graph(folder)
    except RunError as error:
        raise ExportError(str(error)) from error


def _manifest(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError as error:
        raise ExportError(f"{path}: missing; write the model again with: busmt export RUN --to DIR") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path}: damaged manifest; copy or export the model again") from error


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
