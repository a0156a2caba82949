"""TFLite for tablets: float32, static batch of 1, built-in operations only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from busmt.data.images import write_atomically
from busmt.deployment.savedmodel import DEFAULT_SIGNATURE, write_saved_model
from busmt.errors import ExportError


def write_tflite(network: keras.Model, path: str | os.PathLike) -> Path:
    """Convert to a float32 .tflite file with the signature `serving_default`.

    Input `image` (1, S, S, 1), float32, in [0, 1]; outputs `mask` (1, S, S, 1) and `label` (1, 3). Read the
    outputs by name: interpreters order them differently.

    Raises:
        ExportError: an operation has no TFLite counterpart; its name is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        # a static batch: a dynamic one runs several times slower and browsers refuse it
        source = write_saved_model(network, Path(folder) / "source", batch=1)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(source), signature_keys=[DEFAULT_SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:  # the converter raises bare RuntimeError subclasses of its own
            raise ExportError(f"TFLite conversion failed: {str(error).strip().splitlines()[0]}") from error
    write_atomically(path, content)
    return Path(path)


def operations(path: str | os.PathLike) -> set[str]:
    """Names of the operations in a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.fspath(path))
    return {details["op_name"] for details in interpreter._get_ops_details()}
