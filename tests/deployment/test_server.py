"""The light server: the predict API of TensorFlow Serving, limits, company in a batch, start and stop."""

from __future__ import annotations

import base64
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

from busmt.deployment.server.app import Limits, build_app
from busmt.deployment.server.model import ServedModel
from busmt.errors import RunError

PLACE = "/v1/models/breast-model"


@pytest.fixture(scope="module")
def model(served_export) -> ServedModel:
    return ServedModel.load(served_export)


@pytest.fixture(scope="module")
def client(model):
    with TestClient(build_app(model, Limits(instances=8, image_pixels=200_000, request_bytes=2**20))) as client:
        yield client


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def ask(client, images: list[bytes], **extra):
    body = {"signature_name": "serving_bytes", "instances": [b64(data) for data in images], **extra}
    return client.post(f"{PLACE}:predict", json=body)


def test_rows_columns_and_names_say_the_same(client, scans):
    rows = ask(client, scans).json()["predictions"]
    encoded = [b64(data) for data in scans]
    forms = [{"inputs": {"encoded": encoded}}, {"inputs": encoded}]
    for form in forms:
        columns = client.post(f"{PLACE}:predict", json={"signature_name": "serving_bytes", **form}).json()["outputs"]
        assert columns["class_id"] == [row["class_id"] for row in rows]
        np.testing.assert_allclose(columns["mask"], [row["mask"] for row in rows], atol=1e-4)
    named = {"signature_name": "serving_bytes", "instances": [{"encoded": item} for item in encoded]}
    again = client.post(f"{PLACE}/versions/1:predict", json=named).json()["predictions"]
    assert [row["class_id"] for row in again] == [row["class_id"] for row in rows]


def test_float_images(client, model):
    pictures = np.random.default_rng(0).random((2, 64, 64, 1)).astype(np.float32)
    answer = client.post(f"{PLACE}:predict", json={"instances": pictures.tolist()}).json()["predictions"]
    expected = model.signatures["serving_default"].run(list(pictures))
    np.testing.assert_allclose([row["label"] for row in answer], [row["label"] for row in expected], atol=1e-4)


def test_status_and_metadata(client):
    status = client.get(PLACE).json()["model_version_status"]
    assert [(entry["version"], entry["state"]) for entry in status] == [("1", "AVAILABLE")]
    metadata = client.get(f"{PLACE}/metadata").json()
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert metadata["model_spec"]["name"] == "breast-model"
    assert signatures["serving_bytes"]["inputs"]["encoded"]["dtype"] == "DT_STRING"
    assert signatures["serving_bytes"]["method_name"] == "tensorflow/serving/predict"


def test_a_bad_image_among_good_ones(client, scans, bad_scans):
    good = ask(client, scans[:1]).json()["predictions"][0]
    for data, status in bad_scans[1:]:
        if status == 4:
            continue  # this server's own, lower limit refuses it first
        bad, neighbour = ask(client, [data, scans[0]]).json()["predictions"]
        assert (bad["status"], bad["class_id"], bad["refer"]) == (status, -1, True)
        assert bad["error"]
        np.testing.assert_allclose(neighbour["label"], good["label"], atol=1e-4)
        assert neighbour["error"] == ""


@pytest.mark.parametrize(
    "body, part",
    [
        (b"{", "JSON"),
        (b"[1]", "object"),
        (b"{}", "instances"),
        (b'{"instances": []}', "at least one"),
        (b'{"instances": [1], "inputs": [1]}', "either"),
        (b'{"instances": [1], "signature_name": "none"}', "no signature"),
        (b'{"instances": [[1, 2]]}', "shape"),
        (b'{"instances": [{"other": 1}]}', "input"),
        (b'{"instances": [{"b64": "*"}], "signature_name": "serving_bytes"}', "base64"),
        (b'{"instances": [3], "signature_name": "serving_bytes"}', "b64"),
        (b'{"instances": [{"b64": ""}, 1, 1, 1, 1, 1, 1, 1, 1], "signature_name": "serving_bytes"}', "at most 8"),
    ],
)
def test_a_request_that_makes_no_sense_gets_a_reason(client, body, part):
    answer = client.post(f"{PLACE}:predict", content=body)
    assert answer.status_code == 400
    assert part in answer.json()["error"]


def test_limits_on_bytes_and_pixels(client, encode):
    large = client.post(f"{PLACE}:predict", content=b" " * (2**20 + 1))
    assert large.status_code == 413
    chunked = client.post(f"{PLACE}:predict", content=iter([b" " * 2**19] * 3))
    assert chunked.status_code == 413
    many_pixels = ask(client, [encode(np.zeros((500, 500), dtype=np.uint8))])
    assert many_pixels.status_code == 400
    assert "200000 pixels" in many_pixels.json()["error"]


