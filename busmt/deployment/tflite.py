"""TFLite for tablets: static batch of 1, built-in operations only, all that belongs to the model in one file."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from busmt.config import IMAGE_INPUT, tasks_of
from busmt.data.images import write_atomically
from busmt.deployment.savedmodel import DEFAULT_SIGNATURE, write_saved_model
from busmt.errors import ExportError
from busmt.model.network import attention_model
from busmt.trust import TFLITE_OPS, tflite_operations

ATTENTION_OUTPUT = "attention"
"""Output of the tablet app's model: mean coefficient of the attention gates, (1, S, S, 1), in (0, 1)."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time, so that equal models are equal files


def write_tflite(network: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Write the float32 file of `convert`. Raises ExportError as it does."""
    write_atomically(path, convert(network))
    return Path(path)


def convert(network: keras.Model, attention: bool = False, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Convert to a .tflite file with the signature `serving_default`: float32, or int8 inside by the converter's way.

    Input `image` (1, S, S, 1), float32, in [0, 1]; outputs `mask` (1, S, S, 1) and `label` (1, 3), float32, or the
    one of them that the network has. Read the outputs by name: interpreters order them differently. The batch is
    fixed: a dynamic one is several times slower, and browsers refuse it.

    Args:
        network: built by `busmt.model.network.build_network`.
        attention: adds the output `ATTENTION_OUTPUT` where the network has gates.
        calibration: pictures (S, S, 1), float32, in [0, 1]. With them all of the network becomes int8, heads and
            decisions too: good for timing. `busmt.deployment.quantise` makes files that answer well.

    Raises:
        ExportError: an operation has no TFLite counterpart; its name is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        gates = attention_model(network) if attention else None
        if gates is None:
            write_saved_model(network, source, batch=1)
        else:
            _write_with_attention(network, gates, source)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(source), signature_keys=[DEFAULT_SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if calibration:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ({IMAGE_INPUT: picture[None]} for picture in calibration)
        try:
            with warnings.catch_warnings():
                # the converter calibrates with an interpreter that is itself deprecated
                warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
                return converter.convert()
        except Exception as error:  # the converter raises bare RuntimeError subclasses of its own
            raise ExportError(f"TFLite conversion failed: {str(error).strip().splitlines()[0]}") from error


def append_files(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """A .tflite file with a zip archive behind it, which interpreters skip and every unzip tool reads."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def read_appended(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The files in the archive behind a .tflite file.

    Raises:
        ExportError: there is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ExportError(f"{path}: holds no labels and card ({error}); export it again") from error


def require_built_in(content: bytes) -> None:
    """Raise ExportError where a file needs operations that tablets lack."""
    foreign = sorted(tflite_operations(content) - TFLITE_OPS)
    if foreign:
        raise ExportError(f"the TFLite file needs the operation {foreign[0]}, which tablets lack")


def _write_with_attention(network: keras.Model, gates: keras.Model, folder: Path) -> None:
    size = int(network.input_shape[1])
    outputs = {name: network.output[name] for name in tasks_of(network.output)}
    probe = keras.Model(network.input, {**outputs, **gates.output}, name="busmt")
    archive = keras.export.ExportArchive()
    archive.track(probe)

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = probe(image, training=False)
        with tf.name_scope("map"):  # no name of a layer: it stays in float
            maps = [tf.image.resize(answer[name], (size, size)) for name in gates.output]
            attention = tf.add_n(maps) / len(maps)
        return {**{name: answer[name] for name in outputs}, ATTENTION_OUTPUT: attention}

    archive.add_endpoint(DEFAULT_SIGNATURE, serve, [tf.TensorSpec((1, size, size, 1), tf.float32, name=IMAGE_INPUT)])
    archive.write_out(os.fspath(folder), verbose=False)
