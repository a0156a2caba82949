"""Fingerprints: what curation remembers of an image, computed once and in threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from busmt.data import images

THUMBNAIL = 64
"""Side of the thumbnails that are correlated, pixels."""


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of one image.

    Attributes:
        pixels: sha256 of size and grey pixels; equal for the same pixels in whatever file encoding.
        size: (height, width), pixels.
        thumbnail: (64, 64), float32, zero mean and unit norm: the dot product of two is their correlation.
    """

    pixels: str
    size: tuple[int, int]
    thumbnail: np.ndarray


def fingerprint(grey: np.ndarray) -> Fingerprint:
    """Fingerprint of a grey image (H, W), uint8."""
    digest = hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).hexdigest()
    return Fingerprint(digest, (grey.shape[0], grey.shape[1]), normalised(thumbnail(grey)))


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """(H, W), uint8, to (64, 64), float32; area average, aspect not kept."""
    return cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)


def normalised(values: np.ndarray) -> np.ndarray:
    """Zero mean and unit norm, float32; a constant image stays all zero and so correlates with nothing."""
    centred = values - values.mean(dtype=np.float64)
    norm = float(np.linalg.norm(centred))
    return (centred / norm if norm > 1e-3 else centred * 0).astype(np.float32)


def fingerprints(paths: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Fingerprint]:
    """Fingerprints of image files, in order.

    Raises:
        DataError: a file cannot be decoded.
    """
    found = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for result in pool.map(lambda path: fingerprint(images.read_grey(path)), paths):
            found.append(result)
            if progress:
                progress(len(found), len(paths))
    return found
