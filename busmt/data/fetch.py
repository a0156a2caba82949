"""Fetch one file over HTTP: continued where it stopped, checked for its length, never partial under its final name."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from busmt._version import __version__
from busmt.errors import DataError

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None where the server does not say)."""

CHUNK = 1 << 18
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class FetchPolicy:
    """How patient a download is.

    Attributes:
        timeout: seconds without a byte after which the connection is given up.
        attempts: tries in a row that bring no byte further, before the download is given up.
        pause: seconds before the second try; doubled for each further one.
        limit: bytes that no file may exceed.
        verify_tls: check the server's certificate.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0
    limit: int = 2 << 30
    verify_tls: bool = True


def fetch(url: str, target: Path, policy: FetchPolicy | None = None, progress: Progress | None = None) -> None:
    """Download a file; what a broken connection or an interrupted process left is continued.

    The bytes go to `TARGET.part`, and `TARGET.part.json` remembers of which URL and version they are. A server
    that answers a request for the rest with the whole file, or with another version, starts the file anew.

    Args:
        url: http or https; so must be what it redirects to, and https stays https.
        target: final name; its folder exists.
        policy: timeouts and limits.
        progress: see `Progress`.

    Raises:
        DataError: the URL is not http, the server refuses, gives up, or sends more than is allowed; then only
            the partial file stays, so that the same call can go on.
    """
    policy = policy or FetchPolicy()
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: not an http or https address")
    part = _Part(url, target)
    failures, furthest = 0, part.size
    while True:
        try:
            if _transfer(part, policy, progress):
                break
            reason = f"the connection ended after {part.size} bytes"
            if part.total is not None:
                reason += f" of {part.total}"
        except _Retry as error:
            reason = str(error)
        except OSError as error:
            raise DataError(f"{part.path}: cannot be written ({error.strerror or error})") from error
        failures = 1 if part.size > furthest else failures + 1
        furthest = max(furthest, part.size)
        if failures >= policy.attempts:
            raise DataError(f"{url}: {reason}; tried {failures} times without getting further. Run it again to go on")
        time.sleep(policy.pause * 2 ** (failures - 1))
    part.finish()


class _Retry(Exception):
    """Something that may pass: try again."""


class _Part:
    """The partial file and what is known about it."""

    def __init__(self, url: str, target: Path):
        self.url, self.target = url, target
        self.path = target.with_name(target.name + ".part")
        self.notes = target.with_name(target.name + ".part.json")
        self.total: int | None = None
        self.version: str | None = None
        known = _read_notes(self.notes)
        if known.get("url") == url and known.get("version") and self.path.exists():
            self.version = known["version"]
        else:
            self.restart(None)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def restart(self, version: str | None) -> None:
        self.path.unlink(missing_ok=True)
        self.version = version
        self.notes.write_text(json.dumps({"url": self.url, "version": version}), encoding="utf-8")

    def finish(self) -> None:
        self.path.replace(self.target)
        self.notes.unlink(missing_ok=True)


def _read_notes(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _transfer(part: _Part, policy: FetchPolicy, progress: Progress | None) -> bool:
    """One connection; whether the file is complete after it."""
    if part.version is None:  # nothing could tell whether the rest belongs to what is here
        part.restart(None)
    have = part.size
    headers = {"User-Agent": f"busmt/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": str(part.version)}
    try:
        with _opener(policy).open(urllib.request.Request(part.url, headers=headers), timeout=policy.timeout) as answer:
            _agree(part, answer, have)
            _check_room(part, policy)
            _write(part, answer, policy, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # the rest does not exist: the file has changed, or was complete
            part.restart(None)
            raise _Retry("the server refuses to continue") from error
        if error.code in RETRY_STATUS:
            raise _Retry(f"the server answers {error.code} {error.reason}") from error
        raise DataError(f"{part.url}: the server answers {error.code} {error.reason}; is the address right?") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"{part.url}: the server's certificate cannot be verified ({error.reason.verify_message}); "
                "--insecure goes on without, which is sound where the checksum is known"
            ) from error
        raise _Retry(f"no connection ({error.reason})") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _Retry(f"the connection broke after {part.size} bytes ({error or type(error).__name__})") from error
    return part.total is None or part.size == part.total


def _agree(part: _Part, answer: Any, have: int) -> None:
    """Whether the answer is the rest of the file or the whole; sets what is known of its length."""
    length = answer.headers.get("Content-Length")
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            part.restart(None)
            raise _Retry("the server sends another part of the file than was asked for")
        part.total = None if match[3] == "*" else int(match[3])
        return
    tag = answer.headers.get("ETag", "W/")
    weak = tag.startswith("W/")  # a weak tag does not promise the same bytes
    part.restart(answer.headers.get("Last-Modified") if weak else tag)
    part.total = int(length) if length and length.isdigit() else None


def _check_room(part: _Part, policy: FetchPolicy) -> None:
    if part.total is None:
        return
    if part.total > policy.limit:
        raise DataError(f"{part.url}: {part.total} bytes, more than the {policy.limit} that are allowed")
    free = shutil.disk_usage(part.path.parent).free
    if part.total - part.size > free:
        raise DataError(f"{part.path.parent}: {part.total - part.size} bytes are still needed, {free} are free")


def _write(part: _Part, answer: Any, policy: FetchPolicy, progress: Progress | None) -> None:
    done = part.size
    with open(part.path, "ab") as file:
        while chunk := answer.read1(CHUNK):
            done += len(chunk)
            if done > policy.limit:
                raise DataError(f"{part.url}: sends more than the {policy.limit} bytes that are allowed")
            file.write(chunk)
            if progress:
                progress(done, part.total)


def _opener(policy: FetchPolicy) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    if not policy.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _SafeRedirects)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise DataError(f"{req.full_url}: redirects to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
