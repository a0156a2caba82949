"""Socket, TLS, start and stop."""

from __future__ import annotations

import math
import re
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from busmt.deployment.server.app import build_app
from busmt.deployment.server.limits import Limits
from busmt.deployment.server.metrics import Metrics
from busmt.deployment.server.protocol import guarded
from busmt.deployment.server.versions import Versions
from busmt.errors import RunError

_KEEP_ALIVE = 15
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Site:
    """Where and how to listen.

    Attributes:
        host, port: address; port 0 takes a free one.
        certificate, key: PEM files for TLS, or None.
        token: that clients must send, or None.
        poll: seconds between two looks for a newer version; 0: never.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    certificate: str | None = None
    key: str | None = None
    token: str | None = None
    poll: float = 2.0

    def warnings(self) -> list[str]:
        """What a person should know before others can connect."""
        if self.host in ("127.0.0.1", "localhost", "::1"):
            return []
        found = []
        if self.token is None:
            found.append(f"{self.host} can be reached from other machines, and no token is asked for")
        if self.certificate is None:
            found.append(f"{self.host} can be reached from other machines, and images travel without encryption")
        return found

    def address(self, sock: socket.socket) -> str:
        """URL of a bound socket."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{sock.getsockname()[1]}"


def serve(
    export: str, name: str, site: Site, limits: Limits, started: Callable[[str, str], None] = lambda *_: None
) -> None:
    """Serve an export folder until SIGTERM or SIGINT; requests under way are finished, then the process ends with 0.

    Args:
        export: export folder, or a version's own folder.
        name: of the model in the addresses.
        site: where and how to listen.
        limits: what one client may cost.
        started: called with the address and the version once connections are taken.

    Raises:
        RunError: nothing there to serve, a name that addresses do not take, an address that is taken, or TLS files
            that cannot be used.
        ExportError: the export is damaged.
    """
    if not _NAME.fullmatch(name):
        raise RunError(f"{name!r}: a model's name has letters, digits, dots, hyphens and underscores; see --name")
    with listen(site) as sock:
        metrics = Metrics()
        versions = Versions(export, limits, metrics)
        app = build_app(versions, name, limits, metrics, site.token, site.poll)
        server = build_server(app, site, limits)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again after it has stopped
            signal.signal(number, lambda *_: sys.exit(0))
        sock.listen(limits.connections)  # from here on nobody is turned away
        started(site.address(sock), versions.active.model.version)
        server.run([sock])


def listen(site: Site) -> socket.socket:
    """A bound socket. Raises RunError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            site.host, site.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RunError(f"{site.host}: not an address to listen on ({error.strerror})") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise RunError(
            f"{site.host}:{site.port}: cannot listen there ({error.strerror}); choose another with --port"
        ) from error
    return sock


def build_server(app: Starlette, site: Site, limits: Limits) -> uvicorn.Server:
    """The HTTP server around the application, not yet started.

    Raises:
        RunError: TLS files that cannot be used.
    """
    if site.key and not site.certificate:
        raise RunError(f"{site.key}: a key without a certificate; name that with --tls-cert")
    config = uvicorn.Config(
        app,
        http=guarded(limits),
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=limits.connections,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(limits.stop),
        ssl_certfile=site.certificate,
        ssl_keyfile=site.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise RunError(f"{site.certificate}: cannot be used for TLS ({error.strerror or error})") from error
    return uvicorn.Server(config)
