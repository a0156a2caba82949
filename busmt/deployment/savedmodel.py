"""SavedModel for TF Serving: float tensors, and encoded images that are preprocessed in the graph."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import tensorflow as tf

from busmt.config import CLASSES, IMAGE_INPUT, LABEL_OUTPUT, tasks_of
from busmt.deployment.intake import OK, STATUS_MESSAGES, read_images
from busmt.errors import ExportError
from busmt.evaluation.classification import MALIGNANT

DEFAULT_SIGNATURE = "serving_default"
BYTES_SIGNATURE = "serving_bytes"
ENCODED_INPUT = "encoded"
CLASS_OUTPUT, REFER_OUTPUT = "class_id", "refer"
SIZE_OUTPUT, BOX_OUTPUT, STATUS_OUTPUT, ERROR_OUTPUT = "size", "box", "status", "error"
NO_ANSWER = -1
"""Value of the class, of each probability and of each pixel of the mask, for an image that could not be read: no
true answer has it, and unlike NaN it can be written in JSON."""


def write_saved_model(
    network: keras.Model,
    folder: str | os.PathLike[str],
    batch: int | None = None,
    referral_threshold: float | None = None,
) -> Path:
    """Write a SavedModel that loads with TensorFlow alone.

    Signatures:

    - `serving_default`: `image` (B, S, S, 1), float32, in [0, 1], letterboxed -> `mask` (B, S, S, 1), lesion
      probabilities; `label` (B, 3), class probabilities in the order of `CLASSES`; `class_id` (B,), int32,
      the most probable class; `refer` (B,), bool: a person should look first.
    - `serving_bytes`: `encoded` (B,), PNG or JPEG bytes of any size -> the same four, and `size` (B, 2),
      int32: height and width of each image; `box` (B, 4), int32: top, left, height and width of the image
      inside the square, which is what it takes to map the mask back; `status` (B,), int32, 0 where all is
      well, and `error` (B,), string, what was wrong otherwise. An image that cannot be read does not disturb
      the others: its mask, label and class are -1 throughout, its size and box 0, and it is referred.

    `refer` is the rule of `busmt.evaluation.calibration.is_referred`. Without a threshold every case that is
    not called malignant is referred. A network with one task lacks the outputs of the other: without masks `mask`,
    without classes `label`, `class_id` and `refer`.

    Args:
        network: as built by `busmt.model.network.build_network`.
        folder: must not exist.
        batch: fixed batch size of `serving_default`, with `mask` and `label` alone and no other signature,
            for conversion to TFLite.
        referral_threshold: on the probability of malignancy, from the run's calibration.

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

    def forward(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(image, training=False)
        return {name: outputs[name] for name in tasks_of(outputs)}

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = forward(image)
        return outputs | (_decide(outputs[LABEL_OUTPUT], referral_threshold) if LABEL_OUTPUT in outputs else {})

    def serve_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        images, sizes, boxes, status = read_images(encoded, size)
        placed = {SIZE_OUTPUT: sizes, BOX_OUTPUT: boxes}
        return _withhold(serve(images), status) | placed | _explain(status)

    specification = [tf.TensorSpec((batch, size, size, 1), tf.float32, name=IMAGE_INPUT)]
    archive.add_endpoint(DEFAULT_SIGNATURE, serve if batch is None else forward, specification)
    if batch is None:
        archive.add_endpoint(BYTES_SIGNATURE, serve_bytes, [tf.TensorSpec((None,), tf.string, name=ENCODED_INPUT)])
    archive.write_out(os.fspath(folder), verbose=False)
    return Path(folder)


def _decide(label: tf.Tensor, threshold: float | None) -> dict[str, tf.Tensor]:
    column = CLASSES.index(MALIGNANT)
    class_id = tf.argmax(label, axis=-1, output_type=tf.int32)
    suspicious = label[:, column] >= (0.0 if threshold is None else threshold)
    return {CLASS_OUTPUT: class_id, REFER_OUTPUT: (class_id != column) & suspicious}


def _withhold(outputs: dict[str, tf.Tensor], status: tf.Tensor) -> dict[str, tf.Tensor]:
    """No answer for what could not be read: the network's opinion of an empty picture is not a finding."""
    read = tf.equal(status, OK)
    withheld = {}
    for name, value in outputs.items():
        if name == REFER_OUTPUT:
            withheld[name] = value | ~read
        else:
            alike = read[(slice(None), *[None] * (len(value.shape) - 1))]
            withheld[name] = tf.where(alike, value, tf.constant(NO_ANSWER, value.dtype))
    return withheld


def _explain(status: tf.Tensor) -> dict[str, tf.Tensor]:
    return {STATUS_OUTPUT: status, ERROR_OUTPUT: tf.gather(tf.constant(STATUS_MESSAGES), status)}