def test_unknown_addresses_and_methods_name_no_path(client, served_export):
    for answer in (client.get("/v1/models/other"), client.get("/"), client.get(f"{PLACE}:predict")):
        assert answer.status_code in (404, 405)
        assert str(served_export) not in answer.text
        assert set(answer.json()) == {"error"}


def test_health_and_metrics(client, scans):
    ask(client, [scans[0], b"junk"])
    assert client.get("/healthz").json() == {"status": "ok"}
    page = client.get("/monitoring/prometheus/metrics").text
    assert 'busmt_requests_total{code="200"}' in page
    unreadable = next(line for line in page.splitlines() if line.startswith("busmt_unreadable_images_total"))
    assert float(unreadable.split()[1]) >= 1


class _Slow:
    """A signature that takes its time and remembers the sizes of its batches."""

    input, shape, text = "encoded", (), True

    def __init__(self, seconds: float):
        self.seconds, self.sizes = seconds, []

    def read(self, instances, max_pixels):
        return list(instances)

    def run(self, items):
        self.sizes.append(len(items))
        time.sleep(self.seconds)
        if b"fail" in items:
            raise ValueError("/secret/place")
        return [{"length": np.int32(len(item))} for item in items]


def _slow_client(seconds: float, **limits):
    slow = _Slow(seconds)
    model = ServedModel("breast-model", "1", {"serving_bytes": slow}, {})
    return slow, TestClient(build_app(model, Limits(**limits)), raise_server_exceptions=False)


def test_requests_that_wait_together_run_together():
    slow, client = _slow_client(0.05, max_batch=8, max_delay=0.02)
    with client, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda size: ask(client, [b"x" * size]), range(1, 25)))
    assert [answer.json()["predictions"][0]["length"] for answer in answers] == list(range(1, 25))
    assert sum(slow.sizes) == 24
    assert 1 < max(slow.sizes) <= 8


def test_too_slow_and_too_many_are_refused():
    _, client = _slow_client(1.0, timeout=0.2)
    with client:
        assert ask(client, [b"x"]).status_code == 504
    _, client = _slow_client(0.5, concurrent=2)
    with client, ThreadPoolExecutor(6) as pool:
        codes = sorted(answer.status_code for answer in pool.map(lambda _: ask(client, [b"x"]), range(6)))
    assert codes[0] == 200
    assert codes[-1] == 503


def test_an_unexpected_failure_tells_nothing_of_the_machine():
    _, client = _slow_client(0.0)
    with client:
        answer = ask(client, [b"fail"])
        assert answer.status_code == 500
        assert answer.json() == {"error": "internal error"}
        assert ask(client, [b"next"]).status_code == 200


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="no SavedModel"):
        ServedModel.load(tmp_path)


@pytest.fixture
def process(served_export):
    """`busmt serve` in a process of its own, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-m", "busmt", "serve", str(served_export), "--port", str(port)]
    server = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ})
    address = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, server.stderr.read()
            time.sleep(0.1)
    yield server, address
    if server.poll() is None:
        server.kill()
    server.wait()
    server.stderr.close()


def test_a_hundred_clients_at_once_then_a_graceful_stop(process, served_export, scans):
    server, address = process
    path = served_export / "serving" / "client_rest.py"
    specification = importlib.util.spec_from_file_location("client_rest", path)
    client = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(client)
    alone = [client.predict([data], address)[0] for data in scans]

    with ThreadPoolExecutor(100) as pool:
        jobs = [b"junk" if number % 10 == 9 else scans[number % len(scans)] for number in range(100)]
        answers = list(pool.map(lambda data: client.predict([data], address)[0], jobs))
        for number, (data, answer) in enumerate(zip(jobs, answers, strict=True)):
            assert answer["status"] == (data == b"junk")
            if data != b"junk":
                np.testing.assert_allclose(answer["label"], alone[number % len(scans)]["label"], atol=1e-4)

        late = [pool.submit(client.predict, [scans[0]] * 16, address) for _ in range(4)]
        _until(lambda: b"busmt_requests_active 4.0" in _metrics(address) or any(job.done() for job in late))
        server.send_signal(signal.SIGTERM)
        for job in late:
            assert len(job.result()) == 16
    assert server.wait(timeout=60) == 0
    assert "Traceback" not in server.stderr.read()


def _metrics(address: str) -> bytes:
    with urllib.request.urlopen(f"{address}/monitoring/prometheus/metrics", timeout=30) as answer:
        return answer.read()


def _until(happened, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.005)
