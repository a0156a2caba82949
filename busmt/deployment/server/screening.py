"""What the header of an image rules out, before anything is decoded.

The served graph asks headers too, but its limits were set when it was exported; a server may be stricter.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image

from busmt.deployment.intake import TOO_LARGE

MAX_SCANS = 100
"""A progressive JPEG may hold any number of scans, each of which costs as much time as a whole image; cameras and
editors write about ten."""

_START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class Refusal:
    """An image that is not given to the network: status as in `busmt.deployment.intake`, and why."""

    status: int
    error: str


def screen(data: bytes, max_pixels: int) -> Refusal | None:
    """Why an encoded image is not to be decoded; None where it may be, or where the graph will say what is wrong."""
    if pixels(data) > max_pixels:
        return Refusal(TOO_LARGE, f"image too large; at most {max_pixels} pixels are accepted here")
    if data[:2] == b"\xff\xd8" and data.count(_START_OF_SCAN) > MAX_SCANS:
        return Refusal(TOO_LARGE, f"progressive JPEG with more than {MAX_SCANS} scans; save it as an ordinary one")
    return None


def pixels(data: bytes) -> int:
    """Number of pixels by the header of a PNG or JPEG; 0 where it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return 1 << 62
    except (OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, ArithmeticError, struct.error):
        return 0
