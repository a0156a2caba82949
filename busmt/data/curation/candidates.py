"""Candidates: which pairs of images are worth aligning, found without comparing all pairs.

Every image gets a compact descriptor: the low spatial frequencies (a discrete cosine transform, as in
perceptual hashing: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) of
its histogram-equalised thumbnail, weighted by frequency. A copy may be cropped, so descriptors are also
made of 143 windows of each image, and a window of one image is looked up among the whole images. A mirrored
window has the same coefficients with other signs, so mirroring costs nothing.

Up to `_EXACT` images, descriptors are multiplied in blocks. Beyond, they are sorted into cells by k-means
and a window is compared only with the cells next to it, so that time grows far slower than with the
number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from busmt.data.curation.fingerprints import THUMBNAIL, Fingerprint

EXTENTS: tuple[tuple[float, float], ...] = (
    (0.0, 1.0),
    (0.0, 0.9), (0.05, 0.95), (0.1, 1.0),
    (0.0, 0.8), (0.1, 0.9), (0.2, 1.0),
    (0.0, 0.75), (0.06, 0.81), (0.125, 0.875), (0.19, 0.94), (0.25, 1.0),
)  # fmt: skip
"""Extents of the windows along either axis, as shares of the side; the first is the whole image."""
_FREQUENCIES = 10
_SIMILAR = 0.70
_PER_IMAGE, _PER_IMAGE_CERTAIN = 8, 64
_CERTAIN = 0.85
_EXACT = 4000
_PROBED = 3
_BLOCK = 512


@dataclass(frozen=True)
class Candidate:
    """The whole of image `second` looks like a window of image `first`.

    Attributes:
        first, second: positions of the images.
        window: which window of `first`: index into the pairs of (vertical, horizontal) `EXTENTS`.
        mirrored: whether `first` has to be mirrored left to right.
        similarity: cosine of the descriptors.
    """

    first: int
    second: int
    window: int
    mirrored: bool
    similarity: float


def find_candidates(
    prints: Sequence[Fingerprint], progress: Callable[[int, int], None] | None = None
) -> list[Candidate]:
    """The 8 most similar images per image and orientation, and up to 64 that are very similar.

    Blank and unreadable images have none.

    Args:
        prints: the images' fingerprints.
        progress: called with (images done, images in all).
    """
    usable = np.array([position for position, item in enumerate(prints) if not item.fault and item.spread > 1.0], int)
    if len(usable) < 2:
        return []
    whole = np.concatenate(
        [descriptors([prints[i].thumbnail for i in usable[start : start + _BLOCK]], whole_only=True)[:, 0]
         for start in range(0, len(usable), _BLOCK)]
    )  # fmt: skip
    index = _Cells(whole)
    best: dict[tuple[int, int, bool], Candidate] = {}
    for start in range(0, len(usable), _BLOCK):
        block = usable[start : start + _BLOCK]
        windows = descriptors([prints[i].thumbnail for i in block])
        for mirrored in (False, True):
            for candidate in _look_up(windows * _MIRROR if mirrored else windows, start, index, mirrored):
                first, second = usable[candidate.first], usable[candidate.second]
                key = (min(first, second), max(first, second), mirrored)
                if key not in best or candidate.similarity > best[key].similarity:
                    best[key] = Candidate(int(first), int(second), candidate.window, mirrored, candidate.similarity)
        if progress:
            progress(min(start + _BLOCK, len(usable)), len(usable))
    return [best[key] for key in sorted(best)]


def descriptors(thumbnails: Sequence[np.ndarray], whole_only: bool = False) -> np.ndarray:
    """Unit descriptors (N, windows, F), float32, of thumbnails (96, 96), uint8; window 0 is the whole image."""
    count = 1 if whole_only else len(EXTENTS)
    basis, images = _BASIS[: count * _FREQUENCIES], len(thumbnails)
    # two products of large matrices instead of many of small ones, which threads would rather hinder than help
    rows = np.concatenate([_equalised(thumbnail) for thumbnail in thumbnails]) @ basis.T
    columns = rows.reshape(images, THUMBNAIL, -1).transpose(1, 0, 2).reshape(THUMBNAIL, -1)
    bands = (basis @ columns).reshape(count, _FREQUENCIES, images, count, _FREQUENCIES)
    found = bands.transpose(2, 0, 3, 1, 4)[..., _USED].reshape(images, count * count, -1) * _WEIGHTS
    norms = np.linalg.norm(found, axis=-1, keepdims=True)
    return (found / np.maximum(norms, 1e-6)).astype(np.float32)


class _Cells:
    """Descriptors in cells around k-means centres; one cell for cohorts that are small."""

    def __init__(self, whole: np.ndarray):
        self.whole = whole
        self.centres = _centres(whole) if len(whole) > _EXACT else None
        self.members = [np.arange(len(whole))]
        if self.centres is not None:
            nearest = np.argmax(whole @ self.centres.T, axis=1)
            self.members = [np.flatnonzero(nearest == cell) for cell in range(len(self.centres))]

    def probed(self, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows of queries, members to compare them with), one entry per cell."""
        if self.centres is None:
            return [(np.arange(len(queries)), self.members[0])]
        similarity = queries @ self.centres.T
        nearest = np.argpartition(-similarity, _PROBED, axis=1)[:, :_PROBED]
        flat = nearest.ravel()
        order = np.argsort(flat, kind="stable")
        bounds = np.searchsorted(flat[order], np.arange(len(self.centres) + 1))
        return [
            (order[low:high] // _PROBED, self.members[cell])
            for cell, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
            if high > low and len(self.members[cell])
        ]


def _look_up(windows: np.ndarray, start: int, index: _Cells, mirrored: bool) -> list[Candidate]:
    """The most similar whole images for a block of images (positions are those in the index)."""
    count = windows.shape[1]
    queries = windows.reshape(-1, windows.shape[-1])
    rows, columns, values, which = [], [], [], []
    for asked, members in index.probed(queries):
        for low in range(0, len(asked), 4096):
            part = asked[low : low + 4096]
            similarity = queries[part] @ index.whole[members].T
            row, column = np.nonzero(similarity > _SIMILAR)
            rows.append(start + part[row] // count)
            which.append(part[row] % count)
            columns.append(members[column])
            values.append(similarity[row, column])
    row, column, value, window = (np.concatenate(part) for part in (rows, columns, values, which))
    other = row != column
    return _strongest(row[other], column[other], value[other], window[other], mirrored)


def _strongest(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, window: np.ndarray, mirrored: bool
) -> list[Candidate]:
    """Per pair the best window, then per image the best pairs."""
    order = np.lexsort((window, -value, column, row))
    row, column, value, window = row[order], column[order], value[order], window[order]
    fresh = np.ones(len(row), bool)
    fresh[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    row, column, value, window = row[fresh], column[fresh], value[fresh], window[fresh]
    order = np.lexsort((column, -value, row))
    row, column, value, window = row[order], column[order], value[order], window[order]
    starts = np.searchsorted(row, row, side="left")
    rank = np.arange(len(row)) - starts
    near = (rank < _PER_IMAGE) | ((value > _CERTAIN) & (rank < _PER_IMAGE_CERTAIN))
    return [
        Candidate(int(r), int(c), int(w), mirrored, round(float(v), 4))
        for r, c, w, v in zip(row[near], column[near], window[near], value[near], strict=True)
    ]


def _centres(whole: np.ndarray, rounds: int = 6) -> np.ndarray:
    """About sqrt(N) spherical k-means centres of a fixed sample, the same for the same descriptors."""
    count = int(np.sqrt(len(whole)))
    sample = whole[np.linspace(0, len(whole) - 1, min(len(whole), count * 40)).astype(int)]
    centres = sample[np.linspace(0, len(sample) - 1, count).astype(int)].copy()
    for _ in range(rounds):
        nearest = np.argmax(sample @ centres.T, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centres)
    return centres


def _equalised(thumbnail: np.ndarray) -> np.ndarray:
    """Grey levels as their rank, in [-0.5, 0.5]: the same under any rising grey-level curve."""
    below = np.cumsum(np.bincount(thumbnail.ravel(), minlength=256)) / thumbnail.size
    return below[thumbnail].astype(np.float32) - 0.5


def _cosines(low: float, high: float) -> np.ndarray:
    """Cosine basis (frequencies, pixels) over one extent of the thumbnail's side."""
    place = ((np.arange(THUMBNAIL) + 0.5) / THUMBNAIL - low) / (high - low)
    inside = (place > 0) & (place < 1)
    return np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * place) * inside / inside.sum()


_BASIS = np.concatenate([_cosines(*extent) for extent in EXTENTS]).astype(np.float32)
_radius = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES])
_USED = (_radius > 0) & (_radius < _FREQUENCIES)
_WEIGHTS = _radius[_USED].astype(np.float32)
_MIRROR = ((-1.0) ** np.mgrid[:_FREQUENCIES, :_FREQUENCIES][1])[_USED].astype(np.float32)
