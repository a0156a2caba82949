"""HTTP connections that cost too much are closed: slow senders, slow readers, too many at a time.

uvicorn has no timeout for a request that arrives slowly (its keep-alive timeout ends with the first byte), and
none for an answer that nobody takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from busmt.deployment.server.limits import Limits

_LAST_CALL = 1.0
"""While the server stops, a connection that has not sent a whole head yet gets this long to do so, seconds."""


def _plain_answer(status: str, text: str) -> bytes:
    body = f'{{"error":"{text}"}}'
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n{body}".encode()


_BUSY = _plain_answer("503 Service Unavailable", "too many connections; try again")
_TOO_SLOW = _plain_answer("408 Request Timeout", "the request arrived too slowly")
_INVALID = _plain_answer("400 Bad Request", "not a valid HTTP request")


def guarded(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol with the limits on connections built in."""
    return type("GuardedProtocol", (_Guarded,), {"limits": limits})


class _Guarded(H11Protocol):
    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._stage: str | None = None
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._end(_BUSY)
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._clocks):
            self._stop(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._stopping and self.cycle is not None:
            self.cycle.keep_alive = False
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("sending", self.limits.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("sending")

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # nobody takes the answer: closing would wait for that
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        if self._answering:
            self.transport.abort()
        else:
            self._end(_INVALID)

    def shutdown(self) -> None:
        self._stopping = True
        if self._stage == "head" and not self._answering:  # a request may be on its way
            self._start("receiving", _LAST_CALL, self._give_up)
        else:
            super().shutdown()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """The clock runs from the connection, or from the first byte of a later request, to the last byte."""
        stage = None
        if self.conn.their_state is h11.SEND_BODY:
            stage = "body"
        elif self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            stage = "head"
        if stage == self._stage:
            return
        self._stage = stage
        self._stop("receiving")
        if stage == "head":
            self._start("receiving", self.limits.header_timeout, self._give_up)
        elif stage == "body":  # the application gives up before, with an answer, where it waits for the body
            self._start("receiving", self.limits.timeout + _LAST_CALL, self._give_up)

    def _start(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._stop(name)
        self._clocks[name] = self.loop.call_later(seconds, action)

    def _stop(self, name: str) -> None:
        clock = self._clocks.pop(name, None)
        if clock:
            clock.cancel()

    def _give_up(self) -> None:
        if self._stage == "head" and not self._answering:
            self._end(b"" if self._stopping else _TOO_SLOW)
        else:
            self.transport.abort()

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
