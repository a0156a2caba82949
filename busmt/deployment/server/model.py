"""One version of a SavedModel as the server needs it: signatures and metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from busmt.deployment.integrity import GRAPH, check_version
from busmt.deployment.savedmodel import ERROR_OUTPUT, STATUS_OUTPUT
from busmt.deployment.server.rest import BadRequest
from busmt.deployment.server.screening import Refusal, pixels, screen
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

    def read(self, instances: Sequence[Any], image_pixels: int, request_pixels: int) -> list[Any]:
        """Instances as they came in JSON, checked: bytes or a `Refusal`, or float32 arrays of `shape`.

        Args:
            instances: bytes, texts, or nested lists of numbers.
            image_pixels: most in one image; more make a `Refusal`.
            request_pixels: most in all images that are not refused.

        Raises:
            BadRequest: wrong type, shape or value, or too many pixels in all.
        """
        if not self.text:
            return [self._read_array(item, position) for position, item in enumerate(instances)]
        items = [self._read_bytes(item, position, image_pixels) for position, item in enumerate(instances)]
        if sum(pixels(item) for item in items if isinstance(item, bytes)) > request_pixels:
            raise BadRequest(f"more than {request_pixels} pixels in all; send fewer images in one request")
        return items

    def run(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Outputs by name for each item of a batch."""
        import tensorflow as tf

        batch = tf.constant(list(items), tf.string) if self.text else tf.constant(np.stack(list(items)))
        outputs = {name: value.numpy() for name, value in self.call(**{self.input: batch}).items()}
        return [{name: value[row] for name, value in outputs.items()} for row in range(len(items))]

    def refuse(self, refusal: Refusal, blank: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name for an image that the network does not get to see.

        Args:
            refusal: why.
            blank: what the graph says of an image that cannot be read.
        """
        return blank | {STATUS_OUTPUT: np.int32(refusal.status), ERROR_OUTPUT: refusal.error.encode()}

    def warm_up(self, batch: int) -> dict[str, Any]:
        """Run once on one and on `batch` items that say nothing; outputs of one of them."""
        item: Any = b"" if self.text else np.zeros(self.shape, np.float32)
        self.run([item] * batch)
        return self.run([item])[0]

    def _read_bytes(self, item: Any, position: int, max_pixels: int) -> bytes | Refusal:
        data = item.encode("utf-8", "replace") if isinstance(item, str) else item
        if not isinstance(data, bytes):
            raise BadRequest(f'instance {position}: expected an encoded image as {{"b64": "..."}}')
        return screen(data, max_pixels) or data

    def _read_array(self, item: Any, position: int) -> np.ndarray:
        try:
            array = np.asarray(item, dtype=np.float32)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise BadRequest(f"instance {position}: not an array of numbers") from error
        if array.shape != self.shape:
            raise BadRequest(f"instance {position}: shape {list(array.shape)}, expected {list(self.shape)}")
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise BadRequest(f"instance {position}: values must lie in [0, 1]")
        return array


@dataclass(frozen=True)
class ServedModel:
    """A loaded version.

    Attributes:
        version: its number, as in the addresses.
        signatures: by name.
        metadata: `signature_def` as TensorFlow Serving prints it.
    """

    version: str
    signatures: dict[str, Signature]
    metadata: dict[str, Any]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ServedModel:
        """Load a version's folder.

        Raises:
            ExportError: it is damaged, incomplete or uses operations that busmt does not run.
            RunError: it cannot be loaded.
        """
        import tensorflow as tf

        folder = Path(folder)
        check_version(folder)
        try:
            loaded = tf.saved_model.load(str(folder))
        except Exception as error:  # a damaged one fails in many places, each with an error of its own
            raise RunError(f"{folder}: not a SavedModel that can be loaded ({_first_line(error)})") from error
        signatures = {key: _signature(call) for key, call in loaded.signatures.items()}
        return cls(folder.name if folder.name.isdigit() else "1", signatures, _metadata(folder))


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
    saved.ParseFromString((folder / GRAPH).read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    return {
        name: MessageToDict(definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name, definition in definitions.items()
        if not name.startswith("__")
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
