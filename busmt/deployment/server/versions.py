"""Which version is served, and the change to another one while requests are under way."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busmt.deployment.integrity import GRAPH
from busmt.deployment.server.batching import Batcher
from busmt.deployment.server.limits import Limits
from busmt.deployment.server.metrics import Metrics
from busmt.deployment.server.model import ServedModel
from busmt.errors import BusmtError, RunError

_log = logging.getLogger("busmt.serve")
_NUMBER = re.compile(r"[0-9]{1,18}")

Load = Callable[[Path], ServedModel]


def version_folder(path: str | os.PathLike[str]) -> Path:
    """The newest version in an export folder, or the folder itself where it is a version.

    Raises:
        RunError: nothing there that can be served.
    """
    folder = Path(path)
    if (folder / GRAPH).is_file():
        return folder.resolve()
    versions = [entry for entry in folder.iterdir() if _NUMBER.fullmatch(entry.name)] if folder.is_dir() else []
    versions = [entry for entry in versions if (entry / GRAPH).is_file()]
    if not versions:
        raise RunError(f"{path}: no SavedModel there; write one with: busmt export RUN --to DIR --format savedmodel")
    return max(versions, key=lambda entry: int(entry.name)).resolve()


@dataclass(frozen=True)
class Active:
    """A version that takes requests.

    Attributes:
        model: its signatures.
        batchers: by signature.
        blanks: by signature, what it says of an item that says nothing.
    """

    model: ServedModel
    batchers: dict[str, Batcher]
    blanks: dict[str, dict[str, Any]]


class Versions:
    """Keeps the newest version of an export folder loaded.

    A request takes `active` once and stays with it; a version that was replaced goes when its last request has
    been answered.

    Args:
        path: an export folder, or a version's own folder, which then never changes.
        limits: for batches.
        metrics: told what happens.
        load: from a version's folder to a loaded model.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits, metrics: Metrics, load: Load = ServedModel.load):
        self._path, self._limits, self._metrics, self._load = Path(path), limits, metrics, load
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._seen: object = None
        self._failed: object = None
        self.active = self._activate(load(version_folder(path)))

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return sum(batcher.waiting for batcher in self.active.batchers.values())

    async def watch(self, seconds: float) -> None:
        """Look for another newest version again and again, and change to it once it is loaded and warm.

        Its files must be the same in two looks. A version that cannot be loaded is named in the log and tried again
        when its files change.
        """
        while True:
            await asyncio.sleep(seconds)
            fresh = await asyncio.to_thread(self._look)
            if fresh:
                self.active = fresh
                del fresh
                await asyncio.to_thread(gc.collect)  # graphs are full of cycles

    def close(self) -> None:
        """Let the thread of the network end."""
        self._executor.shutdown()

    def _look(self) -> Active | None:
        try:
            folder = version_folder(self._path)
            if folder.name == self.active.model.version or folder == self._path.resolve():
                return None
            state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))]
        except (RunError, OSError):  # nothing there any more, or just being changed
            return None
        if state != self._seen:  # somebody may still be copying
            self._seen = state
            return None
        if state == self._failed:
            return None
        try:
            active = self._activate(self._load(folder))
        except Exception as error:  # whatever is wrong with it, the version in place goes on
            self._failed = state
            self._metrics.loads.labels("failure").inc()
            _log.error("version %s is not taken up: %s", folder.name, error, exc_info=not isinstance(error, BusmtError))
            return None
        self._metrics.loads.labels("success").inc()
        _log.info("version %s replaces version %s", folder.name, self.active.model.version)
        return active

    def _activate(self, model: ServedModel) -> Active:
        limits, observe = self._limits, self._metrics.batches.observe
        blanks = {name: signature.warm_up(limits.max_batch) for name, signature in model.signatures.items()}
        batchers = {
            name: Batcher(signature.run, self._executor, limits.max_batch, limits.max_delay, limits.waiting, observe)
            for name, signature in model.signatures.items()
        }
        self._metrics.version.set(int(model.version))
        return Active(model, batchers, blanks)
