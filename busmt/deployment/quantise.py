"""Smaller TFLite files: float16, dynamic-range int8 and full int8, with chosen parts of the network left in float.

Quantisation is done by `ai-edge-quantizer` on the float32 file. Three things are decided here instead of there:

- The range of an activation is its smallest and largest value over all calibration images, each without the
  `TAIL` of its extreme values. The library's way is a moving average over the images.
- A channel whose weights are nearly zero still carries its bias, but int32 cannot hold a bias in units of so
  small a scale: it would be cut off. The scale of such a channel is therefore raised until its bias fits.
- Rounded weights shift a channel's mean, for its inputs are not centred. The shift that is expected on the
  calibration images is taken from the bias (Nagel et al., ICCV 2019, section 4.2, from data).
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from busmt.config import CLASSES, IMAGE_INPUT, tasks_of
from busmt.data.catalog import Catalog
from busmt.errors import ExportError
from busmt.prediction import interpret

VARIANTS: tuple[str, ...] = ("float32", "float16", "int8-dynamic", "int8")
"""float16: half-precision weights; int8-dynamic: int8 weights, activations float between layers; int8: both int8."""
QUANTISED: tuple[str, ...] = ("int8-dynamic", "int8")
CALIBRATION_IMAGES: int = 120
SENSITIVITY_IMAGES: int = 24
"""Calibration images that parts are ranked on."""
TAIL: float = 1e-4
"""Share of an image's values of a tensor that may lie below, and above, the range of that tensor."""
LARGE_PART: int = 50_000
"""A part with more weights than this keeps int8 weights when it is left in float: its activations alone are float."""

_PART = re.compile(r"(?:^|[/;])(encoder_[a-z]+\d*|encoder\d+|attention\d+|decoder\d+)_")
_LARGEST_BIAS = 2.0**30
_FLOAT32 = 0
"""Type of a float32 tensor in the file."""
_CONVOLUTIONS = {"CONV_2D": (1, 2, 3), "DEPTHWISE_CONV_2D": (0, 1, 2)}
"""Axes of their weights within an output channel."""


def calibration_positions(catalog: Catalog, count: int = CALIBRATION_IMAGES) -> list[int]:
    """Positions of images for calibration, the same number of each class where there are enough, spread evenly."""
    share = -(-count // max(1, len(catalog.classes)))
    chosen: list[int] = []
    for name in catalog.classes:
        rows = np.flatnonzero(catalog.labels == CLASSES.index(name))
        chosen += rows[np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int))].tolist()
    return chosen


def half(content: bytes) -> bytes:
    """A float32 .tflite file with the weights of its convolutions and dense layers in float16.

    Raises:
        ExportError: the quantiser refuses the network.
    """
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

    quantizer = _quantizer(content)
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        name, whole = TFLOperationName(operation), QuantGranularity.TENSORWISE
        quantizer.add_weight_only_config(".*", name, 16, whole, AlgorithmName.FLOAT_CASTING)
    return _finish(quantizer, None)


@dataclass(frozen=True)
class Part:
    """A group of layers that is quantised, or left in float, together: a block of the encoder, a gate, a decoder level.

    Attributes:
        name: beginning of its layers' names.
        weights: number of its weights.
    """

    name: str
    weights: int


