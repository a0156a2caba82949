"""Versions change, and the server stops, while clients ask; nobody loses an answer."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("uvicorn")
from running import PLACE, Client, running

from busmt.deployment.server.model import ServedModel
from busmt.errors import ExportError


class Named:
    """A signature that answers with the version it belongs to."""

    input, shape, text = "encoded", (), True

    def __init__(self, version: int):
        self.version = np.int32(version)

    def warm_up(self, batch):
        return {}

    def read(self, instances, image_pixels, request_pixels):
        return list(instances)

    def run(self, items):
        time.sleep(0.002)
        return [{"version": self.version} for _ in items]


def named(folder) -> ServedModel:
    if (folder / "broken").exists():
        raise ExportError(f"{folder}: broken")
    return ServedModel(folder.name, {"serving_bytes": Named(int(folder.name))}, {})


def publish(export, version: int, broken: bool = False) -> None:
    draft = export / f".draft{version}"
    draft.mkdir()
    (draft / "saved_model.pb").write_bytes(b"")
    if broken:
        (draft / "broken").write_bytes(b"")
    draft.rename(export / str(version))


def _arrived(client: Client) -> float:
    """Predict requests that the server has, or has answered."""
    page = client.get("/metrics").body.decode()
    return sum(map(float, re.findall(r"^busmt_requests_(?:active|total\{.*\}) (\S+)$", page, re.MULTILINE)))


def _until(happened, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def _version(client: Client) -> str:
    return client.get(PLACE).json["model_version_status"][0]["version"]


def test_a_change_of_version_under_load_drops_nothing(tmp_path):
    publish(tmp_path, 1)
    with running(tmp_path, named, poll=0.02) as client, ThreadPoolExecutor(8) as pool:
        stop, seen = threading.Event(), []

        def ask():
            while not stop.is_set():
                answer = client.predict([b"x"])
                assert answer.code == 200
                seen.append(answer.json["predictions"][0]["version"])

        jobs = [pool.submit(ask) for _ in range(8)]
        for version in (2, 3, 10):
            publish(tmp_path, version)
            _until(lambda version=version: version in seen)
        stop.set()
        for job in jobs:
            job.result()
        assert set(seen) == {1, 2, 3, 10}
        assert client.get(f"{PLACE}/versions/3").code == 404
        assert b'busmt_model_loads_total{result="success"} 3.0' in client.get("/metrics").body


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_in_place(tmp_path):
    publish(tmp_path, 1)
    with running(tmp_path, named, poll=0.02) as client:
        publish(tmp_path, 2, broken=True)
        _until(lambda: b'busmt_model_loads_total{result="failure"} 1.0' in client.get("/metrics").body)
        (tmp_path / "notes").mkdir()
        (tmp_path / "3").mkdir()  # empty: somebody is just copying
        time.sleep(0.2)
        assert _version(client) == "1"
        assert b'busmt_model_loads_total{result="failure"} 1.0' in client.get("/metrics").body
        (tmp_path / "2" / "broken").unlink()
        _until(lambda: _version(client) == "2")


def test_taking_the_newest_version_away_goes_back_to_the_one_before(tmp_path):
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    with running(tmp_path, named, poll=0.02) as client:
        assert _version(client) == "2"
        shutil.rmtree(tmp_path / "2")
        _until(lambda: _version(client) == "1")
        shutil.rmtree(tmp_path / "1")
        time.sleep(0.1)
        assert _version(client) == "1"


def test_a_versions_own_folder_stays_what_it_is(tmp_path):
    publish(tmp_path, 1)
    with running(tmp_path / "1", named, poll=0.02) as client:
        publish(tmp_path, 2)
        time.sleep(0.2)
        assert _version(client) == "1"


@pytest.fixture
def process(served_export, tmp_path):
    """`busmt serve` in a process of its own: the process, its address, and the folder that it serves."""
    export = shutil.copytree(served_export, tmp_path / "Breast model")
    command = [sys.executable, "-m", "busmt", "serve", export, "--port", "0", "--poll", "0.2", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    text = ""
    while not text.rstrip().endswith("}"):
        line = server.stdout.readline()
        assert line, server.stderr.read()
        text += line
    yield server, json.loads(text)["address"], export
    if server.poll() is None:
        server.kill()
    server.communicate()


@pytest.mark.slow
def test_a_hundred_clients_a_new_version_and_a_graceful_stop(process, scans):
    server, address, export = process
    specification = importlib.util.spec_from_file_location("client_rest", export / "serving" / "client_rest.py")
    client = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(client)
    alone = [client.predict([data], address)[0] for data in scans]

    def ask(number: int):
        data = b"junk" if number % 10 == 9 else scans[number % len(scans)]
        return number, client.predict([data], address)[0]

    def check(number: int, answer: dict) -> None:
        assert answer["status"] == (number % 10 == 9)
        if not answer["status"]:
            for name in ("label", "mask"):
                np.testing.assert_allclose(answer[name], alone[number % len(scans)][name], atol=1e-4)

    with ThreadPoolExecutor(100) as pool:
        for number, answer in pool.map(ask, range(100)):
            check(number, answer)

        shutil.copytree(export / "1", export / ".draft")
        (export / ".draft").rename(export / "2")
        number, host = 0, Client(address)
        while host.get("/v1/models/breast-model").json["model_version_status"][0]["version"] == "1":
            for position, answer in pool.map(ask, range(number, number + 10)):
                check(position, answer)
            number += 10
        assert number

        before = _arrived(host)
        late = [pool.submit(client.predict, [scans[0]] * 16, address) for _ in range(8)]
        _until(lambda: _arrived(host) == before + 8)
        server.send_signal(signal.SIGTERM)
        for job in late:
            assert [answer["class_id"] for answer in job.result()] == [alone[0]["class_id"]] * 16
    assert server.wait(timeout=60) == 0
    with pytest.raises(urllib.error.URLError):
        client.predict([scans[0]], address)
    assert "Traceback" not in server.stderr.read()
