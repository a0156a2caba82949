"""A SavedModel as the server needs it: versions, signatures, metadata."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from busmt.deployment.server.rest import BadRequest
from busmt.deployment.serving_assets import model_name
from busmt.errors import RunError


@dataclass(frozen=True)
class Signature:
    """One way to call the model.

    Attributes:
        input: name of the only input.
        shape: of one instance; empty for encoded images.
        text: the input is a string of bytes.
        call: function from a batch to outputs by name.
    """

    input: str
    shape: tuple[int, ...]
    text: bool
    call: Any

    def read(self, instances: Sequence[Any], max_pixels: int) -> list[Any]:
        """Instances as they came in JSON, checked: bytes, or float32 arrays of `shape`.

        Raises:
            BadRequest: wrong type, shape or value, or an image with more than `max_pixels` pixels.
        """
        if self.text:
            return [self._read_bytes(item, position, max_pixels) for position, item in enumerate(instances)]
        return [self._read_array(item, position) for position, item in enumerate(instances)]

    def run(self, items: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """Outputs by name for each item of a batch."""
        import tensorflow as tf

        batch = tf.constant(list(items), tf.string) if self.text else tf.constant(np.stack(list(items)))
        outputs = {name: value.numpy() for name, value in self.call(**{self.input: batch}).items()}
        return [{name: value[row] for name, value in outputs.items()} for row in range(len(items))]

    def _read_bytes(self, item: Any, position: int, max_pixels: int) -> bytes:
        data = item.encode() if isinstance(item, str) else item
        if not isinstance(data, bytes):
            raise BadRequest(f'instance {position}: expected an encoded image as {{"b64": "..."}}')
        if _pixels(data) > max_pixels:
            raise BadRequest(f"instance {position}: at most {max_pixels} pixels are accepted here")
        return data

    def _read_array(self, item: Any, position: int) -> np.ndarray:
        try:
            array = np.asarray(item, dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadRequest(f"instance {position}: not an array of numbers") from error
        if array.shape != self.shape:
            raise BadRequest(f"instance {position}: shape {list(array.shape)}, expected {list(self.shape)}")
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise BadRequest(f"instance {position}: values must lie in [0, 1]")
        return array


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes:
        name, version: as in the addresses.
        signatures: by name.
        metadata: `signature_def` as TensorFlow Serving prints it.
    """

    name: str
    version: str
    signatures: dict[str, Signature]
    metadata: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike, name: str | None = None) -> ServedModel:
        """Load the newest version in an export folder, or a version's own folder.

        Raises:
            RunError: nothing there that can be served.
        """
        import tensorflow as tf

        folder = _version_folder(Path(path))
        try:
            loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise RunError(f"{folder}: not a SavedModel that can be loaded ({str(error).splitlines()[0]})") from error
        signatures = {key: _signature(call) for key, call in loaded.signatures.items()}
        if not signatures:
            raise RunError(f"{folder}: a SavedModel without signatures; write one with: busmt export RUN --to DIR")
        version = folder.name if folder.name.isdigit() else "1"
        parent = folder.parent if folder.name.isdigit() else folder
        return cls(name or model_name(parent), version, signatures, _metadata(folder))


def _version_folder(path: Path) -> Path:
    if (path / "saved_model.pb").is_file():
        return path.resolve()
    versions = [entry for entry in path.iterdir() if entry.name.isdigit()] if path.is_dir() else []
    versions = [entry for entry in versions if (entry / "saved_model.pb").is_file()]
    if not versions:
        raise RunError(f"{path}: no SavedModel there; write one with: busmt export RUN --to DIR --format savedmodel")
    return max(versions, key=lambda entry: int(entry.name)).resolve()


def _signature(call: Any) -> Signature:
    (name, specification), *others = call.structured_input_signature[1].items()
    if others:
        raise RunError(f"a signature with {len(others) + 1} inputs is not one that busmt exports")
    text = specification.dtype.name == "string"
    return Signature(name, () if text else tuple(specification.shape[1:]), text, call)


def _metadata(folder: Path) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    return {
        name: MessageToDict(definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name, definition in definitions.items()
        if not name.startswith("__")
    }


def _pixels(data: bytes) -> int:
    """Pixels by the header; 0 where it cannot be read, which the graph then reports for that image alone."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return 1 << 62
    except (OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError):
        return 0
