"""Pairs of images that show the same lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from busmt.data.curation.fingerprints import Fingerprint

EXACT = "exact"
NEAR = "near-duplicate"
_NEAR_CORRELATION = 0.93
_BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two images of one lesion; positions in the catalog, first < second.

    Attributes:
        kind: "exact" (same pixels) or "near-duplicate".
        similarity: correlation of the aligned images, 1 for the same picture.
    """

    first: int
    second: int
    kind: str
    similarity: float


def find_pairs(prints: Sequence[Fingerprint]) -> list[Pair]:
    """Pairs that show the same picture, ascending by position."""
    thumbnails = np.stack([item.thumbnail.ravel() for item in prints])
    pairs = []
    for start in range(0, len(prints), _BLOCK):
        correlation = thumbnails[start : start + _BLOCK] @ thumbnails.T
        for row, column in zip(*np.nonzero(correlation > _NEAR_CORRELATION), strict=True):
            first, second = start + int(row), int(column)
            if first < second:
                same = prints[first].pixels == prints[second].pixels
                value = 1.0 if same else float(correlation[row, column])
                pairs.append(Pair(first, second, EXACT if same else NEAR, min(1.0, value)))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))
