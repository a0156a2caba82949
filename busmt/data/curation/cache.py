"""A cache of fingerprints and pairs in one SQLite file, so that a second run takes seconds."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from busmt.errors import DataError

_FILE = "curation.sqlite"
_CHUNK = 500


def default_cache_dir() -> Path:
    """The user's cache folder: BUSMT_CACHE, else what the operating system uses."""
    if "BUSMT_CACHE" in os.environ:
        return Path(os.environ["BUSMT_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "busmt"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "busmt" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busmt"


class Cache:
    """Text keys to JSON values (bytes allowed) in `folder`/curation.sqlite; several processes may share it.

    Raises:
        DataError: the folder or file cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = Path(folder) / _FILE
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60)
            self._connection.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT)")
            self._connection.commit()
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{self.path}: not usable as a cache ({error}); name another folder or delete it"
            ) from error

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are known."""
        keys = list(keys)
        found = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            rows = self._run(f"SELECT key, value FROM entries WHERE key IN ({marks})", chunk).fetchall()
            found.update({key: json.loads(value, object_hook=_from_json) for key, value in rows})
        return found

    def write(self, entries: Mapping[str, Any]) -> None:
        """Add or replace entries, all or none."""
        rows = [(key, json.dumps(value, default=_to_json)) for key, value in entries.items()]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: the cache cannot be written ({error}); make room there, or set BUSMT_CACHE"
            ) from error

    def _run(self, statement: str, values: list[str]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: the cache is damaged ({error}); delete it") from error


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} cannot be cached")


def _from_json(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if set(value) == {"base64"} else value
