"""SavedModel for TF Serving: float tensors, and encoded images that are preprocessed in the graph."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from busmt.config import IMAGE_INPUT, LABEL_OUTPUT, MASK_OUTPUT
from busmt.data.images import decode_tensor, letterbox_tensor
from busmt.errors import ExportError

DEFAULT_SIGNATURE = "serving_default"
BYTES_SIGNATURE = "serving_bytes"


def write_saved_model(network: keras.Model, folder: str | os.PathLike, batch: int | None = None) -> Path:
    """Write a SavedModel that loads with TensorFlow alone.

    Signatures:

    - `serving_default`: `image` (B, S, S, 1), float32, in [0, 1], letterboxed -> `mask` (B, S, S, 1),
      `label` (B, 3);
    - `serving_bytes`: `encoded` (B,), PNG or JPEG bytes of any size -> `mask`, `label` as above, `size`
      (B, 2), int32: height and width of each image, and `box` (B, 4), int32: top, left, height and width of
      the image inside the square, which is what it takes to map the mask back.

    Args:
        network: as built by `busmt.model.network.build_network`.
        folder: must not exist.
        batch: fixed batch size of `serving_default`, with no other signature, for conversion to TFLite.

    Raises:
        ExportError: Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"export needs the TensorFlow backend, Keras runs on {keras.backend.backend()}; "
            "run it again without KERAS_BACKEND set"
        )
    size = int(network.input_shape[1])
    archive = keras.export.ExportArchive()
    archive.track(network)

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(image, training=False)
        return {name: outputs[name] for name in (MASK_OUTPUT, LABEL_OUTPUT)}

    def serve_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        images, sizes, boxes = _preprocess(encoded, size)
        return {**serve(images), "size": sizes, "box": boxes}

    archive.add_endpoint(
        DEFAULT_SIGNATURE, serve, [tf.TensorSpec((batch, size, size, 1), tf.float32, name=IMAGE_INPUT)]
    )
    if batch is None:
        archive.add_endpoint(BYTES_SIGNATURE, serve_bytes, [tf.TensorSpec((None,), tf.string, name="encoded")])
    archive.write_out(os.fspath(folder), verbose=False)
    return Path(folder)


def _preprocess(encoded: tf.Tensor, size: int) -> tuple[Any, Any, Any]:
    def one(data: tf.Tensor) -> tuple[Any, Any, Any]:
        image = decode_tensor(data)
        square, box = letterbox_tensor(image, size)
        return square, tf.shape(image)[:2], box

    return tf.map_fn(
        one,
        encoded,
        fn_output_signature=(
            tf.TensorSpec((size, size, 1), tf.float32),
            tf.TensorSpec((2,), tf.int32),
            tf.TensorSpec((4,), tf.int32),
        ),
    )
