"""The latency table: every contender in turn, checked against the reference, and nothing silently left out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from busmt.cli.benchmark import benchmark
from busmt.deployment import latency
from busmt.deployment.latency import WARM_UP, Bench, Contender, Latency, OtherBackend, Skipped, benchmark_run, measure
from busmt.errors import ExportError
from busmt.prediction import load_network
from busmt.training.run import Run

PICTURE = np.zeros((1, 64, 64, 1), np.float32)


def answer(value: float) -> dict[str, np.ndarray]:
    return {"mask": np.full((1, 64, 64, 1), value), "label": np.zeros((1, 3))}


@pytest.fixture
def no_onnx(monkeypatch):
    def missing(network):
        raise ModuleNotFoundError("No module named 'tf2onnx'", name="tf2onnx")

    monkeypatch.setattr(latency, "_onnx", missing)


def test_contenders_take_turns_and_each_round_starts_with_another(monkeypatch):
    calls, clock = [], iter(np.cumsum([0.0, *np.tile([0.002, 0.001], 1000)]))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(clock)))

    def contender(name, value):
        return Contender(name, None, lambda picture: calls.append(name) or answer(value))

    seen = []
    rows = measure([contender("a", 0.0), contender("b", 0.25)], PICTURE, 3, lambda *done: seen.append(done))
    warm = ["a", "b", *["a"] * WARM_UP, *["b"] * WARM_UP]
    assert calls[: len(warm)] == warm
    assert "".join(calls[len(warm) :]) == "aabb" + "bbaa" + "aabb"
    assert [row.median for row in rows] == pytest.approx([2.0, 2.0])
    assert [row.difference for row in rows] == [0.0, 0.25]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_ratios_and_quartiles(monkeypatch):
    durations = {"slow": [8.0, 10.0, 12.0], "fast": [2.0, 2.5, 4.0]}
    state = {"now": 0.0}
    monkeypatch.setattr(latency.time, "perf_counter", lambda: state["now"])

    def contender(name):
        counter = {"calls": 0}

        def forward(picture):
            counter["calls"] += 1
            number = counter["calls"] - WARM_UP - 2  # after the first answer and the warm-up, every second call counts
            state["now"] += durations[name][min(max(number, 0) // 2, 2)] / 1000
            return answer(0)

        return Contender(name, 1, forward)

    slow, fast = measure([contender("slow"), contender("fast")], PICTURE, 3)
    assert (slow.low, slow.median, slow.high, slow.ratio) == pytest.approx((9, 10, 11, 1))
    assert (fast.low, fast.median, fast.high, fast.ratio) == pytest.approx((2.25, 2.5, 3.25, 4))


def test_every_way_of_running_the_network_is_in_the_table(tiny_run_folder, tiny_export, no_onnx):
    result = benchmark_run(Run.open(tiny_run_folder), tiny_export.folder, threads=(1, 2), rounds=3)
    names = [(row.name, row.threads) for row in result.rows]
    variants = ["float32", "float16", "int8-dynamic", "int8"]
    assert names[:3] == [("Keras predict", None), ("Keras predict_on_batch", None), ("SavedModel", None)]
    assert names[3:11] == [(f"TFLite {variant}", count) for variant in variants for count in (1, 2)]
    assert all(0 < row.low <= row.median <= row.high for row in result.rows)
    differences = {row.name: row.difference for row in result.rows}
    assert differences["Keras predict"] == 0
    assert max(differences["SavedModel"], differences["TFLite float32"]) < 1e-4
    assert 0 < differences["TFLite int8"] < 0.5
    skipped = {row.name: row.reason for row in result.skipped}
    expected = 'the conversion needs tf2onnx, which is not installed: pip install "busmt[benchmark]"'
    assert skipped["ONNX Runtime float32"] == skipped["OpenVINO float32"] == expected
    assert result.machine["cores"] >= 1
    assert "tensorflow" in result.machine["versions"]


def test_what_an_export_lacks_is_named(tiny_run_folder, tiny_export, no_onnx, tmp_path):
    (tmp_path / "model.tflite").write_bytes((tiny_export.folder / "model.tflite").read_bytes())
    network = SimpleNamespace(predict=None, predict_on_batch=None, output={"mask": None, "label": None})
    entries = list(latency._contenders(Run.open(tiny_run_folder), network, tmp_path, (1,), lambda text: None))
    skipped = {entry.name: entry.reason for entry in entries if isinstance(entry, Skipped)}
    assert "TFLite float32" not in skipped
    missing = ("SavedModel", "TFLite float16", "TFLite int8-dynamic", "TFLite int8")
    assert {name: skipped[name] for name in missing} == dict.fromkeys(missing, f"not in {tmp_path}")


def test_the_command_prints_a_table_or_json(tiny_run_folder, tmp_path, monkeypatch):
    rows = [
        Latency("Keras predict", None, 80.0, 75.0, 90.0, 1.0, 0.0, 40),
        Latency("TFLite int8", 1, 4.0, 3.5, 4.5, 20.0, 0.01, 40),
    ]
    bench = Bench({"processor": "a processor", "cores": 2, "versions": {"keras": "3"}}, rows, [Skipped("X", "why")])
    monkeypatch.setattr(latency, "benchmark_run", lambda *arguments: bench)
    arguments = ["latency", str(tiny_run_folder), "--export", str(tmp_path)]
    lines = CliRunner().invoke(benchmark, arguments, catch_exceptions=False).stdout.splitlines()
    assert lines[0] == "a processor, 2 cores; keras 3"
    assert lines[2].split() == ["Keras", "predict", "default", "80.0", "75.0", "to", "90.0", "1.0"]
    assert lines[3].split() == ["TFLite", "int8", "1", "4.0", "3.5", "to", "4.5", "20.0"]
    assert lines[4].split() == ["X", "skipped:", "why"]
    found = json.loads(CliRunner().invoke(benchmark, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert found["reference"] == "Keras predict"
    assert found["rows"][1]["ratio"] == 20
    assert found["skipped"] == [{"name": "X", "reason": "why"}]


def test_folders_that_are_no_export_are_refused(tiny_run_folder, tmp_path):
    (tmp_path / "something").write_text("else")
    with pytest.raises(ExportError, match=r"not an export of busmt \(model.json is missing\)"):
        benchmark_run(Run.open(tiny_run_folder), tmp_path)
    arguments = ["latency", str(tiny_run_folder), "--export", str(tmp_path / "none")]
    with pytest.raises(ExportError, match="none: no such folder; make it with: busmt export"):
        CliRunner().invoke(benchmark, arguments, standalone_mode=False, catch_exceptions=False)


@pytest.mark.slow
def test_another_backend_runs_the_same_network_in_its_own_process(tiny_run_folder):
    """With the backend that is installed here; torch and jax go the same way."""
    other = OtherBackend(tiny_run_folder / "model.keras", "tensorflow")
    try:
        picture = np.random.default_rng(0).random(PICTURE.shape, dtype=np.float32)
        expected = load_network(tiny_run_folder / "model.keras").predict_on_batch(picture)
        for _ in range(2):
            found = other(picture)
            for name in ("mask", "label"):
                np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    finally:
        other.close()
    with pytest.raises(ExportError, match="does not run on Keras' tensorflow backend"):
        other(picture)


@pytest.mark.slow
def test_other_runtimes_give_the_same_answers(tiny_run_folder, tiny_export):
    for package in ("tf2onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    result = benchmark_run(Run.open(tiny_run_folder), tiny_export.folder, threads=(1,), rounds=3)
    differences = {row.name: row.difference for row in result.rows}
    assert differences["ONNX Runtime float32"] < 1e-4
    assert differences["OpenVINO float32"] < 1e-4
