"""Smaller TFLite files: float16, dynamic-range int8 and full int8, with chosen parts of the network left in float.

Quantisation is done by `ai-edge-quantizer` on the float32 file. Two things are decided here instead of there:

- The range of an activation is its smallest and largest value over all calibration images, each without the
  `TAIL` of its extreme values. A moving average over the images, which is the library's way, forgets most of them.
- A channel whose weights are nearly zero still carries its bias, but int32 cannot hold a bias in units of so
  small a scale: it would be cut off. The scale of such a channel is therefore raised until its bias fits.
  Pretrained encoders have such channels in nearly every block.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from busmt.config import CLASSES, IMAGE_INPUT, LABEL_OUTPUT, MASK_OUTPUT
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
_FLOAT_LIMIT = 2.0**30
_OPERATIONS_WITH_WEIGHTS = {"CONV_2D": (1, 2, 3), "DEPTHWISE_CONV_2D": (0, 1, 2)}
"""Their weights' axes within a channel."""


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

        quantizer = _quantizer(self._content)
        for part in self.parts:
            if only is not None and part.name not in only:
                continue
            scope = rf"(^|[/;]){part.name}_"
            if variant == "int8" and part.name not in floats:
                quantizer.add_static_config(scope, TFLOperationName.ALL_SUPPORTED, 8, 8)
            elif part.name not in floats or part.weights > LARGE_PART:
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
    def _reference(self) -> tuple[np.ndarray, np.ndarray]:
        return _answers(self._content, self._samples)

    @cached_property
    def _ranges(self) -> dict[str, dict[str, np.ndarray]]:
        """Smallest and largest value by tensor name, in the shape that the quantiser expects."""
        bounds = _activation_bounds(self._content, self._graph.activations, self._pictures)
        ranges = {
            name: {"min": np.full(self._graph.rank(name), low), "max": np.full(self._graph.rank(name), high)}
            for name, (low, high) in bounds.items()
        }
        return ranges | self._graph.weight_ranges(bounds)


def _quantizer(content: bytes) -> Any:
    from ai_edge_quantizer.quantizer import Quantizer

    return Quantizer(bytearray(content))


def _finish(quantizer: Any, ranges: dict[str, dict[str, np.ndarray]] | None) -> bytes:
    try:
        with redirect_stderr(io.StringIO()):  # one of its progress bars cannot be turned off
            result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ExportError(f"TFLite quantisation failed: {str(error).strip().splitlines()[0]}") from error
    return bytes(result.quantized_model)


class _Graph:
    """What has to be known about a .tflite file: its operations, their parts and weights."""

    def __init__(self, content: bytes):
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        graph = model.subgraphs[0]
        self._tensors, self._buffers = graph.tensors, model.buffers
        names = [flatbuffer_utils.opcode_to_name(model, operation.opcodeIndex) for operation in graph.operators]
        self._operations = list(zip(names, graph.operators, strict=True))
        made = [index for operation in graph.operators for index in operation.outputs]
        self.activations = {self._name(index) for index in [*graph.inputs, *made]}

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        weights: dict[str, int] = {}
        for _, operation in self._operations:
            found = _PART.search(self._name(operation.outputs[0]))
            if found:
                constants = [self._constant(index) for index in operation.inputs]
                count = sum(values.size for values in constants if values is not None)
                weights[found.group(1)] = weights.get(found.group(1), 0) + count
        return tuple(Part(name, count) for name, count in weights.items())

    def rank(self, name: str) -> tuple[int, ...]:
        """Shape of one value per tensor: ones, as many as the tensor has axes."""
        return self._ranks[name]

    def weight_ranges(self, bounds: dict[str, tuple[float, float]]) -> dict[str, dict[str, np.ndarray]]:
        """Ranges of the weights of convolutions, per channel, wide enough for the channel's bias."""
        ranges = {}
        for kind, operation in self._operations:
            if kind not in _OPERATIONS_WITH_WEIGHTS or len(operation.inputs) < 3:
                continue
            weights, bias = self._constant(operation.inputs[1]), self._constant(operation.inputs[2])
            source = bounds.get(self._name(operation.inputs[0]))
            if weights is None or bias is None or source is None:
                continue
            axes = _OPERATIONS_WITH_WEIGHTS[kind]
            largest = np.abs(weights).max(axis=axes, keepdims=True)
            step = max((source[1] - source[0]) / 255, np.finfo(np.float32).tiny)
            enough = np.abs(bias).reshape(largest.shape) * 127 / step / _FLOAT_LIMIT
            bound = np.maximum(largest, enough).astype(np.float32)
            ranges[self._name(operation.inputs[1])] = {"min": -bound, "max": bound}
        return ranges

    @cached_property
    def _ranks(self) -> dict[str, tuple[int, ...]]:
        return {tensor.name.decode(): (1,) * len(tensor.shape) for tensor in self._tensors}

    def _name(self, index: int) -> str:
        return self._tensors[index].name.decode()

    def _constant(self, index: int) -> np.ndarray | None:
        """Values of a float32 constant; None for anything else."""
        tensor = self._tensors[index]
        data = self._buffers[tensor.buffer].data
        if data is None or tensor.type != 0:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def _activation_bounds(
    content: bytes, names: set[str], pictures: Sequence[np.ndarray]
) -> dict[str, tuple[float, float]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that keeping every tensor takes memory
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    runner = interpreter.get_signature_runner()
    watched = [
        detail
        for detail in interpreter.get_tensor_details()
        if detail["name"] in names and detail["dtype"] == np.float32
    ]
    bounds: dict[str, tuple[float, float]] = {}
    for picture in pictures:
        runner(**{IMAGE_INPUT: picture[None]})
        for detail in watched:
            values = interpreter.get_tensor(detail["index"]).ravel()
            skipped = int(values.size * TAIL)
            if skipped:
                values = np.partition(values, (skipped, values.size - 1 - skipped))
            low, high = (values[skipped], values[-1 - skipped]) if skipped else (values.min(), values.max())
            known = bounds.get(detail["name"], (np.inf, -np.inf))
            bounds[detail["name"]] = (min(known[0], float(low)), max(known[1], float(high)))
    return bounds


def _answers(content: bytes, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    forward, _ = interpret(content)
    answers = [forward(picture[None]) for picture in pictures]
    return np.stack([row[MASK_OUTPUT] for row in answers]), np.stack([row[LABEL_OUTPUT] for row in answers])
