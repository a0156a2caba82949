"""The server itself: routes, limits, metrics, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from busmt.deployment.server.batching import Batcher, QueueFull
from busmt.deployment.server.model import ServedModel
from busmt.deployment.server.rest import BadRequest, parse_body, parse_predict, render, signature_name


@dataclass(frozen=True)
class Limits:
    """What one client may cost.

    Attributes:
        request_bytes: largest request body.
        image_pixels: largest image.
        instances: most images in one request.
        max_batch: most images in one call of the network.
        max_delay: longest wait of a lone image for company, seconds.
        concurrent: most requests at a time; more are answered with 503.
        waiting: most images that wait for a batch; more are answered with 503.
        timeout: longest time for one request, seconds, its upload included.
        stop: longest time for requests under way after a signal to stop, seconds.
    """

    request_bytes: int = 32 * 2**20
    image_pixels: int = 16_000_000
    instances: int = 32
    max_batch: int = 16
    max_delay: float = 0.005
    concurrent: int = 128
    waiting: int = 256
    timeout: float = 30.0
    stop: float = 30.0


class Metrics:
    """Prometheus metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("busmt_requests", "Predict requests by HTTP status", ["code"], registry=self.registry)
        self.seconds = Histogram("busmt_request_seconds", "Time of a predict request", registry=self.registry)
        self.batches = Histogram(
            "busmt_batch_size",
            "Images per call of the network",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.rejected = Counter("busmt_unreadable_images", "Images that could not be read", registry=self.registry)
        self.active = Gauge("busmt_requests_active", "Predict requests under way", registry=self.registry)


def build_app(model: ServedModel, limits: Limits | None = None) -> Starlette:
    """The ASGI application that serves one model."""
    service = _Service(model, limits or Limits())
    place = f"/v1/models/{model.name}"
    routes = [Route("/healthz", service.health), Route("/monitoring/prometheus/metrics", service.metrics_page)]
    for prefix in (place, f"{place}/versions/{model.version}"):
        routes.append(Route(prefix, service.status))
        routes.append(Route(f"{prefix}/metadata", service.metadata))
        routes.append(Route(f"{prefix}:predict", service.predict, methods=["POST"]))
    handlers: dict[Any, Any] = {404: _not_found, 405: _wrong_method, Exception: _internal_error}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)


def serve(model: ServedModel, host: str, port: int, limits: Limits | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished, then the process ends with 0."""
    limits = limits or Limits()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again after it has stopped
    uvicorn.run(
        build_app(model, limits),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.stop),
    )


class _Service:
    def __init__(self, model: ServedModel, limits: Limits):
        self._model, self._limits, self._metrics = model, limits, Metrics()
        self._batchers: dict[str, Batcher] = {}
        self._active = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1, thread_name_prefix="network") as executor:
            for name, signature in self._model.signatures.items():
                limits, observe = self._limits, self._metrics.batches.observe
                self._batchers[name] = Batcher(
                    signature.run, executor, limits.max_batch, limits.max_delay, limits.waiting, observe
                )
            yield
            for batcher in self._batchers.values():
                await batcher.close()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics_page(self, request: Request) -> Response:
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def status(self, request: Request) -> Response:
        status = {"error_code": "OK", "error_message": ""}
        return JSONResponse(
            {"model_version_status": [{"version": self._model.version, "state": "AVAILABLE", "status": status}]}
        )

    async def metadata(self, request: Request) -> Response:
        specification = {"name": self._model.name, "signature_name": "", "version": self._model.version}
        definitions = {
            "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
            "signature_def": self._model.metadata,
        }
        return JSONResponse({"model_spec": specification, "metadata": {"signature_def": definitions}})

    async def predict(self, request: Request) -> Response:
        start = time.perf_counter()
        if self._active >= self._limits.concurrent:
            return self._count(_error(503, "too many requests at a time; try again", {"Retry-After": "1"}), start)
        self._active += 1
        self._metrics.active.set(self._active)
        try:
            response = await asyncio.wait_for(self._answer(request), self._limits.timeout)
        except _TooLarge:
            response = _error(413, f"a request may have at most {self._limits.request_bytes} bytes", _CLOSE)
        except BadRequest as error:
            response = _error(400, str(error))
        except QueueFull:
            response = _error(503, "too many images are waiting; try again", {"Retry-After": "1"})
        except TimeoutError:
            response = _error(504, f"no answer within {self._limits.timeout:g} seconds", _CLOSE)
        except ClientDisconnect:
            response = _error(400, "the client went away", _CLOSE)
        finally:
            self._active -= 1
            self._metrics.active.set(self._active)
        return self._count(response, start)

    async def _answer(self, request: Request) -> Response:
        data = await _read_body(request, self._limits.request_bytes)
        rows, columns = await self._predict(data)
        return Response(await asyncio.to_thread(render, rows, columns), media_type="application/json")

    async def _predict(self, data: bytes) -> tuple[list[dict[str, Any]], bool]:
        body = await asyncio.to_thread(parse_body, data)
        name = signature_name(body)
        if name not in self._model.signatures:
            raise BadRequest(f"no signature {name[:100]!r}; there are {', '.join(sorted(self._model.signatures))}")
        signature = self._model.signatures[name]
        call = await asyncio.to_thread(parse_predict, body, signature.input)
        if len(call.instances) > self._limits.instances:
            raise BadRequest(f"{len(call.instances)} instances; at most {self._limits.instances} per request")
        items = await asyncio.to_thread(signature.read, call.instances, self._limits.image_pixels)
        rows = await self._batchers[name].submit(items)
        self._metrics.rejected.inc(sum(int(row["status"]) != 0 for row in rows if "status" in row))
        return rows, call.columns

    def _count(self, response: Response, start: float) -> Response:
        self._metrics.requests.labels(str(response.status_code)).inc()
        self._metrics.seconds.observe(time.perf_counter() - start)
        return response


class _TooLarge(Exception):
    pass


_CLOSE = {"Connection": "close"}


async def _read_body(request: Request, most: int) -> bytes:
    """The body, given up as soon as it is known to be too large."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most:
        raise _TooLarge
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise _TooLarge
    return bytes(data)


def _error(code: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, code, headers)


def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, "no such model, version or address here")


def _wrong_method(request: Request, error: Exception) -> Response:
    return _error(405, "this address does not take that method")


def _internal_error(request: Request, error: Exception) -> Response:
    """No detail leaves the machine; the traceback is in the server's log."""
    return _error(500, "internal error")