class Quantiser:
    """A float32 .tflite file that is turned into int8 files.

    The heads and the refinement are in no part and always stay in float: int8 rounds a probability to 1/256,
    which can turn a decision.

    Args:
        content: the float32 file.
        pictures: training images (S, S, 1), float32, in [0, 1], letterboxed by the pipeline.
    """

    def __init__(self, content: bytes, pictures: Sequence[np.ndarray]):
        self._content, self._pictures = content, list(pictures)
        self._graph = _Graph(content)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the network, in the order of its operations."""
        return self._graph.parts

    def quantise(self, variant: str, floats: Sequence[str] = (), only: Sequence[str] | None = None) -> bytes:
        """A .tflite file with float input and outputs.

        Args:
            variant: of `QUANTISED`.
            floats: names of the parts whose activations stay float. Their weights do too, unless there are
                more than `LARGE_PART`.
            only: names of the parts to quantise at all; None: all.

        Raises:
            ExportError: the quantiser refuses the network.
        """
        from ai_edge_quantizer.qtyping import TFLOperationName

        chosen = [part for part in self.parts if only is None or part.name in only]
        rounded = {part.name for part in chosen if part.name not in floats or part.weights > LARGE_PART}
        quantizer = _quantizer(self._graph.corrected(rounded, self._statistics, self._weight_ranges))
        for part in chosen:
            scope = rf"(^|[/;]){part.name}_"
            if variant == "int8" and part.name not in floats:
                quantizer.add_static_config(scope, TFLOperationName.ALL_SUPPORTED, 8, 8)
            elif part.name in rounded:
                # a depthwise convolution has no dynamic kernel worth its name: float arithmetic, int8 weights
                quantizer.add_dynamic_config(scope, TFLOperationName.CONV_2D, 8)
                quantizer.add_weight_only_config(scope, TFLOperationName.DEPTHWISE_CONV_2D, 8)
        return _finish(quantizer, self._ranges if quantizer.need_calibration else None)

    def ranking(self, variant: str) -> list[str]:
        """Names of the parts, the one first that changes the answers most when it alone is quantised.

        Measured on training images: mean change of the lesion and class probabilities.
        """
        if variant not in self._rankings:
            damage = {part.name: self._damage(variant, part.name) for part in self.parts}
            self._rankings[variant] = sorted(damage, key=lambda name: -damage[name])
        return self._rankings[variant]

    @cached_property
    def _rankings(self) -> dict[str, list[str]]:
        return {}

    def _damage(self, variant: str, part: str) -> float:
        answers = _answers(self.quantise(variant, only=[part]), self._samples)
        return sum(float(np.abs(own - other).mean()) for own, other in zip(self._reference, answers, strict=True))

    @cached_property
    def _samples(self) -> list[np.ndarray]:
        chosen = np.linspace(0, len(self._pictures) - 1, min(SENSITIVITY_IMAGES, len(self._pictures)))
        return [self._pictures[position] for position in chosen.round().astype(int)]

    @cached_property
    def _reference(self) -> list[np.ndarray]:
        return _answers(self._content, self._samples)

    @cached_property
    def _statistics(self) -> dict[str, Statistics]:
        return _observe(self._content, self._graph.activations, self._pictures)

    @cached_property
    def _weight_ranges(self) -> dict[str, np.ndarray]:
        return self._graph.weight_ranges(self._statistics)

    @cached_property
    def _ranges(self) -> dict[str, dict[str, np.ndarray]]:
        """Smallest and largest value by tensor name, in the shape that the quantiser expects."""
        ranges = {
            name: {"min": np.full(known.rank, known.low), "max": np.full(known.rank, known.high)}
            for name, known in self._statistics.items()
        }
        return ranges | {name: {"min": -bound, "max": bound} for name, bound in self._weight_ranges.items()}


@dataclass(frozen=True)
class Statistics:
    """What an activation is on the calibration images.

    Attributes:
        low, high: its range.
        means: mean of each channel (C,), float64.
        rank: shape of one value for the whole tensor: ones, as many as it has axes.
    """

    low: float
    high: float
    means: np.ndarray
    rank: tuple[int, ...]


def _quantizer(content: bytes) -> Any:
    from ai_edge_quantizer.quantizer import Quantizer

    return Quantizer(bytearray(content))


def _finish(quantizer: Any, ranges: dict[str, dict[str, np.ndarray]] | None) -> bytes:
    try:
        # one of its progress bars cannot be turned off; it looks at the float file in a way that warns
        with redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore", category=UserWarning):
            result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ExportError(f"TFLite quantisation failed: {str(error).strip().splitlines()[0]}") from error
    return bytes(result.quantized_model)


class _Graph:
    """What has to be known about a .tflite file: its operations, their parts and weights."""

    def __init__(self, content: bytes):
        from ai_edge_litert.tools import flatbuffer_utils

        self._content = content
        self._model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        graph = self._model.subgraphs[0]
        self._tensors = graph.tensors
        names = [flatbuffer_utils.opcode_to_name(self._model, operation.opcodeIndex) for operation in graph.operators]
        self._operations = list(zip(names, graph.operators, strict=True))
        made = [index for operation in graph.operators for index in operation.outputs]
        self.activations = {self._name(index) for index in [*graph.inputs, *made]}

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        weights: dict[str, int] = {}
        for _, operation in self._operations:
            part = self._part(operation)
            if part:
                constants = [self._constant(index) for index in operation.inputs]
                weights[part] = weights.get(part, 0) + sum(values.size for values in constants if values is not None)
        return tuple(Part(name, count) for name, count in weights.items())

    def weight_ranges(self, statistics: Mapping[str, Statistics]) -> dict[str, np.ndarray]:
        """Largest absolute value that int8 stands for, by the name of a convolution's weights: per channel, in a
        shape that they can be divided by, and large enough for the channel's bias."""
        ranges = {}
        for kind, operation, weights, bias in self._convolutions():
            source = statistics[self._name(operation.inputs[0])]
            largest = np.abs(weights).max(axis=_CONVOLUTIONS[kind], keepdims=True)
            step = max((source.high - source.low) / 255, np.finfo(np.float32).tiny)
            enough = np.abs(bias).reshape(largest.shape) * 127 / step / _LARGEST_BIAS
            ranges[self._name(operation.inputs[1])] = np.maximum(largest, enough).astype(np.float32)
        return ranges

    def corrected(
        self, parts: set[str], statistics: Mapping[str, Statistics], ranges: Mapping[str, np.ndarray]
    ) -> bytes:
        """The file with biases that make up for the rounding of the weights of these parts."""
        from ai_edge_litert.tools import flatbuffer_utils

        changed = flatbuffer_utils.read_model_from_bytearray(bytearray(self._content))
        used = Counter(self._tensors[index].buffer for _, operation in self._operations for index in operation.inputs)
        for kind, operation, weights, bias in self._convolutions():
            buffer = self._tensors[operation.inputs[2]].buffer
            if self._part(operation) not in parts or used[buffer] > 1:
                continue
            step = np.maximum(ranges[self._name(operation.inputs[1])], np.finfo(np.float32).tiny) / 127
            error = np.clip(np.round(weights / step), -127, 127) * step - weights
            means = statistics[self._name(operation.inputs[0])].means
            shift = (error * means).sum(axis=_CONVOLUTIONS[kind])
            data = (bias - shift.reshape(bias.shape)).astype(np.float32).tobytes()
            changed.buffers[buffer].data = np.frombuffer(data, np.uint8)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(changed))

    def _convolutions(self) -> Iterator[tuple[str, Any, np.ndarray, np.ndarray]]:
        """Kind, operation, weights and bias of the convolutions that have both."""
        for kind, operation in self._operations:
            if kind in _CONVOLUTIONS and len(operation.inputs) > 2:
                weights, bias = self._constant(operation.inputs[1]), self._constant(operation.inputs[2])
                if weights is not None and bias is not None:
                    yield kind, operation, weights, bias

    def _part(self, operation: Any) -> str | None:
        found = _PART.search(self._name(operation.outputs[0]))
        return found.group(1) if found else None

    def _name(self, index: int) -> str:
        return self._tensors[index].name.decode()

    def _constant(self, index: int) -> np.ndarray | None:
        """Values of a float32 constant; None for anything else."""
        tensor = self._tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if data is None or tensor.type != _FLOAT32:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def _observe(content: bytes, names: set[str], pictures: Sequence[np.ndarray]) -> dict[str, Statistics]:
    """Run the float graph on pictures and note what its activations are."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that keeping every tensor takes memory
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    runner = interpreter.get_signature_runner()
    details = interpreter.get_tensor_details()
    watched = [detail for detail in details if detail["name"] in names and detail["dtype"] == np.float32]
    seen: dict[str, Statistics] = {}
    for picture in pictures:
        runner(**{IMAGE_INPUT: picture[None]})
        for detail in watched:
            values = interpreter.get_tensor(detail["index"])
            low, high = _range(values.ravel())
            means = values.reshape(-1, values.shape[-1] if values.ndim else 1).mean(axis=0, dtype=np.float64)
            known = seen.get(detail["name"], Statistics(low, high, np.zeros_like(means), (1,) * values.ndim))
            seen[detail["name"]] = Statistics(
                min(known.low, low), max(known.high, high), known.means + means / len(pictures), known.rank
            )
    return seen


def _range(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value without the `TAIL` at either end."""
    skipped = int(values.size * TAIL)
    if not skipped:
        return float(values.min()), float(values.max())
    ordered = np.partition(values, (skipped, values.size - 1 - skipped))
    return float(ordered[skipped]), float(ordered[-1 - skipped])


def _answers(content: bytes, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    forward, _ = interpret(content)
    answers = [forward(picture[None]) for picture in pictures]
    return [np.stack([row[task] for row in answers]) for task in tasks_of(answers[0])]
