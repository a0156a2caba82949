"""Unpack a zip archive that is not trusted."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from busmt.errors import DataError

MAX_FILES = 20_000
MAX_BYTES = 4 << 30
MAX_RATIO = 200
"""Largest ratio of unpacked to packed size, over the archive; images compress by far less."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SKIPPED = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


def unpack(archive: Path, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Unpack the regular files of a zip archive. Every entry is checked before the first is written.

    Args:
        archive: zip file.
        folder: new folder, made here.
        progress: called with (files done, files in all).

    Raises:
        DataError: not a zip archive, damaged, encrypted, packed by another method than deflate, an entry that is
            a link or special file, leads out of the folder or occurs twice, or more content than is plausible or fits
            on the disk.
        OSError: the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = _checked(packed, archive)
            needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(archive.parent).free
            if needed > free:
                raise DataError(f"{archive}: unpacked it takes {needed} bytes, {free} are free")
            for done, entry in enumerate(entries, start=1):
                target = folder / PurePosixPath(entry.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, open(target, "xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if progress:
                    progress(done, len(entries))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise DataError(f"{archive}: not a sound zip archive ({error})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # the archive's numbers lead to before its beginning
        raise DataError(f"{archive}: not a sound zip archive (wrong offset)") from error


def _checked(packed: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    # `ZipInfo.is_dir` fails at an empty name
    entries = [
        entry for entry in packed.infolist() if not entry.filename.endswith("/") and not _is_litter(entry.filename)
    ]
    if len(entries) > MAX_FILES:
        raise DataError(f"{archive}: holds {len(entries)} files, more than the {MAX_FILES} that are allowed")
    size = sum(entry.file_size for entry in entries)
    if size > MAX_BYTES or size > MAX_RATIO * max(archive.stat().st_size, 1):
        raise DataError(f"{archive}: claims to unpack to {size} bytes; taken for a decompression bomb")
    seen: set[PurePosixPath] = set()
    folders = {parent for entry in entries for parent in _place(entry).parents}
    for entry in entries:
        fault = _fault(entry)
        if not fault and (_place(entry) in seen or _place(entry) in folders):
            fault = "occurs twice"
        if fault:
            raise DataError(f"{archive}: the entry {entry.filename!r} {fault}; nothing was unpacked")
        seen.add(_place(entry))
    return entries


def _place(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where it would lie, on a file system that takes no note of case."""
    return PurePosixPath(entry.filename.casefold())


def _fault(entry: zipfile.ZipInfo) -> str | None:
    # zipfile cuts names at a null byte and, on Windows, turns separators: the name as stored is what is judged
    name = entry.orig_filename
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(letter in name for letter in "\\:\0"):
        return "leads out of the folder"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is not a regular file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return "is packed by another method than deflate"
    return None


def _is_litter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and (parts[0] in _SKIPPED or parts[-1] in _SKIPPED)
