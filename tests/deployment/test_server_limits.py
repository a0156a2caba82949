"""What one client may cost others: time, memory, connections; and who may ask at all."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("uvicorn")
from running import JSON, PLACE, PREDICT, Client, running

from busmt.deployment.server.limits import Limits
from busmt.deployment.server.model import ServedModel
from busmt.deployment.server.run import Site, build_server, listen, serve
from busmt.deployment.server.token import read_token
from busmt.errors import RunError


class Slow:
    """A signature that waits for permission, and remembers the sizes of its batches."""

    input, shape, text = "encoded", (), True

    def __init__(self):
        self.sizes, self.go = [], threading.Event()

    def warm_up(self, batch):
        return {}

    def read(self, instances, image_pixels, request_pixels):
        return list(instances)

    def run(self, items):
        self.sizes.append(len(items))
        assert self.go.wait(30)
        if b"fail" in items:
            raise ValueError("/secret/place")
        return [{"length": np.int32(len(item)), "text": item * 1000} for item in items]


@pytest.fixture
def slow(served_export):
    """A slow signature, and a function that serves it under given limits."""
    signature = Slow()

    def serve(**limits):
        return running(served_export, lambda folder: ServedModel("1", {"serving_bytes": signature}, {}), **limits)

    yield signature, serve
    signature.go.set()


def _until(happened, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.005)


def test_requests_that_wait_together_run_together(slow):
    signature, serve = slow
    with serve(max_batch=8) as client, ThreadPoolExecutor(25) as pool:
        first = pool.submit(client.predict, [b"x"])
        _until(lambda: signature.sizes)
        jobs = [pool.submit(client.predict, [b"x" * size]) for size in range(1, 25)]
        _until(lambda: b"busmt_images_waiting 24.0" in client.get("/metrics").body)
        signature.go.set()
        assert [job.result().json["predictions"][0]["length"] for job in jobs] == list(range(1, 25))
        assert first.result().code == 200
    assert signature.sizes == [1, 8, 8, 8]


def test_too_many_requests_and_too_many_images_are_refused_and_the_others_answered(slow):
    signature, serve = slow
    with serve(concurrent=2, waiting=4) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.predict, [b"x"])
        _until(lambda: signature.sizes)
        crowd = client.predict([b"x"] * 5)
        assert (crowd.code, crowd.headers["retry-after"]) == (503, "1")
        assert "images are waiting" in crowd.json["error"]
        second = pool.submit(client.predict, [b"x"] * 4)
        _until(lambda: b"busmt_requests_active 2.0" in client.get("/metrics").body)
        late = client.predict([b"x"])
        assert (late.code, late.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").code == 200
        signature.go.set()
        assert (first.result().code, second.result().code) == (200, 200)


def test_no_answer_in_time_is_said_and_the_server_goes_on(slow):
    signature, serve = slow
    with serve(timeout=1.0) as client:
        assert client.predict([b"x"]).code == 504
        signature.go.set()
        _until(lambda: client.predict([b"x"]).code == 200)


def test_an_unexpected_failure_tells_nothing_of_the_machine(slow):
    signature, serve = slow
    signature.go.set()
    with serve() as client:
        answer = client.predict([b"fail"])
        assert (answer.code, answer.json) == (500, {"error": "internal error"})
        assert client.predict([b"next"]).code == 200


def test_memory_for_requests_is_bounded_over_all_clients(slow):
    _, serve = slow
    with serve(held_bytes=2**20, timeout=20) as client, contextlib.closing(_connect(client)) as other:
        other.sendall(_head(900_000) + b" " * 800_000)
        _until(lambda: b"busmt_request_bytes_held 800000.0" in client.get("/metrics").body)
        assert client.post(b" " * 400_000).code == 503
        other.sendall(b" " * 100_000)
        assert _status(other) == 400  # not JSON, but taken in full
        assert client.post(b" " * 400_000).code == 400
        assert b"busmt_request_bytes_held 0.0" in client.get("/metrics").body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 408),
        (b"GET /healthz HTT", 408),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", 408),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he", 200),
    ],
)
def test_heads_that_never_end_are_cut_off(slow, sent, status):
    _, serve = slow
    with serve(header_timeout=0.3) as client, contextlib.closing(_connect(client)) as other:
        other.sendall(sent)
        answer = _everything(other)
        assert int(answer.split()[1]) == status
        if status == 200:
            assert b" 408 " in answer


def test_heads_that_trickle_are_cut_off(slow):
    _, serve = slow
    with serve(header_timeout=0.5) as client, contextlib.closing(_connect(client)) as other:
        with contextlib.suppress(ConnectionError):
            for letter in b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
                other.sendall(bytes([letter]))
                time.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            assert _everything(other)[:12] in (b"", b"HTTP/1.1 408")
        assert client.get("/healthz").code == 200


def test_bodies_that_never_end_are_cut_off(slow):
    _, serve = slow
    with serve(timeout=0.4) as client:
        with contextlib.closing(_connect(client)) as other:
            other.sendall(_head(1000) + b"{")
            assert _status(other) == 408
        with contextlib.closing(_connect(client)) as other:  # to an address that does not read it
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            assert _everything(other).startswith(b"HTTP/1.1 200")


def test_who_does_not_take_the_answer_is_cut_off(slow):
    signature, serve = slow
    signature.go.set()
    with serve(send_timeout=0.5) as client, contextlib.closing(_connect(client, 4096)) as other:
        body = b'{"signature_name": "serving_bytes", "instances": [{"b64": "%s"}]}' % (b"AAAA" * 8000)
        other.sendall(_head(len(body)) + body)  # the answer has 24 MB
        _until(lambda: b'busmt_requests_total{code="200"} 1.0' in client.get("/metrics").body)
        with pytest.raises(ConnectionError):
            _until(lambda: time.sleep(0.1) or other.sendall(b"x") is not None)


def test_what_is_no_http_gets_a_json_error(slow):
    _, serve = slow
    with serve() as client, contextlib.closing(_connect(client)) as other:
        other.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = _everything(other)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(b'{"error":"not a valid HTTP request"}')


def test_more_connections_than_allowed_are_turned_away(slow):
    _, serve = slow
    with serve(connections=3) as client, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(contextlib.closing(_connect(client)))
        _until(lambda: client.get("/healthz").code == 503)
        stack.close()
        _until(lambda: client.get("/healthz").code == 200)


def test_with_a_token_nothing_but_health_is_answered_without_it(slow, served_export):
    signature, _ = slow
    signature.go.set()
    model = ServedModel("1", {"serving_bytes": signature}, {})
    site = Site(port=0, token="a-token-of-20-chars!")
    with running(served_export, lambda folder: model, site=site) as client:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {site.token}"}):
            stranger = Client(client.address, given)
            for answer in (stranger.get(PLACE), stranger.get("/metrics"), stranger.predict([b"x"])):
                assert (answer.code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert stranger.get("/readyz").code == 200
        friend = Client(client.address, {"Authorization": f"Bearer {site.token}"})
        assert friend.predict([b"x"]).code == friend.get("/metrics").code == 200


def test_tokens_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("BUSMT_SERVE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("BUSMT_SERVE_TOKEN", "from-the-environment")
    assert read_token(None) == "from-the-environment"
    (tmp_path / "token").write_text("from-a-file-with-20\n")
    assert read_token(tmp_path / "token") == "from-a-file-with-20"
    for text in ("", "short", "with spaces in between it"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(RunError, match="at least 16"):
            read_token(tmp_path / "token")
    with pytest.raises(RunError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_tls(slow, served_export, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    signature, _ = slow
    signature.go.set()
    model = ServedModel("1", {"serving_bytes": signature}, {})
    site = Site(port=0, certificate=str(certificate), key=str(key))
    with running(served_export, lambda folder: model, site=site) as client:
        assert client.address.startswith("https://")
        trusting = Client(client.address, tls=ssl.create_default_context(cafile=certificate))
        assert trusting.predict([b"x"]).code == 200


def test_addresses_and_tls_files_that_cannot_be_used_are_named(slow, served_export, tmp_path):
    with listen(Site(port=0)) as taken:
        taken.listen()
        with pytest.raises(RunError, match="choose another with --port"):
            listen(Site(port=taken.getsockname()[1]))
    with pytest.raises(RunError, match="not an address"):
        listen(Site(host="no such host"))
    (tmp_path / "cert.pem").write_text("nothing")
    for name in ("cert.pem", "none.pem"):
        site = Site(port=0, certificate=str(tmp_path / name), key=None)
        with pytest.raises(RunError, match=f"{name}: cannot be used for TLS"):
            running(served_export, lambda folder: ServedModel("1", {}, {}), site=site).__enter__()
    with pytest.raises(RunError, match="a key without a certificate"):
        build_server(None, Site(key="key.pem"), Limits())
    with pytest.raises(RunError, match="a model's name"):
        serve(str(served_export), "a/b:predict", Site(port=0), Limits())


def test_others_are_warned_about_what_everybody_can_reach():
    assert Site().warnings() == []
    assert len(Site(host="0.0.0.0").warnings()) == 2
    assert Site(host="0.0.0.0", token="x", certificate="x").warnings() == []


def _connect(client: Client, window: int | None = None) -> socket.socket:
    other = socket.socket()
    if window:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    other.settimeout(30)
    other.connect(client.place)
    return other


def _head(length: int) -> bytes:
    fields = {"Host": "x", "Content-Length": str(length), **JSON}
    lines = [f"POST {PREDICT} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _everything(other: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    data = b""
    while chunk := other.recv(65536):
        data += chunk
    return data


def _status(other: socket.socket) -> int:
    return int(other.recv(65536).split()[1])
