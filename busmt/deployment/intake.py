"""Encoded images into network inputs, inside the served graph: a bad image gets a status, its neighbours go on.

A TensorFlow operation that meets damaged data raises, and the whole batch is lost with it, also what other
clients put into the same batch. So every image is first decoded in a `tf.data` pipeline that drops the
elements whose decoding fails; those, and what the header already rules out, are replaced by a blank picture
before the batch is decoded for good. These are ordinary operations: no Python function, no custom
operation, nothing that a server would have to be built with. Decoding twice costs less than anything else
inside such a pipeline would: its functions are prepared anew at each call.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from PIL import Image

from busmt.data.images import MAX_PIXELS, MIN_SIDE, decode_tensor, letterbox_tensor

STATUS_MESSAGES: tuple[str, ...] = (
    "",
    "not a PNG or JPEG image",
    "damaged or truncated image",
    f"image too small; the shorter side must be at least {MIN_SIDE} pixels",
    f"image too large; at most {MAX_PIXELS // 10**6} million pixels are accepted",
    "more than 8 bits per channel; convert it to 8-bit grey with your display window first",
    "CMYK colours; save it as grey or RGB",
)
"""What `status` means: the position in this list. 0 is success."""

OK, NOT_AN_IMAGE, DAMAGED, TOO_SMALL, TOO_LARGE, TOO_DEEP, CMYK = range(len(STATUS_MESSAGES))

_AT_A_TIME = 2
"""Images that are decoded at the same time: what bounds the memory that a batch of large ones takes."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_PNG_HEADER = 26  # signature, then IHDR: length, name, width, height, bit depth, colour type
_SEARCHED = 65536  # bytes in which a PNG names its transparent colour, ahead of the pixels


def read_images(encoded: tf.Tensor, size: int) -> tuple[Any, Any, Any, Any]:
    """Decode and letterbox a batch of encoded images, each on its own. Graph code.

    The pixels are those of `busmt.data.images.read_encoded` and `decode_tensor`, which training reads with:
    PNG or JPEG, 8 bits, transparent pixels on black.

    Args:
        encoded: (B,), strings, PNG or JPEG bytes.
        size: side of the network's square input, pixels.

    Returns:
        squares (B, S, S, 1), float32, in [0, 1]; sizes (B, 2), int32: height and width; boxes (B, 4), int32:
        top, left, height, width in the square; status (B,), int32, see `STATUS_MESSAGES`. All but the status
        is zero where an image could not be read.
    """
    status = _check(encoded)
    readable = tf.equal(status, OK)
    squares, sizes, boxes = tf.map_fn(
        lambda data: _decode(data, size),
        tf.where(readable, encoded, _BLANK_PNG),
        fn_output_signature=(
            tf.TensorSpec((size, size, 1), tf.float32),
            tf.TensorSpec((2,), tf.int32),
            tf.TensorSpec((4,), tf.int32),
        ),
        parallel_iterations=_AT_A_TIME,
    )
    kept = tf.cast(readable, tf.int32)[:, None]
    return squares * tf.cast(kept, tf.float32)[:, :, None, None], sizes * kept, boxes * kept, status


def _check(encoded: tf.Tensor) -> tf.Tensor:
    """Status (B,). The header is asked first, before any pixel takes memory."""
    is_png, is_jpeg = _starts_with(encoded, _PNG), _starts_with(encoded, _JPEG)
    is_long = tf.strings.length(encoded) >= _PNG_HEADER
    png = _png_headers(tf.where(is_png & is_long, encoded, _BLANK_PNG))
    jpeg = tf.cond(
        tf.reduce_any(is_jpeg),
        lambda: _attempt(_jpeg_header, tf.where(is_jpeg, encoded, _BLANK_JPEG), _BLANK_JPEG),
        lambda: tf.zeros_like(png),
    )
    header = tf.where(is_jpeg[:, None], jpeg, tf.where((is_png & is_long)[:, None], png, 0))
    shorter = tf.reduce_min(header[:, :2], axis=1)
    findings = [
        (~(is_png | is_jpeg), NOT_AN_IMAGE),
        (shorter <= 0, DAMAGED),
        (shorter < MIN_SIDE, TOO_SMALL),
        (tf.reduce_prod(tf.cast(header[:, :2], tf.int64), axis=1) > MAX_PIXELS, TOO_LARGE),
        (header[:, 2] > 8, TOO_DEEP),
        (header[:, 3] > 3, CMYK),
    ]
    status = tf.fill(tf.shape(encoded), OK)
    for found, code in reversed(findings):  # the first finding that applies stands
        status = tf.where(found, code, status)
    decoded = _attempt(_decoded_size, tf.where(tf.equal(status, OK), encoded, _BLANK_PNG), _BLANK_PNG)
    return tf.where((status == OK) & (decoded[:, 0] == 0), DAMAGED, status)


