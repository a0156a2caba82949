"""Verification: candidates are aligned, and only those whose detail agrees are the same picture.

Look-alike scans of dense tissue or of cysts agree in their coarse grey levels, which is what candidates
share. Their fine structure does not agree, so it decides:

1. The thumbnails' locally normalised detail is aligned by an affine map (enhanced correlation coefficient:
   Evangelidis and Psarakis, IEEE TPAMI 30 (2008) 1858-1865), starting from the candidate's window.
2. `detail` is the correlation of the aligned detail over the common area.
3. For what is left, `agreement` is measured on the files at 192 x 192: the mean of the best correlation of
   28 x 28 blocks, each found within 6 pixels of its place. Tissue that was pressed or moved between two frames
   keeps some agreement, other tissue has none.

Frames that moved too far for that still count as one lesion where the whole thumbnails correlate as no two
patients' images do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from busmt.data import images
from busmt.data.curation.candidates import EXTENTS, Candidate
from busmt.data.curation.fingerprints import THUMBNAIL, Fingerprint

EXACT, NEAR, FRAME = "exact", "near-duplicate", "frame"

NEAR_AGREEMENT = 0.88
"""Least agreement of blocks for one picture; consecutive frames of one lesion stay below."""
FRAME_DETAIL = 0.48
"""Least correlation of the aligned thumbnails' detail for two frames of one lesion."""
FRAME_AGREEMENT = 0.42
"""Least agreement of blocks for two frames of one lesion."""
FRAME_CORRELATION = 0.94
"""Correlation of the whole thumbnails, not aligned, from which two images are frames of one lesion whatever the
detail says: no two patients' images come near it."""
_SHIFTED_DETAIL, _GLIMPSED_DETAIL, _ROUGH_DETAIL = 0.22, 0.32, 0.38
"""Least correlation at half the size after a shift, after few steps and after all steps of the alignment. The lowest of
joined pairs are 0.28, 0.38 and 0.38 (docs/curation.md)."""
_FEW_STEPS, _STEPS = 3, 40
_SHIFT = 6
_WORTH_READING = 0.40
_SIZE = 192
_BLOCK, _REACH, _STEP = 28, 6, 20
_LEAST_OVERLAP = 0.35
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


@dataclass(frozen=True)
class Pair:
    """Two images of one lesion; positions in the catalog, first < second.

    Attributes:
        kind: "exact" (same pixels), "near-duplicate" (same picture, changed) or "frame" (another frame of it).
        similarity: correlation of the aligned images' detail; 1 for the same picture.
        agreement: agreement of blocks at 192 x 192; 1 for the same picture.
        mirrored: whether one is the other mirrored left to right.
        mask_iou: IoU of the lesion masks where the images overlap; NaN where both are empty.
    """

    first: int
    second: int
    kind: str
    similarity: float
    agreement: float
    mirrored: bool
    mask_iou: float


def verify(
    candidates: Sequence[Candidate],
    prints: Sequence[Fingerprint],
    paths: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """The candidates that hold, ascending by position, each pair of images once.

    Args:
        candidates: what to align.
        prints: fingerprints of all images.
        paths: files of all images; read for candidates that pass the thumbnails' test.
        progress: called with (candidates done, candidates in all).
    """
    found: dict[tuple[int, int], Pair] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda candidate: _verified(candidate, prints, paths), candidates)
        for done, pair in enumerate(results, start=1):
            if pair is not None:
                key = (pair.first, pair.second)
                if key not in found or pair.agreement > found[key].agreement:
                    found[key] = pair
            if progress and (done % 256 == 0 or done == len(candidates)):
                progress(done, len(candidates))
    return [found[key] for key in sorted(found)]


