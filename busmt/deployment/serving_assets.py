"""What a server needs beside the SavedModel: warm-up records, configuration, manifests, example clients."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from busmt.data.images import write_atomically
from busmt.data.phantom import make_phantom
from busmt.deployment.integrity import GRAPH, write_manifest
from busmt.deployment.savedmodel import BYTES_SIGNATURE, DEFAULT_SIGNATURE, ENCODED_INPUT
from busmt.errors import ExportError

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
SERVING_FOLDER = "serving"
MAX_BATCH = 16
IMAGE = "tensorflow/serving:2.21.0"
"""Container of the server: the version of TensorFlow that the exports are written with."""

_TEMPLATES = Path(__file__).parent / "templates" / "serving"
_WARMUP_SIZES = ((480, 640), (96, 96))
_WARMUP_BATCHES = (1, 4)


def complete_version(version: str | os.PathLike[str], name: str, size: int) -> None:
    """Add to a SavedModel what belongs into its folder: warm-up records, then the manifest of all files.

    Args:
        version: folder of the SavedModel.
        name: of the model, as it will be served.
        size: side of the network's input, pixels.
    """
    write_warmup(version, name, size)
    write_manifest(version)


def write_warmup(version: str | os.PathLike[str], name: str, size: int) -> Path:
    """Write the requests that TensorFlow Serving replays before a version takes traffic.

    A TFRecord of PredictionLog messages: both signatures, batches of 1 and 4, phantoms of two sizes. Arguments as
    of `complete_version`.
    """
    import tensorflow as tf

    path = Path(version) / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [make_phantom("benign", seed, shape).image for seed, shape in enumerate(_WARMUP_SIZES)]
    encoded = [tf.io.encode_png(picture[..., None]).numpy() for picture in pictures]
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for batch in _WARMUP_BATCHES:
            chosen = [encoded[row % len(encoded)] for row in range(batch)]
            writer.write(_prediction_log(name, BYTES_SIGNATURE, ENCODED_INPUT, tf.make_tensor_proto(chosen)))
            blank = tf.make_tensor_proto(0.0, tf.float32, (batch, size, size, 1))
            writer.write(_prediction_log(name, DEFAULT_SIGNATURE, "image", blank))
    return path


def write_assets(folder: str | os.PathLike[str]) -> Path:
    """Write `serving/` into an export folder: configuration, run line, manifests, example clients.

    The model is served under the folder's name, lower case, with what addresses do not take as hyphens.

    Args:
        folder: holds the numbered versions.

    Raises:
        ExportError: a template is missing from the installation.
    """
    target = Path(folder) / SERVING_FOLDER
    target.mkdir(exist_ok=True)
    names = {"NAME": model_name(folder), "IMAGE": IMAGE, "MAX_BATCH": str(MAX_BATCH)}
    sources = sorted(_TEMPLATES.iterdir()) if _TEMPLATES.is_dir() else []
    if not sources:
        raise ExportError(f"{_TEMPLATES}: the templates are missing; install busmt again")
    for source in sources:
        text = source.read_text(encoding="utf-8")
        for key, value in names.items():
            text = text.replace(f"@{key}@", value)
        write_atomically(target / source.name, text.encode())
        if source.suffix == ".sh":
            (target / source.name).chmod(0o755)
    return target


def model_name(folder: str | os.PathLike[str]) -> str:
    """Name under which an export folder is served."""
    return re.sub(r"[^a-z0-9]+", "-", Path(folder).resolve().name.lower()).strip("-") or "busmt"


def served_name(path: str | os.PathLike[str]) -> str:
    """Name under which an export folder, or a version in it, is served."""
    folder = Path(path).resolve()
    is_version = folder.name.isdigit() and (folder / GRAPH).is_file()
    return model_name(folder.parent if is_version else folder)


def _prediction_log(name: str, signature: str, input_name: str, tensor: Any) -> bytes:
    """A serialised tensorflow.serving.PredictionLog; written by hand, for the package of its messages is large."""
    specification = _message(1, name.encode()) + _message(3, signature.encode())
    entry = _message(1, input_name.encode()) + _message(2, tensor.SerializeToString())
    request = _message(1, specification) + _message(2, entry)
    return _message(6, _message(1, request))


def _message(number: int, payload: bytes) -> bytes:
    """A length-delimited protocol buffer field."""
    length, size = len(payload), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload
