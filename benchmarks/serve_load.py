"""Load on `busmt serve`: is every good request answered right, is none lost, does memory stay flat?

    python benchmarks/serve_load.py exports/busi --images path/to/images --out benchmarks/results/serve_load.json

A server is started on a copy of the export, on 127.0.0.1 alone. Rounds of requests follow, from many clients at a
time, each over its own kept-alive connection: single images, several images in row and in column form, images among
which one is broken, and one request in ten that no server should accept. Every answer is compared with what the
exported model says offline, on the image's own pixels. Then a new version is put in place under load, and at the end
the server gets SIGTERM under load. Everything is bounded: images, requests, clients, time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from busmt.data.images import IMAGE_SUFFIXES, write_json
from busmt.prediction import Predictor

MOST_IMAGES, MOST_REQUESTS, MOST_CLIENTS, MOST_ROUNDS = 200, 10_000, 64, 20
JSON = {"Content-Type": "application/json"}
SECONDS = 60


@dataclass(frozen=True)
class Known:
    """An image, encoded, and what the exported model says about it offline."""

    encoded: str
    probabilities: np.ndarray
    probability_map: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Job:
    """A request, and the check of its answer: (code, body) to "right" or what is wrong."""

    kind: str
    path: str
    body: bytes
    headers: dict[str, str]
    check: Callable[[int, bytes], str]


class Bench:
    """The requests and what their answers should be.

    Args:
        known: images with their answers.
        name: of the served model.
        restore: from an answer to a mask on the image's own pixels: the example client's.
    """

    def __init__(self, known: list[Known], name: str, restore: Callable[[dict], np.ndarray]):
        self._known, self._place, self._restore = known, f"/v1/models/{name}", restore

    def jobs(self, count: int, seed: int) -> list[Job]:
        """Mixed requests, one in ten of them bad."""
        rng = random.Random(seed)
        made = [self._bad(rng, number // 10) if number % 10 == 9 else self._good(rng) for number in range(count)]
        rng.shuffle(made)
        return made

    def single(self, number: int) -> Job:
        """One image."""
        return self._predict("one image", [self._known[number % len(self._known)]], "instances")

    def _good(self, rng: random.Random) -> Job:
        form = rng.choice(["instances", "inputs"])
        count = rng.choice([1, 1, 1, 1, 2, 4])
        chosen: list[Known | str] = list(rng.choices(self._known, k=count))
        if count == 4:
            broken = base64.b64decode(rng.choice(self._known).encoded)[:200]
            chosen[rng.randrange(4)] = base64.b64encode(broken).decode()
            return self._predict("a broken image among good ones", chosen, form)
        return self._predict("one image" if count == 1 else "two images", chosen, form)

    def _bad(self, rng: random.Random, number: int) -> Job:
        predict, large = f"{self._place}:predict", b" " * (33 * 2**20)
        text = b'{"signature_name": "serving_bytes", "instances": [%s]}'
        bomb = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0\0\0\0\0"
        encoded = base64.b64encode(bomb)
        picture = text % b'{"b64": "%s"}' % self._known[0].encoded.encode()
        kinds = [
            ("not JSON", predict, b'{"instances": [', JSON, 400),
            ("not base64", predict, text % b'{"b64": "*"}', JSON, 400),
            ("another content type", predict, picture, {"Content-Type": "text/plain"}, 415),
            ("unknown signature", predict, b'{"signature_name": "x", "instances": [1]}', JSON, 400),
            ("wrong shape", predict, b'{"instances": [[1, 2, 3]]}', JSON, 400),
            ("unknown model", "/v1/models/../../etc/passwd:predict", picture, JSON, 404),
            ("too many images", predict, text % b",".join([b'{"b64": "AAAA"}'] * 100), JSON, 400),
            ("decompression bomb", predict, text % b'{"b64": "%s"}' % encoded, JSON, 200),
            ("no image", predict, text % b'{"b64": "AAAA"}', JSON, 200),
            ("body too large", predict, large, JSON, 413),
        ]
        kind, path, body, headers, code = kinds[number % len(kinds)]

        def check(found: int, answer: bytes) -> str:
            if found != code:
                return f"{kind}: {found} instead of {code}"
            content = json.loads(answer)
            refused = content["predictions"][0]["status"] > 0 if code == 200 else list(content) == ["error"]
            return "right" if refused and b"Traceback" not in answer else f"{kind}: wrong answer"

        return Job(f"bad: {kind}", path, body, headers, check)

    def _predict(self, kind: str, images: list[Any], form: str) -> Job:
        encoded = [{"b64": item if isinstance(item, str) else item.encoded} for item in images]
        body = json.dumps({"signature_name": "serving_bytes", form: encoded}).encode()

        def check(code: int, answer: bytes) -> str:
            if code != 200:
                return f"{code} {answer[:100]!r}"
            content = json.loads(answer)
            rows = content.get("predictions") or _rows(content["outputs"])
            for image, row in zip(images, rows, strict=True):
                wrong = self._compare(image, row)
                if wrong:
                    return wrong
            return "right"

        return Job(kind, f"{self._place}:predict", body, JSON, check)

    def _compare(self, image: Known | str, row: dict) -> str:
        if isinstance(image, str):
            return "" if row["status"] > 0 and row["class_id"] == -1 else "a broken image got an answer"
        if row["status"] or row["class_id"] != int(image.probabilities.argmax()):
            return "wrong class"
        if np.abs(np.array(row["label"]) - image.probabilities).max() > 1e-3:
            return "wrong probabilities"
        if np.abs(np.array(row["mask"])[..., 0] - image.probability_map).max() > 1e-3:
            return "wrong mask"
        mask = self._restore(row)
        total = int(mask.sum() + image.mask.sum())
        return "" if not total or 2 * int((mask & image.mask).sum()) / total >= 0.99 else "wrong mask on the image"


class Clients:
    """Many clients of one server, each with a connection that it keeps."""

    def __init__(self, address: str, count: int):
        parts = urlsplit(address)
        self._place = (parts.hostname or "", parts.port or 0)
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(count)

    def run(self, jobs: list[Job]) -> list[tuple[Job, str, float]]:
        """Each job, whether its answer was right, and the seconds that it took."""
        return list(self._pool.map(self._one, jobs))

    def get(self, path: str) -> bytes:
        """A page of the server."""
        connection = http.client.HTTPConnection(*self._place, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    def fresh(self, job: Job) -> str:
        """One job over a new connection: "right", "refused" (never connected) or what went wrong."""
        connection = http.client.HTTPConnection(*self._place, timeout=SECONDS)
        with contextlib.closing(connection):
            try:
                connection.connect()
            except ConnectionRefusedError:
                return "refused"
            try:
                return job.check(*self._send(connection, job))
            except (OSError, http.client.HTTPException) as error:
                return f"lost ({type(error).__name__})"

    def _one(self, job: Job) -> tuple[Job, str, float]:
        start = time.perf_counter()
        result = ""
        for attempt in range(2):  # a kept connection may have been closed since: every client must expect that
            kept = getattr(self._local, "connection", None)
            connection = kept or http.client.HTTPConnection(*self._place, timeout=SECONDS)
            self._local.connection = connection
            try:
                code, answer = self._send(connection, job)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                result = f"lost ({type(error).__name__})"
                if kept and attempt == 0:
                    continue
            else:
                seconds = time.perf_counter() - start
                return job, job.check(code, answer), seconds
            break
        return job, result, time.perf_counter() - start

    @staticmethod
    def _send(connection: http.client.HTTPConnection, job: Job) -> tuple[int, bytes]:
        connection.request("POST", job.path, job.body, job.headers)
        response = connection.getresponse()
        return response.status, response.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="folder with PNG or JPEG images")
    parser.add_argument("--data", default="", help="name of the images, for the result")
    parser.add_argument("--count", type=int, default=60, help="images, evenly from the folder")
    parser.add_argument("--requests", type=int, default=1000, help="per round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    count, requests = min(options.count, MOST_IMAGES), min(options.requests, MOST_REQUESTS)
    rounds, clients = min(options.rounds, MOST_ROUNDS), min(options.clients, MOST_CLIENTS)

    known = offline(options.export, options.images, count)
    with tempfile.TemporaryDirectory() as folder:
        export = shutil.copytree(options.export, Path(folder) / options.export.resolve().name)
        with serving(export) as (server, started):
            bench = Bench(known, started["model"], _restore(export))
            users = Clients(started["address"], clients)
            users.run([bench.single(number) for number in range(2 * clients)])
            figures: dict[str, Any] = {
                "images": options.data or options.images.name, "distinct_images": len(known),
                "requests_per_round": requests, "clients": clients, "rounds": [],
            }  # fmt: skip
            for number in range(rounds):
                figures["rounds"].append(one_round(users, bench.jobs(requests, number)))
                print(json.dumps(figures["rounds"][-1]), flush=True)
            figures["reload_under_load"] = reload_under_load(users, bench, export, started)
            print(json.dumps(figures["reload_under_load"]), flush=True)
            figures["sigterm_under_load"] = stop_under_load(users, bench, server, clients)
            print(json.dumps(figures["sigterm_under_load"]), flush=True)
    if options.out:
        write_json(options.out, figures)
    parts = [*figures["rounds"], figures["reload_under_load"], figures["sigterm_under_load"]]
    return 1 if any(part["wrong_or_lost"] for part in parts) else 0


def offline(export: Path, folder: Path, count: int) -> list[Known]:
    """Images and what the exported SavedModel says about them without a server."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    paths = [path for path in paths if "_mask" not in path.stem]
    if not paths:
        sys.exit(f"{folder}: no images there")
    positions = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    predictor, known = Predictor.load(export), []
    for path in [paths[position] for position in positions]:
        said = predictor.predict_file(path)
        encoded = base64.b64encode(path.read_bytes()).decode()
        known.append(Known(encoded, said.probabilities, said.probability_map, said.mask))
    return known


