"""The application: addresses, errors, tokens."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from busmt.deployment.savedmodel import STATUS_OUTPUT
from busmt.deployment.server.batching import QueueFull
from busmt.deployment.server.limits import Limits
from busmt.deployment.server.metrics import Metrics
from busmt.deployment.server.rest import BadRequest, parse_body, parse_predict, render, signature_name
from busmt.deployment.server.screening import Refusal
from busmt.deployment.server.versions import Active, Versions

_ADDRESS = re.compile(r"(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]{1,18}))?(?P<verb>|:predict|/metadata)")
_METHODS = {"": ("GET", "HEAD"), "/metadata": ("GET", "HEAD"), ":predict": ("POST",)}
_PARSERS = 2
"""Threads that parse and write JSON; each holds one request's values at a time."""


def build_app(
    versions: Versions, name: str, limits: Limits, metrics: Metrics, token: str | None = None, poll: float = 0
) -> Starlette:
    """The ASGI application that serves one model.

    Args:
        versions: what is served.
        name: of the model in the addresses.
        limits: what one client may cost.
        metrics: as given to `versions`.
        token: without it as a bearer token, nothing but the health checks is answered.
        poll: seconds between two looks for a newer version; 0: never.
    """
    service = _Service(versions, name, limits, metrics, token, poll)
    routes = [
        Route("/healthz", _alive),
        Route("/readyz", _alive),
        Route("/metrics", service.metrics_page),
        Route("/monitoring/prometheus/metrics", service.metrics_page),
        Route("/v1/models/{address:path}", service.model, methods=["GET", "HEAD", "POST"]),
    ]
    handlers: dict[Any, Any] = {404: _not_found, 405: _wrong_method, Exception: _internal_error}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)


