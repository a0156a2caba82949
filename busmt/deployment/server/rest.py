"""The JSON of TensorFlow Serving's predict API: row and column form, encoded bytes, answers."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class BadRequest(ValueError):
    """What the client can mend; its text is the answer."""


@dataclass(frozen=True)
class PredictRequest:
    """A predict call.

    Attributes:
        signature: name of the signature.
        instances: values of the only input, bytes already decoded from base64.
        columns: the call was in column form ("inputs"), and so is its answer.
    """

    signature: str
    instances: list[Any]
    columns: bool


def signature_name(body: dict[str, Any]) -> str:
    """The signature that a request asks for."""
    name = body.get("signature_name", "serving_default")
    if not isinstance(name, str):
        raise BadRequest("signature_name must be a string")
    return name or "serving_default"


def parse_body(data: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises BadRequest."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the request is not valid JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object")
    return body


def parse_predict(body: dict[str, Any], input_name: str) -> PredictRequest:
    """Read {"instances": [...]} or {"inputs": ...} for a signature with one input.

    Raises:
        BadRequest: neither or both forms, an unknown input name, base64 that is not valid, no instance.
    """
    if ("instances" in body) == ("inputs" in body):
        raise BadRequest('give either "instances" (a list) or "inputs"')
    columns = "inputs" in body
    values = _unwrap(body["inputs"], input_name) if columns else body["instances"]
    if not isinstance(values, list) or not values:
        raise BadRequest(f'"{"inputs" if columns else "instances"}" must be a list with at least one entry')
    if not columns:
        values = [_unwrap(value, input_name) for value in values]
    return PredictRequest(signature_name(body), [_decode(value) for value in values], columns)


def render(rows: Sequence[dict[str, np.ndarray]], columns: bool) -> bytes:
    """Answer of a predict call, as JSON: {"predictions": [...]} or {"outputs": {...}}."""
    if columns:
        content: Any = {"outputs": {name: [_plain(row[name]) for row in rows] for name in rows[0]}}
    else:
        content = {"predictions": [{name: _plain(value) for name, value in row.items()} for row in rows]}
    return json.dumps(content, allow_nan=False).encode()


def _unwrap(value: Any, input_name: str) -> Any:
    if not isinstance(value, dict) or set(value) == {"b64"}:
        return value
    if set(value) != {input_name}:
        raise BadRequest(f"this signature has the one input {input_name!r}")
    return value[input_name]


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise BadRequest("b64: not valid base64") from error
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if hasattr(value, "tolist") else value
