"""Fingerprints: what curation remembers of a sample's files, computed once, in threads, and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from busmt.data import images
from busmt.data.catalog import Sample
from busmt.data.curation.cache import Cache
from busmt.data.curation.marks import Mark, colour_difference, examine
from busmt.data.curation.scan import scan_score
from busmt.errors import DataError

THUMBNAIL = 96
"""Side of the square thumbnails that are searched and aligned, pixels; the aspect ratio is not kept."""
_VERSION = 3
_COLOUR_DIFFERENCE = 40
_BATCH = 256


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of one sample.

    Attributes:
        fault: why the image cannot be used, or "".
        mask_fault: why the mask files cannot be used, or "".
        pixels: sha256 of size and grey pixels; equal for the same pixels in whatever file encoding.
        size: (height, width), pixels.
        thumbnail: (96, 96), uint8, area average.
        mask: (96, 96), bool: where the lesion mask lies in the thumbnail.
        mask_share: lesion's share of the image, in [0, 1].
        mask_border: share of the image's border that the mask covers, in [0, 1].
        lesions: number of separate regions in the mask.
        colour: share of pixels that are not grey, in [0, 1].
        spread: standard deviation of the grey levels, of 255.
        level: mean grey level, of 255.
        texture: local correlation of neighbouring pixels in the middle of the image; noise has none.
        scan_score: how much the image looks like a scan; see `scan.scan_score`.
        marks: burnt-in text, calipers and other marks, with their boxes.
        clutter: number of marks that are still told when a copy was resized, for choosing the best copy.
        mask_text: share of the mask's outline that runs through burnt-in text.
    """

    fault: str = ""
    mask_fault: str = ""
    pixels: str = ""
    size: tuple[int, int] = (0, 0)
    thumbnail: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL), np.uint8))
    mask: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL), bool))
    mask_share: float = 0.0
    mask_border: float = 0.0
    lesions: int = 0
    colour: float = 0.0
    spread: float = 0.0
    level: float = 0.0
    texture: float = 0.0
    scan_score: float = 0.0
    marks: tuple[Mark, ...] = ()
    clutter: int = 0
    mask_text: float = 0.0


def fingerprints(
    samples: Sequence[Sample], cache: Cache | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Fingerprint]:
    """Fingerprints of samples, in order; files that cannot be read are told in the fingerprint, not raised.

    Args:
        samples: what to read.
        cache: where fingerprints of unchanged files are looked up and kept.
        progress: called with (done, total).
    """
    found: list[Fingerprint] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            keys = [file_key(sample) for sample in batch]
            known = cache.read(keys) if cache else {}
            fresh = [sample for sample, key in zip(batch, keys, strict=True) if key not in known]
            computed = iter(list(pool.map(fingerprint, fresh)))
            new = {}
            for key in keys:
                if key not in known:
                    known[key] = new[key] = _pack(next(computed))
                found.append(_unpack(known[key]))
            if cache and new:
                cache.write(new)
            if progress:
                progress(len(found), len(samples))
    return found


def file_key(sample: Sample) -> str:
    """Names the state of a sample's files: paths, sizes and times of change."""
    parts: list[object] = [_VERSION]
    for name in (sample.image, *sample.masks):
        try:
            status = os.stat(name)
            parts.append((os.path.abspath(name), status.st_size, status.st_mtime_ns))
        except OSError:
            parts.append((os.path.abspath(name), "missing"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def fingerprint(sample: Sample) -> Fingerprint:
    """Fingerprint of one sample's files."""
    try:
        colour = images.read_colour(sample.image)
    except DataError as error:
        return Fingerprint(fault=str(error))
    difference = colour_difference(colour)
    grey = _grey(colour) if difference.any() else np.ascontiguousarray(colour[..., 0])
    try:
        mask = images.read_mask(sample.masks, grey.shape)
        mask_fault = ""
    except DataError as error:
        mask, mask_fault = np.zeros(grey.shape, bool), str(error)
    marks, clutter = examine(colour)
    return Fingerprint(
        mask_fault=mask_fault,
        pixels=hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).hexdigest(),
        size=(grey.shape[0], grey.shape[1]),
        thumbnail=cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
        mask=_shrunk_mask(mask),
        mask_share=float(mask.mean()),
        mask_border=float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()),
        lesions=_regions(mask),
        colour=float((difference > _COLOUR_DIFFERENCE).mean()),
        spread=float(cv2.meanStdDev(grey)[1].item()),
        level=float(cv2.mean(grey)[0]),
        texture=_neighbour_correlation(grey),
        scan_score=scan_score(grey),
        marks=marks,
        clutter=clutter,
        mask_text=_text_share(mask, marks),
    )


def _grey(colour: np.ndarray) -> np.ndarray:
    """As `images.read_grey` has it, without decoding the file again."""
    return np.asarray(Image.fromarray(colour).convert("L"))


def _shrunk_mask(mask: np.ndarray) -> np.ndarray:
    """A lesion of few pixels stays visible: any covered share of a thumbnail pixel above a quarter counts."""
    area = cv2.resize(mask.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return area > 0.25


def _regions(mask: np.ndarray, smallest: int = 20) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int((stats[1:, cv2.CC_STAT_AREA] >= smallest).sum())


def _neighbour_correlation(grey: np.ndarray) -> float:
    height, width = grey.shape
    middle = grey[height // 8 : height - height // 8, width // 8 : width - width // 8]
    left, right = middle[:, :-1], middle[:, 1:]
    if left.max() == left.min() or right.max() == right.min():
        return 0.0
    return float(cv2.matchTemplate(left.copy(), right.copy(), cv2.TM_CCOEFF_NORMED)[0, 0])


def _text_share(mask: np.ndarray, marks: tuple[Mark, ...]) -> float:
    """Share of the outline inside boxes of text; calipers sit on the outline by design and do not count."""
    outline = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    if not outline.any():
        return 0.0
    text = np.zeros(mask.shape, bool)
    for mark in marks:
        if mark.kind == "text":
            text[mark.top : mark.top + mark.height, mark.left : mark.left + mark.width] = True
    return float((outline & text).sum() / outline.sum())


def _pack(item: Fingerprint) -> dict[str, Any]:
    """Plain values and bytes for the cache."""
    values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    values["thumbnail"] = item.thumbnail.tobytes()
    values["mask"] = np.packbits(item.mask).tobytes()
    values["marks"] = [dataclasses.astuple(mark) for mark in item.marks]
    return values


def _unpack(values: dict[str, Any]) -> Fingerprint:
    shape = (THUMBNAIL, THUMBNAIL)
    bits = np.unpackbits(np.frombuffer(values["mask"], np.uint8), count=THUMBNAIL * THUMBNAIL)
    return Fingerprint(
        **values
        | {
            "thumbnail": np.frombuffer(values["thumbnail"], np.uint8).reshape(shape),
            "mask": bits.reshape(shape).astype(bool),
            "size": tuple(values["size"]),
            "marks": tuple(Mark(*entry) for entry in values["marks"]),
        }
    )
