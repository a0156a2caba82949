"""Dynamic batching: what waits at the same moment runs as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any


class QueueFull(RuntimeError):
    """More is waiting than the server is willing to hold."""


class Batcher:
    """Collects items and calls a function on whole batches, in a thread.

    Args:
        function: from a list of items to as many results.
        executor: where the function runs.
        max_batch: most items in one call.
        max_delay: longest time that a lone item waits for company, seconds.
        max_waiting: most items that wait; more are refused.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Any]], Sequence[Any]],
        executor: Executor,
        max_batch: int,
        max_delay: float,
        max_waiting: int,
        observe: Callable[[int], None] = lambda size: None,
    ):
        self._function, self._executor, self._observe = function, executor, observe
        self._max_batch, self._max_delay, self._max_waiting = max_batch, max_delay, max_waiting
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue()
        self._worker: asyncio.Task | None = None

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return self._queue.qsize()

    async def submit(self, items: Sequence[Any]) -> list[Any]:
        """Results of the items, in order.

        Raises:
            QueueFull: nothing was taken on.
            Exception: what the function raised for the batch that an item was in.
        """
        if self.waiting + len(items) > self._max_waiting:
            raise QueueFull
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            self._queue.put_nowait((item, future))
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:  # whoever gave up must not cost a place in a batch
                future.cancel()

    async def close(self) -> None:
        """Stop; items that still wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None

    async def _work(self) -> None:
        while True:
            batch = await self._collect()
            wanted = [(item, future) for item, future in batch if not future.done()]
            if wanted:
                await self._run(wanted)

    async def _collect(self) -> list[tuple[Any, asyncio.Future]]:
        batch = [await self._queue.get()]
        deadline = asyncio.get_running_loop().time() + self._max_delay
        while len(batch) < self._max_batch:
            rest = deadline - asyncio.get_running_loop().time()
            try:
                batch.append(self._queue.get_nowait() if rest <= 0 else await asyncio.wait_for(self._queue.get(), rest))
            except (asyncio.QueueEmpty, TimeoutError):
                break
        return batch

    async def _run(self, batch: list[tuple[Any, asyncio.Future]]) -> None:
        self._observe(len(batch))
        items = [item for item, _ in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._function, items)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
