"""Checkpoints: every variable and the bookkeeping of a run in one npz file, without pickle.

The CRC of every zip member is verified before anything is read, so that a damaged file is noticed; files are
written under a temporary name and renamed.
"""

from __future__ import annotations

import io
import json
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from busmt.data.images import write_atomically
from busmt.errors import RunError

_META = "meta"
_DAMAGE = (
    OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, ArithmeticError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
"""What reading a damaged zip is known to raise."""


def write_checkpoint(path: Path, variables: dict[str, list[Any]], meta: dict[str, Any]) -> None:
    """Write groups of Keras variables, in order, and JSON bookkeeping; atomic."""
    arrays = {
        f"{group}/{index:04d}": np.asarray(variable)
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue(), durable=True)


def read_checkpoint(path: Path, variables: dict[str, list[Any]]) -> dict[str, Any]:
    """Assign the stored values to the variables and return the bookkeeping.

    Nothing is assigned unless all of the file is sound and fits.

    Raises:
        RunError: the file is missing, damaged, or of another network.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        meta = json.loads(arrays.pop(_META).tobytes())
    except _DAMAGE as error:
        raise RunError(f"{path}: damaged or unreadable checkpoint ({error})") from error
    targets = {
        f"{group}/{index:04d}": variable
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    if {name: array.shape for name, array in arrays.items()} != {
        name: tuple(variable.shape) for name, variable in targets.items()
    }:
        raise RunError(f"{path}: checkpoint of another network or optimiser")
    for name, variable in targets.items():
        variable.assign(arrays[name])
    return meta
