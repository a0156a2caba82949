"""How long one image takes: one network, every way of running it that is installed, on this machine.

All contenders are measured in turn: each round calls every one of them twice and counts the second call, and starts
with another one each time, so that other load on the machine hits all alike. What is compared are therefore ratios
within one table, never figures of two.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from busmt.config import CLASSES, IMAGE_INPUT, LABEL_OUTPUT, MASK_OUTPUT, TASKS, tasks_of
from busmt.data.phantom import make_phantom
from busmt.deployment.export import FORMATS, export_run, variant_file
from busmt.deployment.quantise import VARIANTS
from busmt.errors import ExportError, MissingPackageError
from busmt.prediction import SIDECAR, Forward, Predictor, interpret, load_network
from busmt.training.run import Run

REFERENCE = "Keras predict"
WARM_UP: int = 5
"""Calls of each contender that are not counted."""
ROUNDS: int = 40
_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "onnxruntime", "openvino", "torch", "numpy")


@dataclass(frozen=True)
class Contender:
    """A way of running the network.

    Attributes:
        name: for people.
        threads: number of threads that it was given; None: its own default.
        forward: from inputs (1, S, S, 1) to outputs by name.
    """

    name: str
    threads: int | None
    forward: Forward


@dataclass(frozen=True)
class Skipped:
    """A way of running the network that is missing here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Latency:
    """Time for one image.

    Attributes:
        name, threads: of the contender.
        median, low, high: median and quartiles, milliseconds.
        ratio: median of the reference divided by this one: how many times as fast.
        difference: largest difference of a lesion or class probability from the reference's, on the image measured;
            NaN where they have no task in common.
        calls: number of calls that were counted.
    """

    name: str
    threads: int | None
    median: float
    low: float
    high: float
    ratio: float
    difference: float
    calls: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Bench:
    """A table of latencies.

    Attributes:
        machine: processor, cores, versions.
        rows: in the order in which they were measured; the first is the reference.
        skipped: what could not be measured.
    """

    machine: dict[str, Any]
    rows: list[Latency]
    skipped: list[Skipped]

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "reference": self.rows[0].name,
            "rows": [row.to_dict() for row in self.rows],
            "skipped": [asdict(row) for row in self.skipped],
        }


def benchmark_run(
    run: Run,
    folder: Path,
    threads: Sequence[int] = (1, 2),
    rounds: int = ROUNDS,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> Bench:
    """Measure the network of a run in every way that is installed here.

    Args:
        run: a finished run.
        folder: an export of it; where it is empty, one is written there first, with `force`.
        threads: for the contenders whose number of threads can be set. TensorFlow uses its own default.
        rounds: calls of each contender that are counted.
        say: called with a line of text at each stage.
        progress: called with (done, total) rounds.

    Raises:
        ExportError: the folder holds something else than an export.
        RunError: the run has not finished.
    """
    network = load_network(run.model_path)
    if any(folder.iterdir()) and not (folder / SIDECAR).exists():
        raise ExportError(f"{folder}: not an export of busmt ({SIDECAR} is missing)")
    if not any(folder.iterdir()):
        export_run(run, folder, FORMATS, say, force=True)
    size = int(network.input_shape[1])
    picture = make_phantom("benign", 0, (size, size)).image[None, ..., None].astype(np.float32) / 255
    entries = list(_contenders(run, network, folder, threads, say))
    contenders = [entry for entry in entries if isinstance(entry, Contender)]
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    say(f"measuring {len(contenders)} contenders, {rounds} rounds")
    return Bench(machine(), measure(contenders, picture, rounds, progress), skipped)


def measure(
    contenders: Sequence[Contender],
    picture: np.ndarray,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Latency]:
    """Call contenders in turn and time each call; the first one is the reference.

    Args:
        contenders: at least one.
        picture: what they are called with, (1, S, S, 1), float32, in [0, 1].
        rounds: calls of each that are counted.
        progress: called with (done, total) rounds.
    """
    answers = [contender.forward(picture) for contender in contenders]
    for contender in contenders:
        for _ in range(WARM_UP):
            contender.forward(picture)
    times = np.zeros((len(contenders), rounds))
    for number in range(rounds):
        for position in np.roll(np.arange(len(contenders)), -number).tolist():
            contenders[position].forward(picture)  # not counted: caches are cold, other threads still spin
            start = time.perf_counter()
            contenders[position].forward(picture)
            times[position, number] = 1000 * (time.perf_counter() - start)
        if progress:
            progress(number + 1, rounds)
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75), axis=1)
    return [
        Latency(
            contender.name, contender.threads, float(median[row]), float(low[row]), float(high[row]),
            float(median[0] / median[row]), _difference(answers[0], answers[row]), rounds,
        )
        for row, contender in enumerate(contenders)
    ]  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, number of cores that this process may use, and versions of what was measured."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _contenders(
    run: Run, network: Any, folder: Path, threads: Sequence[int], say: Callable[[str], None]
) -> Iterator[Contender | Skipped]:
    yield Contender(REFERENCE, None, lambda picture: network.predict(picture, verbose=0))
    yield Contender("Keras predict_on_batch", None, network.predict_on_batch)
    if any(entry.name.isdigit() for entry in folder.iterdir()):
        yield Contender("SavedModel", None, Predictor.load(folder).predict_arrays)
    else:
        yield Skipped("SavedModel", f"not in {folder}")
    for variant in VARIANTS:
        path = folder / variant_file(variant)
        if not path.exists():
            yield Skipped(f"TFLite {variant}", f"not in {folder}")
            continue
        for count in threads:
            yield Contender(f"TFLite {variant}", count, interpret(path, count)[0])
    yield from _onnx_contenders(network, threads, say)
    yield _torch_contender(run, tasks_of(network.output))


