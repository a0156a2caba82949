"""Smaller TFLite files: float16, dynamic-range int8, and int8 with chosen parts kept in float.

The full int8 conversion runs in two steps. Calibration runs the float graph on training images and notes the
range of every tensor; quantisation then turns it into int8, except for the operations of the parts that are
named. Both steps are those of `tf.lite.experimental.QuantizationDebugger`, without its instrumented copy.
The converter leaves an int8 round trip on some tensors of operations that it was told to keep in float; their
ranges are therefore taken out of the calibrated file, so that nothing is left to round with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from busmt.config import CLASSES, IMAGE_INPUT
from busmt.data.catalog import Catalog
from busmt.deployment.savedmodel import DEFAULT_SIGNATURE
from busmt.errors import ExportError

VARIANTS: tuple[str, ...] = ("float32", "float16", "int8-dynamic", "int8")
"""float16: half-precision weights; int8-dynamic: int8 weights, float activations; int8: both int8."""
DECISIONS: tuple[str, ...] = (
    "StatefulPartitionedCall",
    "refinement",
    "class_",
    "label_logits",
    "mask_",
    "attention_map",
)
"""Parts that no variant quantises: both heads and the refinement, where 1/256 can turn a decision."""
LADDER: tuple[tuple[str, ...], ...] = (
    DECISIONS,
    (*DECISIONS, "attention"),
    (*DECISIONS, "attention", "decoder0", "decoder1"),
    (*DECISIONS, "attention", "decoder0", "decoder1", "decoder2"),
    (*DECISIONS, "attention", "decoder"),
    (*DECISIONS, "attention", "decoder", "encoder0", "stem", "block0"),
)
"""Parts kept in float, by the beginning of their layers' names: more on each rung, until int8 is good enough."""
CALIBRATION_IMAGES: int = 60


def calibration_positions(catalog: Catalog, count: int = CALIBRATION_IMAGES) -> list[int]:
    """Positions of images for calibration, the same number of each class where there are enough, spread evenly."""
    share = -(-count // max(1, len(catalog.classes)))
    chosen: list[int] = []
    for name in catalog.classes:
        rows = np.flatnonzero(catalog.labels == CLASSES.index(name))
        chosen += rows[np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int))].tolist()
    return chosen


def convert(source: str | os.PathLike, variant: str = "float32") -> bytes:
    """Convert a SavedModel with a static batch to a .tflite file of a variant that needs no calibration.

    Args:
        source: written by `busmt.deployment.tflite.static_source`.
        variant: "float32", "float16" or "int8-dynamic".

    Raises:
        ExportError: an operation has no TFLite counterpart; its name is given.
    """
    converter = _converter(source)
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return _run(converter)


class Calibrated:
    """A network with the ranges of its tensors, ready to be quantised to int8.

    Args:
        source: as for `convert`.
        pictures: training images (S, S, 1), float32, in [0, 1], letterboxed by the pipeline.
    """

    def __init__(self, source: str | os.PathLike, pictures: Sequence[np.ndarray]):
        converter = _converter(source)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ({IMAGE_INPUT: picture[None]} for picture in pictures)
        converter._experimental_calibrate_only = True
        self._content = _run(converter)

    def quantise(self, floats: Sequence[str] = DECISIONS) -> bytes:
        """An int8 .tflite file with float input and outputs.

        Args:
            floats: beginnings of the names of the layers that stay in float.
        """
        from tensorflow.lite.python.convert import mlir_quantize

        content, nodes = _without_ranges(self._content, tuple(floats))
        try:
            return mlir_quantize(content, denylisted_nodes=nodes)
        except Exception as error:  # the converter raises bare RuntimeError subclasses of its own
            raise ExportError(f"int8 conversion failed: {str(error).strip().splitlines()[0]}") from error


def _converter(source: str | os.PathLike) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(source)), signature_keys=[DEFAULT_SIGNATURE])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _run(converter: Any) -> bytes:
    try:
        return converter.convert()
    except Exception as error:  # the converter raises bare RuntimeError subclasses of its own
        raise ExportError(f"TFLite conversion failed: {str(error).strip().splitlines()[0]}") from error


def _without_ranges(content: bytes, floats: tuple[str, ...]) -> tuple[bytes, list[str]]:
    """The calibrated file without the ranges of the float parts, and the names of their operations."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    nodes = []
    for operation in graph.operators:
        tensors = [graph.tensors[index] for index in operation.outputs]
        if any(_in_part(tensor.name.decode(), floats) for tensor in tensors):
            nodes += [tensor.name.decode() for tensor in tensors]
            for tensor in tensors:
                tensor.quantization = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), nodes


def _in_part(name: str, floats: tuple[str, ...]) -> bool:
    """Whether a tensor was made by a layer of these parts; names are like "busmt_1/decoder0_conv1_1/add;..."."""
    return any(part.startswith(floats) for part in name.replace(";", "/").split("/"))
