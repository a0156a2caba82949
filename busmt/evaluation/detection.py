"""Lesion-level detection: which lesions were found, and what was marked besides.

A lesion is an 8-connected component of a mask. A true and a predicted component are a match where their
intersection over union reaches the threshold; each takes part in at most one match, and as many matches
as possible are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IOU_THRESHOLDS: tuple[float, ...] = (0.3, 0.5)
"""Overlaps at which a lesion counts as found."""


@dataclass(frozen=True)
class Detection:
    """Counts of one image at one threshold.

    Attributes:
        lesions: true components.
        found: true components with a match.
        false_positives: predicted components without one.
    """

    lesions: int
    found: int
    false_positives: int


def detect(
    truth: np.ndarray, predicted: np.ndarray, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> dict[float, Detection]:
    """Match the components of two masks (H, W), bool.

    Empty truth: no lesion, every predicted component is a false positive. Empty prediction: nothing is
    found and nothing is false.

    Args:
        truth, predicted: masks of one shape.
        thresholds: intersections over union, in (0, 1].

    Raises:
        ValueError: the shapes differ or a threshold is not in (0, 1].
    """
    from scipy.optimize import linear_sum_assignment

    overlaps = component_iou(truth, predicted)
    lesions, marks = overlaps.shape
    result = {}
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"an overlap threshold must be in (0, 1], got {threshold}")
        enough = overlaps >= threshold
        rows, columns = linear_sum_assignment(enough, maximize=True)
        found = int(enough[rows, columns].sum())
        result[threshold] = Detection(lesions, found, marks - found)
    return result


def component_iou(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Intersection over union of every true with every predicted component: (lesions, marks), float64.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy import ndimage

    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(f"masks must be two-dimensional and of one shape, got {truth.shape} and {predicted.shape}")
    neighbours = np.ones((3, 3), dtype=bool)
    true_parts, lesions = ndimage.label(truth, neighbours)
    marked_parts, marks = ndimage.label(predicted, neighbours)
    pairs = true_parts.astype(np.int64) * (marks + 1) + marked_parts
    counts = np.bincount(pairs.ravel(), minlength=(lesions + 1) * (marks + 1)).reshape(lesions + 1, marks + 1)
    both = counts[1:, 1:].astype(np.float64)
    union = counts.sum(axis=1)[1:, None] + counts.sum(axis=0)[None, 1:] - both
    return both / union
