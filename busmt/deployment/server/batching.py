"""Dynamic batching: what waits at the same moment runs as one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any


class QueueFull(RuntimeError):
    """More is waiting than the server is willing to hold."""


class Batcher:
    """Collects items and calls a function on whole batches, in a thread.

    It works only while something waits, and so needs no closing.

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
        observe: Callable[[int], object] = lambda size: None,
    ):
        self._function, self._executor, self._observe = function, executor, observe
        self._max_batch, self._max_delay, self._max_waiting = max_batch, max_delay, max_waiting
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._enough = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Any]) -> list[Any]:
        """Results of the items, in order.

        Raises:
            QueueFull: nothing was taken on.
            Exception: what the function raised for the batch that an item was in.
        """
        if self.waiting + len(items) > self._max_waiting:
            raise QueueFull
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        if self.waiting >= self._max_batch:
            self._enough.set()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:  # whoever gave up must not cost a place in a batch
                future.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._company()
                batch = self._take()
                if batch:
                    await self._run(batch)
        finally:
            self._worker = None

    async def _company(self) -> None:
        self._enough.clear()
        if self.waiting < self._max_batch:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._max_delay):
                    await self._enough.wait()

    def _take(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        batch: list[tuple[Any, asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _run(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
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
