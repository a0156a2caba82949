"""The JSON of TensorFlow Serving's predict API: row and column form, encoded bytes, answers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson


class BadRequest(ValueError):
    """What the client can mend; its text is the answer."""


@dataclass(frozen=True)
class PredictRequest:
    """A predict call.

    Attributes:
        instances: values of the signature's only input, bytes already decoded from base64.
        columns: the call was in column form ("inputs"), and so is its answer.
    """

    instances: list[Any]
    columns: bool


def parse_body(data: bytes, max_values: int) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        BadRequest: not JSON, not an object, or more than about `max_values` numbers and lists in it.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > max_values:
        raise BadRequest(f"more than {max_values} values; send encoded images to serving_bytes instead of numbers")
    try:
        body = orjson.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the request is not valid JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object")
    return body


def signature_name(body: dict[str, Any]) -> str:
    """The signature that a request asks for."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise BadRequest("signature_name must be a string")
    return name or "serving_default"


def parse_predict(body: dict[str, Any], input_name: str, most: int) -> PredictRequest:
    """Read {"instances": [...]} or {"inputs": ...} for a signature with one input.

    Args:
        body: from `parse_body`.
        input_name: of the signature's input.
        most: instances.

    Raises:
        BadRequest: neither or both forms, an unknown input name, base64 that is not valid, no or too many instances.
    """
    if ("instances" in body) == ("inputs" in body):
        raise BadRequest('give either "instances" (a list) or "inputs"')
    columns = "inputs" in body
    values = _unwrap(body["inputs"], input_name) if columns else body["instances"]
    if not isinstance(values, list) or not values:
        raise BadRequest(f'"{"inputs" if columns else "instances"}" must be a list with at least one entry')
    if len(values) > most:
        raise BadRequest(f"{len(values)} instances; at most {most} per request")
    if not columns:
        values = [_unwrap(value, input_name) for value in values]
    return PredictRequest([_decode(value, position) for position, value in enumerate(values)], columns)


def render(rows: Sequence[dict[str, Any]], columns: bool) -> bytes:
    """Answer of a predict call, as JSON: {"predictions": [...]} or {"outputs": {...}}."""
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    content: Any = {"predictions": plain}
    if columns:
        content = {"outputs": {name: [row[name] for row in plain] for name in plain[0]}}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _unwrap(value: Any, input_name: str) -> Any:
    if not isinstance(value, dict) or set(value) == {"b64"}:
        return value
    if set(value) != {input_name}:
        raise BadRequest(f"this signature has the one input {input_name!r}")
    return value[input_name]


def _decode(value: Any, position: int) -> Any:
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise BadRequest(f"instance {position}: b64 is not valid base64") from error
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
