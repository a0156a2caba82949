"""A server in a thread of the test process, and a client that shows everything that comes back."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PLACE = "/v1/models/breast-model"
PREDICT = f"{PLACE}:predict"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """Status, headers (names in lower case) and body of a response."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Asks one server, with a new connection each time."""

    address: str
    headers: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    @property
    def place(self) -> tuple[str, int]:
        parts = urlsplit(self.address)
        return parts.hostname, parts.port

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        host, port = self.place
        if self.tls:
            connection: Any = http.client.HTTPSConnection(host, port, timeout=60, context=self.tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, body: Any, path: str = PREDICT) -> Answer:
        return self.ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), JSON)

    def predict(self, images: list[bytes]) -> Answer:
        return self.post({"signature_name": "serving_bytes", "instances": [b64(data) for data in images]})


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@contextlib.contextmanager
def running(export: Path, load: Any = None, poll: float = 0, site: Any = None, **limits: Any) -> Iterator[Client]:
    """A server of an export folder; `load` replaces the loading of a version."""
    from busmt.deployment.server.app import build_app
    from busmt.deployment.server.limits import Limits
    from busmt.deployment.server.metrics import Metrics
    from busmt.deployment.server.run import Site, build_server, listen
    from busmt.deployment.server.versions import Versions

    bounds, metrics = Limits(**limits), Metrics()
    site = site or Site(port=0)
    versions = Versions(export, bounds, metrics, **({"load": load} if load else {}))
    server = build_server(build_app(versions, "breast-model", bounds, metrics, site.token, poll), site, bounds)
    with listen(site) as sock:
        sock.listen(64)
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        try:
            yield Client(site.address(sock))
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