def _onnx_contenders(network: Any, threads: Sequence[int], say: Callable[[str], None]) -> Iterator[Contender | Skipped]:
    names = ("ONNX Runtime float32", "OpenVINO float32")
    say("converting to ONNX")
    try:
        content = _onnx(network)
    except ModuleNotFoundError as error:
        for name in names:
            yield Skipped(name, str(MissingPackageError.of(error, "the conversion")))
        return
    for name, make in zip(names, (_onnx_runtime, _openvino), strict=True):
        try:
            for count in threads:
                yield Contender(name, count, make(content, count))
        except ModuleNotFoundError as error:
            yield Skipped(name, str(MissingPackageError.of(error, "it")))


def _onnx(network: Any) -> bytes:
    import tensorflow as tf
    import tf2onnx

    shape = (1, *network.input_shape[1:])
    signature = [tf.TensorSpec(shape, tf.float32, name=IMAGE_INPUT)]

    @tf.function(input_signature=signature)
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(image, training=False)
        return {name: outputs[name] for name in tasks_of(outputs)}

    return tf2onnx.convert.from_function(serve, input_signature=signature, opset=17)[0].SerializeToString()


def _onnx_runtime(content: bytes, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda picture: dict(zip(names, session.run(names, {IMAGE_INPUT: picture}), strict=True))


def _openvino(content: bytes, threads: int) -> Forward:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 where the processor has it
    }
    compiled = core.compile_model(core.read_model(content), "CPU", settings)

    def forward(picture: np.ndarray) -> dict[str, np.ndarray]:
        answer = compiled([picture])
        return {name: answer[name] for name in tasks_of(output.get_any_name() for output in compiled.outputs)}

    return forward


def _torch_contender(run: Run, tasks: Sequence[str]) -> Contender | Skipped:
    name = "PyTorch (Keras on its torch backend)"
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Skipped(name, "torch is not installed")
    return Contender(name, None, OtherBackend(run.model_path, "torch", tasks))


class OtherBackend:
    """The same Keras network on another backend, in a process of its own, for Keras has one backend per process.

    What is timed includes the way of the image and the answer through two pipes, some tenths of a millisecond.

    Args:
        path: of the .keras file.
        backend: "torch", "jax" or "tensorflow".
        tasks: of the network.

    Raises:
        ExportError: on a call, where the process has died.
    """

    _CODE = """
import sys
import numpy as np
from busmt.prediction import load_network
network = load_network(sys.argv[1])
size = int(network.input_shape[1])
pipe, sys.stdout = sys.stdout.buffer, sys.stderr
while data := sys.stdin.buffer.read(4 * size * size):
    answer = network.predict_on_batch(np.frombuffer(data, np.float32).reshape(1, size, size, 1))
    pipe.write(b"".join(np.asarray(answer[name], np.float32).tobytes() for name in sys.argv[2:]))
    pipe.flush()
"""

    def __init__(self, path: Path, backend: str, tasks: Sequence[str] = TASKS):
        self._backend, self._tasks = backend, tasks
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(path), *tasks],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __call__(self, picture: np.ndarray) -> dict[str, np.ndarray]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(picture.tobytes())
            self._process.stdin.flush()
        except OSError as error:
            raise ExportError(f"the network does not run on Keras' {self._backend} backend") from error
        shapes = {MASK_OUTPUT: picture.shape, LABEL_OUTPUT: (1, len(CLASSES))}
        answer = {}
        for task in self._tasks:
            values = np.frombuffer(self._process.stdout.read(4 * math.prod(shapes[task])), np.float32)
            if values.size != math.prod(shapes[task]):
                raise ExportError(f"the network does not run on Keras' {self._backend} backend")
            answer[task] = values.reshape(shapes[task])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    gaps = [float(np.abs(first[name] - second[name]).max()) for name in tasks_of(set(first) & set(second))]
    return max(gaps) if gaps else math.nan


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