def _verified(candidate: Candidate, prints: Sequence[Fingerprint], paths: Sequence[str]) -> Pair | None:
    first, second = prints[candidate.first], prints[candidate.second]
    low, high = sorted((candidate.first, candidate.second))
    if first.pixels == second.pixels:
        iou = mask_iou(first.mask, second.mask, np.eye(2, 3, dtype=np.float32), False)
        return Pair(low, high, EXACT, 1.0, 1.0, False, iou)
    start = window_matrix(candidate.window, candidate.mirrored)
    aligned = align(_turned(first.thumbnail, candidate.mirrored), second.thumbnail, start)
    alike = not candidate.mirrored and correlation(first.thumbnail, second.thumbnail) >= FRAME_CORRELATION
    if not alike and (aligned is None or aligned[1] < _WORTH_READING):
        return None
    matrix, detail = aligned or (start, 0.0)
    least = min(first.size[0], second.size[0]), min(first.size[1], second.size[1])
    large = [_square(images.read_grey(paths[position]), least) for position in (candidate.first, candidate.second)]
    agreement = block_agreement(_turned(large[0], candidate.mirrored), large[1], matrix)
    kind = _kind(detail, agreement, candidate.mirrored) or (FRAME if alike else "")
    if not kind:
        return None
    iou = mask_iou(first.mask, second.mask, matrix, candidate.mirrored)
    return Pair(low, high, kind, round(detail, 4), round(agreement, 4), candidate.mirrored, iou)


def _kind(detail: float, agreement: float, mirrored: bool) -> str:
    """Frames are never mirrored: a mirrored look-alike that is not the same picture is another lesion."""
    if agreement >= NEAR_AGREEMENT and detail >= FRAME_DETAIL:
        return NEAR
    if detail >= FRAME_DETAIL and agreement >= FRAME_AGREEMENT and not mirrored:
        return FRAME
    return ""


