"""Decode, letterbox and its inverse: the only code that knows the geometry of pixels.

The `*_tensor` functions are TensorFlow graph code and are the road from encoded bytes to network input: training,
evaluation, prediction with Keras and the exported serving signature all go through them. `read_input` is the same
road without TensorFlow, for .tflite files: equal grey levels, and squares that differ by rounding alone (1e-5). The
others work on files and arrays, for masks, curation and pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import stat
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from busmt.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

try:
    import cv2
except ImportError as error:
    raise DataError(
        f"OpenCV cannot be imported ({error}). On hosts without libGL, such as slim containers: "
        "pip uninstall opencv-python && pip install opencv-python-headless"
    ) from error

IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings that are taken for images when a folder is searched."""
MIN_SIDE = 16
"""Shortest accepted side, pixels."""
MAX_PIXELS = 50_000_000
"""Largest accepted number of pixels; more is taken for a decompression bomb."""
MAX_FILE_BYTES = 256 * 2**20
"""Largest accepted image file."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8"
_GRAPH_FORMATS = ("PNG", "JPEG")
_GREY_MODES = ("1", "L", "LA")
_RED, _GREEN, _BLUE = 9797, 19234, 3737
"""Weights of grey, of 32768: ITU-R BT.601, cut as libpng cuts them."""
_SRGB_GAMMA = 0.45455
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the square that the network sees: aspect kept, centred, zero around it.

    Args:
        height, width: the image's own size, pixels.
        size: side of the square, pixels.
    """

    height: int
    width: int
    size: int

    @property
    def inner_height(self) -> int:
        """Rows that the resized image takes in the square."""
        return max(1, (2 * self.height * self.size + self._longer) // (2 * self._longer))

    @property
    def inner_width(self) -> int:
        """Columns that the resized image takes in the square."""
        return max(1, (2 * self.width * self.size + self._longer) // (2 * self._longer))

    @property
    def top(self) -> int:
        """First row of the image in the square."""
        return (self.size - self.inner_height) // 2

    @property
    def left(self) -> int:
        """First column of the image in the square."""
        return (self.size - self.inner_width) // 2

    @property
    def _longer(self) -> int:
        return max(self.height, self.width)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Mask (H, W), bool, to the square (S, S), bool: resampled as the image is, then halved.

        Nearest neighbour would lose up to 3 % of a small lesion between grids of nearly the same size.
        Never empty where the mask is not, however small the lesion.
        """
        square = np.zeros((self.size, self.size), dtype=bool)
        levels = Image.fromarray(mask.astype(np.uint8) * 255)
        inner = np.asarray(levels.resize((self.inner_width, self.inner_height), Image.Resampling.BILINEAR)) > 127
        if not inner.any() and mask.any():
            rows, columns = np.nonzero(mask)
            row = int(rows.mean() * self.inner_height / self.height)
            column = int(columns.mean() * self.inner_width / self.width)
            inner[row, column] = True
        square[self.top : self.top + self.inner_height, self.left : self.left + self.inner_width] = inner
        return square

    def restore(self, square: np.ndarray) -> np.ndarray:
        """Probability map (S, S), float, back to the image's own grid (H, W), float32; bilinear.

        The padding is cut off. A mask is the restored map above the threshold; use `restore_mask`.
        """
        inner = square[self.top : self.top + self.inner_height, self.left : self.left + self.inner_width]
        return cv2.resize(
            np.ascontiguousarray(inner, dtype=np.float32), (self.width, self.height), interpolation=cv2.INTER_LINEAR
        )

    def restore_mask(self, square: np.ndarray, threshold: float) -> np.ndarray:
        """Probability map (S, S) to a mask (H, W), bool, on the image's own grid.

        Empty exactly where the map is nowhere above the threshold, so that shrinking to a smaller grid
        or cutting the padding never turns a lesion into an empty mask.
        """
        mask = self.restore(square) > threshold
        if not mask.any() and (square > threshold).any():
            peak_row, peak_column = np.unravel_index(int(np.argmax(square)), square.shape)
            row = (peak_row - self.top + 0.5) * self.height / self.inner_height
            column = (peak_column - self.left + 0.5) * self.width / self.inner_width
            mask[int(np.clip(row, 0, self.height - 1)), int(np.clip(column, 0, self.width - 1))] = True
        return mask


def read_encoded(path: str | os.PathLike[str]) -> bytes:
    """Checked bytes of an image file, as PNG or JPEG, which is what the graph decodes.

    Other accepted formats (BMP, TIFF) are re-encoded to PNG without loss, and so are images with
    transparent pixels, which become black, and images whose EXIF tag asks for another orientation, which
    are turned as every viewer shows them. The whole file is decoded once here, so that a damaged one is
    named.

    Raises:
        DataError: the file is missing, not an image, damaged, animated, deeper than 8 bits, too small or
            too large.
    """
    path = Path(path)
    data = read_bytes(path)
    with _open(data, path) as image:
        _check_image(image, path)
        if image.format == "PNG":
            _check_chunks(data, path)
        pixels = _load_upright(image, path)
        flat = _flatten(pixels)
        if image.format in _GRAPH_FORMATS and pixels.mode != "CMYK" and flat is image:
            return data
        buffer = io.BytesIO()
        flat.convert("RGB").save(buffer, format="PNG")
        return buffer.getvalue()


def read_input(path: str | os.PathLike[str], size: int) -> tuple[np.ndarray, Letterbox]:
    """One network input (S, S, 1), float32, in [0, 1], and where the image lies in it; without TensorFlow.

    Raises:
        DataError: as `read_encoded`.
    """
    grey = decode_grey(read_encoded(path))
    box = Letterbox(grey.shape[0], grey.shape[1], size)
    inner = Image.fromarray(grey.astype(np.float32) / 255.0)
    inner = inner.resize((box.inner_width, box.inner_height), Image.Resampling.BILINEAR)
    square = np.zeros((size, size, 1), np.float32)
    square[box.top : box.top + box.inner_height, box.left : box.left + box.inner_width, 0] = np.asarray(inner)
    return square, box


def decode_grey(encoded: bytes) -> np.ndarray:
    """What `read_encoded` returns to grey levels (H, W), uint8: those of `decode_tensor`.

    A JPEG gives its luma plane. A coloured pixel of a PNG gives what libpng makes of it: the weighted mean of its
    colours, in linear light where the file states its gamma.
    """
    with Image.open(io.BytesIO(encoded), formats=_GRAPH_FORMATS) as image:
        if image.format == "JPEG":
            image.draft("L", image.size)
            return np.asarray(image.convert("L"))
        if image.mode in _GREY_MODES:
            return np.asarray(image.convert("L"))
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        gamma = _SRGB_GAMMA if "srgb" in image.info else image.info.get("gamma", 1.0)
    if abs(gamma - 1) <= 0.05:  # libpng takes no notice of less
        mean = (_RED * red + _GREEN * green + _BLUE * blue) >> 15
    else:
        levels = np.arange(256) / 255
        linear, back = (np.floor(255 * levels**power + 0.5).astype(np.int64) for power in (1 / gamma, gamma))
        mean = back[(_RED * linear[red] + _GREEN * linear[green] + _BLUE * linear[blue] + (1 << 14)) >> 15]
    return np.where((red == green) & (red == blue), red, mean).astype(np.uint8)


def read_grey(path: str | os.PathLike[str]) -> np.ndarray:
    """Grey image (H, W), uint8, for curation and pictures. Not a network input.

    Raises:
        DataError: as `read_encoded`.
    """
    path = Path(path)
    with _open(read_bytes(path), path) as image:
        _check_image(image, path)
        return np.asarray(_flatten(_load_upright(image, path)).convert("L"))


def read_colour(path: str | os.PathLike[str]) -> np.ndarray:
    """Colour image (H, W, 3), uint8, RGB, for curation and pictures. Not a network input.

    Raises:
        DataError: as `read_encoded`.
    """
    path = Path(path)
    with _open(read_bytes(path), path) as image:
        _check_image(image, path)
        return np.asarray(_flatten(_load_upright(image, path)).convert("RGB"))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as shown, from the header, without decoding.

    Raises:
        DataError: the file is missing or is not an image.
    """
    path = Path(path)
    _check_file(path, MAX_FILE_BYTES)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            turned = _orientation(image, path) in _SIDEWAYS
            return (image.width, image.height) if turned else (image.height, image.width)
    except _PIL_ERRORS as error:
        raise DataError(f"{path}: not a readable PNG, JPEG, BMP or TIFF image{_too_large(error)}") from error


def read_mask(paths: Sequence[str | os.PathLike[str]], shape: tuple[int, int] | None = None) -> np.ndarray:
    """Union of mask files, (H, W), bool.

    1-bit, grey, palette, RGB and RGBA files are read alike: transparent is background, and a pixel is
    foreground where it is brighter than half of the file's brightest value.

    Args:
        paths: one or more mask files; none gives an empty mask of `shape`.
        shape: the (H, W) that every file must have.

    Raises:
        DataError: a file is missing, unreadable or of another size.
    """
    if not paths:
        if shape is None:
            raise DataError("an image without mask files needs its shape")
        return np.zeros(shape, dtype=bool)
    union: np.ndarray | None = None
    for name in map(Path, paths):
        with _open(read_bytes(name), name) as image:
            _check_pixels(image, name)
            _check_frames(image, name)
            levels = _mask_levels(_load_upright(image, name))
        expected = shape if union is None else union.shape
        if expected is not None and levels.shape != tuple(expected):
            raise DataError(
                f"{name}: mask is {levels.shape[1]}x{levels.shape[0]} pixels, "
                f"expected {expected[1]}x{expected[0]} like its image"
            )
        mask = (levels > 0) & (levels * 2 > levels.max())
        union = mask if union is None else union | mask
    assert union is not None
    return union


def write_atomically(path: str | os.PathLike[str], data: bytes, durable: bool = False) -> None:
    """Write a file under a temporary name and rename it, so that no partial file has the final name.

    Neither name is followed where it is a link: the link goes, and what it points to stays as it is.

    Args:
        path: the file; replaced where it exists.
        data: its content.
        durable: wait until the disk has it, so that it survives a power failure too.

    Raises:
        DataError: the file cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process that had the same number
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({_reason(error)})") from error
    finally:
        with contextlib.suppress(OSError, ValueError):  # what went wrong is told already
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `plain(value)` as indented JSON, atomically. Raises DataError as `write_atomically`."""
    write_atomically(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """JSON types: numpy scalars and arrays unpacked, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def file_hash(path: str | os.PathLike[str]) -> str:
    """sha256 of a file, hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_png(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write (H, W) bool or uint8, or (H, W, 3) uint8 RGB, as PNG, atomically. A bool mask becomes 0 and 255."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def decode_tensor(encoded: tf.Tensor) -> tf.Tensor:
    """Encoded PNG or JPEG bytes, scalar string, to (H, W, 1), float32, in [0, 1]. Graph code."""
    import tensorflow as tf

    # decode_image alone would use the fast DCT for JPEG, which no other decoder agrees with
    pixels = tf.cond(
        tf.strings.substr(encoded, 0, 2) == _JPEG_SIGNATURE,
        lambda: tf.io.decode_jpeg(encoded, channels=1, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=1, dtype=tf.uint8, expand_animations=False),
    )
    pixels.set_shape((None, None, 1))
    return tf.cast(pixels, tf.float32) / 255.0


def letterbox_tensor(image: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(H, W, 1) float32 to the square (S, S, 1), aspect kept, zero around it. Graph code.

    Bilinear with antialiasing, which equals Pillow's BILINEAR; geometry as `Letterbox`.

    Returns:
        The square, and where the image lies in it: (4,), int32: top, left, height, width.
    """
    import tensorflow as tf

    shape = tf.shape(image)
    longer = tf.maximum(shape[0], shape[1])
    inner_height, inner_width = (tf.maximum(1, (2 * shape[axis] * size + longer) // (2 * longer)) for axis in (0, 1))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    inner = tf.image.resize(image, (inner_height, inner_width), method="bilinear", antialias=True)
    square = tf.pad(inner, [[top, size - inner_height - top], [left, size - inner_width - left], [0, 0]])
    return tf.ensure_shape(square, (size, size, 1)), tf.stack([top, left, inner_height, inner_width])


_PIL_ERRORS: tuple[type[BaseException], ...] = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    MemoryError,
    RuntimeError,
)
"""What Pillow's readers are known to raise on damaged files."""


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_FILE_BYTES) -> bytes:
    """Content of a regular file of at most `limit` bytes. Pipes and devices, which may never end, are refused.

    Raises:
        DataError: there is no such file, it cannot be read, or is too large.
    """
    path = Path(path)
    _check_file(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error


def _check_file(path: Path, limit: int) -> None:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a name with a zero byte or without an encoding
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "it is a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise DataError(f"{path}: cannot be read ({kind})")
    if status.st_size > limit:
        raise DataError(f"{path}: {status.st_size // 2**20} MiB; at most {limit // 2**20} MiB are accepted")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _open(data: bytes, path: Path) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except _PIL_ERRORS as error:
        raise DataError(f"{path}: not a PNG, JPEG, BMP or TIFF image{_too_large(error)}") from error


def _too_large(error: BaseException) -> str:
    """Pillow refuses by itself what has very many pixels."""
    bomb = isinstance(error, Image.DecompressionBombError)
    return f" of at most {MAX_PIXELS // 10**6} million pixels" if bomb else ""


def _orientation(image: Image.Image, path: Path) -> int:
    """EXIF orientation that is still to be applied: 1 to 8, 1 for none. Pillow applies that of a TIFF itself."""
    try:
        # for a PNG, Pillow's own method decodes all of the image to look behind it
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except _PIL_ERRORS as error:
        raise DataError(f"{path}: damaged EXIF data") from error
    return value if isinstance(value, int) and 1 <= value <= 8 and image.format != "TIFF" else 1


def _load_upright(image: Image.Image, path: Path) -> Image.Image:
    """Decoded, and turned as its EXIF tag asks; the image itself where there is nothing to turn."""
    orientation = _orientation(image, path)
    loaded = _load(image, path)
    return loaded.transpose(_TURNS[orientation]) if orientation in _TURNS else loaded


def _check_image(image: Image.Image, path: Path) -> None:
    _check_pixels(image, path)
    if _is_deep(image):
        raise DataError(f"{path}: more than 8 bits per pixel; convert it to 8-bit grey with your display window first")
    _check_frames(image, path)
    if min(image.size) < MIN_SIDE:
        raise DataError(f"{path}: {image.width}x{image.height} pixels; the shorter side must be at least {MIN_SIDE}")


def _check_pixels(image: Image.Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{path}: {image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} million are accepted"
        )


def _check_frames(image: Image.Image, path: Path) -> None:
    try:
        frames = getattr(image, "n_frames", 1)
    except _PIL_ERRORS as error:
        raise DataError(f"{path}: damaged or truncated image") from error
    if frames > 1:
        raise DataError(f"{path}: holds {frames} frames; save the frame to analyse as one image")


def _check_chunks(data: bytes, path: Path) -> None:
    """Every chunk whole up to the last: Pillow forgives a damaged tail, the graph's decoder does not."""
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length = int.from_bytes(data[position : position + 4], "big")
        body = data[position + 4 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        kind = body[:4]
        if len(checksum) < 4 or zlib.crc32(body) != int.from_bytes(checksum, "big"):
            raise DataError(f"{path}: damaged or truncated image")
        position += 12 + length


def _is_deep(image: Image.Image) -> bool:
    """More than 8 bits per channel; Pillow reads 16-bit colour as 8-bit, so the file's own layout is asked too."""
    stored = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode in _DEEP_MODES or any(";16" in layout for layout in stored)


def _mask_levels(image: Image.Image) -> np.ndarray:
    """Grey levels (H, W), float32, of any kind of mask file; colours count by their brightest channel."""
    if image.mode in _DEEP_MODES:
        return np.asarray(image).astype(np.float32)
    return np.asarray(_flatten(image).convert("RGB")).max(axis=-1).astype(np.float32)


def _load(image: Image.Image, path: Path) -> Image.Image:
    try:
        image.load()
    except _PIL_ERRORS as error:
        raise DataError(f"{path}: damaged or truncated image") from error
    return image


def _flatten(image: Image.Image) -> Image.Image:
    """On black where it is transparent; the image itself where it is opaque."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer: Any = image.convert("RGBA")
        if layer.getchannel("A").getextrema()[0] == 255:
            return image
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), layer).convert("RGB")
    return image