@contextlib.contextmanager
def serving(export: Path) -> Iterator[tuple[subprocess.Popen, dict]]:
    """`busmt serve` on a free port, and what it says of itself."""
    command = [sys.executable, "-m", "busmt", "serve", str(export), "--port", "0", "--poll", "0.5", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            line = server.stdout.readline() if server.stdout else ""
            if not line:
                sys.exit("the server did not start")
            text += line
        yield server, json.loads(text)
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def one_round(users: Clients, jobs: list[Job]) -> dict:
    """Counts, times and the server's memory afterwards."""
    start = time.perf_counter()
    done = users.run(jobs)
    seconds = time.perf_counter() - start
    good = sorted(took for job, _, took in done if not job.kind.startswith("bad"))
    return {
        "requests": len(done),
        "bad": sum(job.kind.startswith("bad") for job, _, _ in done),
        "kinds": dict(sorted(Counter(job.kind for job, _, _ in done).items())),
        **_outcomes([result for _, result, _ in done]),
        "seconds": round(seconds, 1),
        "milliseconds": {f"p{p}": round(1000 * float(np.percentile(good, p)), 1) for p in (50, 95, 99)},
        "server_memory_mb": _memory(users),
    }


def reload_under_load(users: Clients, bench: Bench, export: Path, started: dict) -> dict:
    """Put a copy of the version in place as the next one; ask until it has been taken up, and a little longer."""
    fresh = str(int(started["version"]) + 1)
    shutil.copytree(export / started["version"], export / ".draft")
    (export / ".draft").rename(export / fresh)
    results: list[str] = []
    start, deadline, taken_up = time.perf_counter(), time.monotonic() + 120, 0.0
    while time.monotonic() < deadline:
        results += [result for _, result, _ in users.run(bench.jobs(64, len(results)))]
        if taken_up:
            break
        page = json.loads(users.get(f"/v1/models/{started['model']}"))
        if page["model_version_status"][0]["version"] == fresh:
            taken_up = time.perf_counter() - start
    return {
        "requests": len(results), **_outcomes(results), "taken_up": bool(taken_up),
        "seconds_until_seen": round(taken_up, 1), "server_memory_mb": _memory(users),
    }  # fmt: skip


def stop_under_load(users: Clients, bench: Bench, server: subprocess.Popen, clients: int) -> dict:
    """SIGTERM while clients ask over new connections: each is answered right, or refused before it could ask."""
    sent = threading.Event()

    def ask(number: int) -> list[str]:
        results = []
        while len(results) < 1000 and (not results or results[-1] != "refused"):
            results.append(users.fresh(bench.single(number + len(results))))
            if len(results) > 3:
                sent.set()
        return results

    with ThreadPoolExecutor(clients) as pool:
        jobs = [pool.submit(ask, number) for number in range(clients)]
        sent.wait(SECONDS)
        start = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        results = [result for job in jobs for result in job.result()]
    code = server.wait(SECONDS)
    refused = results.count("refused")
    answered = [result for result in results if result != "refused"]
    return {
        "requests": len(answered), **_outcomes(answered), "refused_after_the_signal": refused,
        "exit_code": code, "seconds_until_gone": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _outcomes(results: list[str]) -> dict:
    wrong = Counter(result for result in results if result != "right")
    return {"right": results.count("right"), "wrong_or_lost": dict(wrong)}


def _memory(users: Clients) -> int:
    page = users.get("/metrics").decode()
    line = next(line for line in page.splitlines() if line.startswith("process_resident_memory_bytes"))
    return round(float(line.split()[1]) / 2**20)


def _rows(columns: dict[str, list]) -> list[dict]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _restore(export: Path) -> Callable[[dict], np.ndarray]:
    path = export / "serving" / "client_rest.py"
    specification = importlib.util.spec_from_file_location("client_rest", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.restore_mask


if __name__ == "__main__":
    sys.exit(main())