def window_matrix(window: int, mirrored: bool) -> np.ndarray:
    """Affine map (2, 3) from the whole of the second thumbnail to a window of the first, which is turned first."""
    (top, bottom), (left, right) = EXTENTS[window // len(EXTENTS)], EXTENTS[window % len(EXTENTS)]
    if mirrored:
        left, right = 1.0 - right, 1.0 - left
    across, down = right - left, bottom - top
    offset = 0.5 * (np.array([across, down]) - 1)
    return np.array(
        [[across, 0, left * THUMBNAIL + offset[0]], [0, down, top * THUMBNAIL + offset[1]]], dtype=np.float32
    )


def align(first: np.ndarray, second: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Affine map from `second` to `first` (thumbnails, uint8) and their detail's correlation there.

    Aligned at half the size first, where nearly all candidates turn out to be of other tissue, most of them after a
    shift or a few steps. None for those, and where no alignment is found or too little is common.
    """
    one, other = (local_detail(_halved(image), 3.0) for image in (first, second))
    shifted, likeness = _shifted(one, other, _scaled(start, 0.5))
    if likeness < _SHIFTED_DETAIL:
        return None
    glimpse = _align(one, other, shifted, _FEW_STEPS)
    if glimpse is None or glimpse[1] < _GLIMPSED_DETAIL:
        return None
    rough = _align(one, other, shifted, _STEPS)
    if rough is None or rough[1] < _ROUGH_DETAIL:
        return None
    return _align(local_detail(first, 6.0), local_detail(second, 6.0), _scaled(rough[0], 2.0), _STEPS)


def _align(one: np.ndarray, other: np.ndarray, start: np.ndarray, steps: int) -> tuple[np.ndarray, float] | None:
    """As `align`, for two images' detail and at most so many steps of the iteration."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, 1e-4)
    unused = np.full(other.shape, 255, np.uint8)
    try:
        _, matrix = cv2.findTransformECC(other, one, start.copy(), cv2.MOTION_AFFINE, criteria, unused, 5)
    except cv2.error:  # the iteration diverged: nothing to align
        return None
    warped = cv2.warpAffine(one, matrix, one.shape[::-1], flags=_FLAGS)
    common = _common(matrix, one.shape)
    if common.mean() < _LEAST_OVERLAP:
        return None
    return matrix, correlation(warped[common], other[common])


def _shifted(one: np.ndarray, other: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    """`start`, moved to where the middle of `other` is found, and the correlation there.

    Windows lie on a grid, crops do not.
    """
    warped = cv2.warpAffine(one, start, one.shape[::-1], flags=_FLAGS)
    middle = np.ascontiguousarray(other[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT])
    _, likeness, _, (across, down) = cv2.minMaxLoc(cv2.matchTemplate(warped, middle, cv2.TM_CCOEFF_NORMED))
    moved = start.copy()
    moved[:, 2] += start[:, :2] @ np.array([across - _SHIFT, down - _SHIFT], np.float32)
    return moved, likeness


def _halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def local_detail(grey: np.ndarray, radius: float) -> np.ndarray:
    """Grey levels relative to their surroundings' mean and spread, float32, in [-2.5, 2.5].

    Changes of brightness, contrast and gamma cancel, and a burnt-in mark counts no more than a bright echo.
    """
    levels = grey.astype(np.float32)
    centred = levels - cv2.GaussianBlur(levels, (0, 0), radius)
    spread = np.sqrt(cv2.GaussianBlur(centred * centred, (0, 0), radius * 1.3) + 4.0)
    return np.clip(centred / spread, -2.5, 2.5)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two arrays of one shape; 0 where one is constant."""
    one, other = (part - part.mean() for part in (first.astype(np.float64), second.astype(np.float64)))
    norm = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / norm if norm > 1e-9 else 0.0


def block_agreement(first: np.ndarray, second: np.ndarray, matrix: np.ndarray) -> float:
    """Mean over blocks of the best local correlation of two (192, 192) images, in [0, 1].

    Args:
        first, second: grey images, uint8.
        matrix: affine map from the second thumbnail to the first.
    """
    one, other = local_detail(first, 5.0), local_detail(second, 5.0)
    scaled = _scaled(matrix, _SIZE / THUMBNAIL)
    warped = cv2.warpAffine(one, scaled, one.shape[::-1], flags=_FLAGS)
    common = _common(scaled, one.shape)
    values = []
    for top in range(_REACH, _SIZE - _BLOCK - _REACH + 1, _STEP):
        for left in range(_REACH, _SIZE - _BLOCK - _REACH + 1, _STEP):
            if not common[top : top + _BLOCK, left : left + _BLOCK].all():
                continue
            block = warped[top : top + _BLOCK, left : left + _BLOCK]
            if block.std() < 0.3:
                continue
            around = other[top - _REACH : top + _BLOCK + _REACH, left - _REACH : left + _BLOCK + _REACH]
            values.append(float(cv2.matchTemplate(around, block, cv2.TM_CCOEFF_NORMED).max()))
    return float(np.mean(values)) if len(values) >= 8 else 0.0


def mask_iou(first: np.ndarray, second: np.ndarray, matrix: np.ndarray, mirrored: bool) -> float:
    """IoU of two masks (96, 96), bool, where the aligned images overlap; NaN where both are empty there."""
    turned = _turned(first.astype(np.float32), mirrored)
    warped = cv2.warpAffine(turned, matrix, turned.shape[::-1], flags=_FLAGS) > 0.5
    common = _common(matrix, first.shape)
    union = np.count_nonzero((warped | second) & common)
    return round(np.count_nonzero(warped & second & common) / union, 4) if union else float("nan")


def _common(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    inside = cv2.warpAffine(np.ones(shape, np.float32), matrix, shape[::-1], flags=_FLAGS)
    return inside > 0.99


def _scaled(matrix: np.ndarray, factor: float) -> np.ndarray:
    """The same map for images `factor` times as large; pixel centres lie at (i + 0.5)."""
    scaled = matrix.astype(np.float64).copy()
    shift = (factor - 1) / 2
    scaled[:, 2] = matrix[:, 2] * factor + shift - matrix[:, :2].sum(axis=1) * shift
    return scaled.astype(np.float32)


def _turned(image: np.ndarray, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1]) if mirrored else image


def _square(grey: np.ndarray, least: tuple[int, int]) -> np.ndarray:
    """Image at (192, 192) with no finer detail than an image of size `least` (height, width) holds."""
    height, width = min(least[0], _SIZE), min(least[1], _SIZE)
    shrunk = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (_SIZE, _SIZE), interpolation=cv2.INTER_LINEAR)