def _starts_with(encoded: tf.Tensor, signature: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, len(signature)), signature)


def _png_headers(encoded: tf.Tensor) -> tf.Tensor:
    """(B, 4), int32: height, width, bits per channel, and 0 for the channels, of which any number will do."""
    sides = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    depths = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 24, 1), tf.uint8), tf.int32)
    return tf.stack([sides[:, 1], sides[:, 0], depths[:, 0], tf.zeros_like(depths[:, 0])], axis=1)


def _jpeg_header(data: tf.Tensor) -> tf.Tensor:
    """(4,), int32: height, width, bits per channel, channels."""
    shape = tf.io.extract_jpeg_shape(data)
    return tf.stack([shape[0], shape[1], 8, shape[2]])


def _decoded_size(data: tf.Tensor) -> tf.Tensor:
    """(4,), int32: height, width, channels after decoding in grey; 0."""
    shape = tf.shape(tf.io.decode_image(data, channels=1, dtype=tf.uint8, expand_animations=False))
    return tf.concat([shape, [0]], axis=0)


def _decode(data: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    opaque = tf.cond(_may_be_transparent(data), lambda: _on_black(data), lambda: data)
    image = decode_tensor(opaque)
    square, box = letterbox_tensor(image, size)
    return square, tf.shape(image)[:2], box


def _may_be_transparent(data: tf.Tensor) -> tf.Tensor:
    """An alpha channel, or a chunk that names transparent colours."""

    def ask() -> tf.Tensor:
        colour_type = tf.io.decode_raw(tf.strings.substr(data, 25, 1), tf.uint8)[0]
        head = tf.io.decode_raw(tf.strings.substr(data, 0, _SEARCHED), tf.uint8)
        count = tf.size(head) - 3
        named = tf.ones((count,), tf.bool)
        for offset, letter in enumerate(b"tRNS"):
            named &= tf.equal(head[offset : offset + count], letter)
        return tf.reduce_any(named) | (colour_type == 4) | (colour_type == 6)

    return tf.cond(_starts_with(data, _PNG), ask, lambda: tf.constant(False))


def _on_black(data: tf.Tensor) -> tf.Tensor:
    """The same picture as an opaque PNG, so that one decoder turns every file into grey."""
    pixels = tf.cast(tf.io.decode_png(data, channels=4), tf.uint16)  # half the memory of floating point
    opaque = tf.cast((pixels[..., :3] * pixels[..., 3:] + 127) // 255, tf.uint8)
    return tf.io.encode_png(opaque, compression=0)  # read again at once: packing it would only take time


def _attempt(function: Callable[[tf.Tensor], tf.Tensor], encoded: tf.Tensor, harmless: bytes) -> tf.Tensor:
    """function of each image, (B, 4), int32; zeros where an operation in it fails.

    Args:
        function: of one encoded image, gives (4,), int32.
        encoded: (B,), strings.
        harmless: an image with which the function works, so that something is left in any case.
    """
    count = tf.size(encoded)
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False  # they cost more than they gain here
    options.autotune.enabled = False
    numbered = tf.data.Dataset.from_tensor_slices((tf.range(count + 1), tf.concat([encoded, [harmless]], axis=0)))
    survivors = numbered.map(lambda index, data: (index, tf.ensure_shape(function(data), (4,)))).ignore_errors()
    everything = survivors.batch(tf.cast(count + 1, tf.int64)).with_options(options)
    indices, results = everything.get_single_element()
    return tf.scatter_nd(indices[:, None], results, [count + 1, 4])[:count]


def _blank(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (MIN_SIDE, MIN_SIDE)).save(buffer, format=kind)
    return buffer.getvalue()


_BLANK_PNG, _BLANK_JPEG = _blank("PNG"), _blank("JPEG")