class _Service:
    def __init__(self, versions: Versions, name: str, limits: Limits, metrics: Metrics, token: str | None, poll: float):
        self._versions, self._name, self._limits, self._metrics = versions, name, limits, metrics
        self._token, self._poll = token, poll
        self._parsers = ThreadPoolExecutor(_PARSERS, thread_name_prefix="json")
        self._active = 0
        self._held = 0
        metrics.active.set_function(lambda: self._active)
        metrics.held.set_function(lambda: self._held)
        metrics.waiting.set_function(lambda: versions.waiting)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._versions.watch(self._poll)) if self._poll else None
        yield
        if watcher:
            watcher.cancel()
        self._parsers.shutdown()
        self._versions.close()

    async def metrics_page(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def model(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        address = _ADDRESS.fullmatch(request.path_params["address"])
        if not address or address["name"] != self._name:
            return _error(404, "no such model or address here")
        active = self._versions.active
        if address["version"] not in (None, active.model.version):
            return _error(404, f"no version {address['version']} here; version {active.model.version} is served")
        verb = address["verb"]
        if request.method not in _METHODS[verb]:
            return _error(405, "this address does not take that method", {"Allow": ", ".join(_METHODS[verb])})
        if verb == ":predict":
            return await self._predict(request, active)
        return JSONResponse(self._metadata(active) if verb else _status(active))

    def _allowed(self, request: Request) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token.encode())
        return scheme.lower() == "bearer" and right

    def _metadata(self, active: Active) -> dict[str, Any]:
        definitions = {
            "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
            "signature_def": active.model.metadata,
        }
        specification = {"name": self._name, "signature_name": "", "version": active.model.version}
        return {"model_spec": specification, "metadata": {"signature_def": definitions}}

    async def _predict(self, request: Request, active: Active) -> Response:
        start = time.perf_counter()
        response = await self._guarded(request, active)
        self._metrics.requests.labels(str(response.status_code)).inc()
        self._metrics.seconds.observe(time.perf_counter() - start)
        return response

    async def _guarded(self, request: Request, active: Active) -> Response:
        if self._active >= self._limits.concurrent:
            return _error(503, "too many requests at a time; try again", _LATER)
        if _media_type(request) != "application/json":
            return _error(415, "send JSON, with the header Content-Type: application/json", _CLOSE)
        if request.headers.get("content-encoding", "identity") != "identity":
            return _error(415, "send the request without a content encoding", _CLOSE)
        deadline = asyncio.get_running_loop().time() + self._limits.timeout
        self._active += 1
        body = bytearray()
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._read(request, body)
            except TimeoutError:
                return _error(408, f"the request did not arrive within {self._limits.timeout:g} seconds", _CLOSE)
            async with asyncio.timeout_at(deadline):
                return await self._answer(bytes(body), active)
        except _TooLarge:
            return _error(413, f"a request may have at most {self._limits.request_bytes} bytes", _CLOSE)
        except _TooMuch:
            return _error(503, "too much is being sent at a time; try again", _CLOSE | _LATER)
        except BadRequest as error:
            return _error(400, str(error))
        except QueueFull:
            return _error(503, "too many images are waiting; try again", _LATER)
        except TimeoutError:
            return _error(504, f"no answer within {self._limits.timeout:g} seconds", _CLOSE)
        except ClientDisconnect:
            return _error(400, "the client went away", _CLOSE)
        finally:
            self._active -= 1
            self._held -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Append the request's body. What is too large is thrown away as it comes, up to four times the limit, for
        a client that is cut off while it sends does not see the answer."""
        most = self._limits.request_bytes
        announced = request.headers.get("content-length", "")
        refused = announced.isdigit() and int(announced) > most
        seen = 0
        async for chunk in request.stream():
            seen += len(chunk)
            refused = refused or seen > most
            if seen > 4 * most:
                break
            if not refused:
                if self._held + len(chunk) > self._limits.held_bytes:
                    raise _TooMuch
                body += chunk
                self._held += len(chunk)
        if refused:
            raise _TooLarge

    async def _answer(self, data: bytes, active: Active) -> Response:
        body = await self._in_thread(parse_body, data, self._limits.values)
        name = signature_name(body)
        signature = active.model.signatures.get(name)
        if signature is None:
            known = ", ".join(sorted(active.model.signatures))
            raise BadRequest(f"no signature {name[:100]!r}; there are {known}")
        call = await self._in_thread(parse_predict, body, signature.input, self._limits.instances)
        del body
        most = self._limits
        items = await self._in_thread(signature.read, call.instances, most.image_pixels, most.request_pixels)
        good = [item for item in items if not isinstance(item, Refusal)]
        answers = iter(await active.batchers[name].submit(good) if good else [])
        rows = [
            signature.refuse(item, active.blanks[name]) if isinstance(item, Refusal) else next(answers)
            for item in items
        ]
        self._metrics.unreadable.inc(sum(int(row.get(STATUS_OUTPUT, 0)) != 0 for row in rows))
        return Response(await self._in_thread(render, rows, call.columns), media_type="application/json")

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._parsers, function, *arguments)


class _TooLarge(Exception):
    pass


class _TooMuch(Exception):
    pass


_CLOSE = {"Connection": "close"}
_LATER = {"Retry-After": "1"}


async def _alive(request: Request) -> Response:
    """There is always a version that can answer: without one the server does not start."""
    return JSONResponse({"status": "ok"})


def _status(active: Active) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    return {
        "model_version_status": [{"version": active.model.version, "state": "AVAILABLE", "status": status}],
    }


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _error(code: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, code, headers)


def _unauthorised() -> Response:
    return _error(401, "a valid token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"} | _CLOSE)


def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, "no such address here")


def _wrong_method(request: Request, error: Exception) -> Response:
    return _error(405, "this address does not take that method", dict(getattr(error, "headers", None) or {}))


def _internal_error(request: Request, error: Exception) -> Response:
    """No detail leaves the machine; the traceback is in the server's log."""
    return _error(500, "internal error")
