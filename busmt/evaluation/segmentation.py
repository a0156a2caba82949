"""Overlap and surface measures between a true and a predicted lesion mask.

Masks are (H, W), bool. Spacing is (row, column) distance between pixel centres; (1, 1) gives pixels,
millimetres per pixel give millimetres.

What happens with empty masks, everywhere in busmt:

======================  ==========  ================  ================
measure                 both empty  prediction empty  truth empty
======================  ==========  ================  ================
Dice, IoU               1           0                 0
sensitivity             NaN         0                 NaN
precision               NaN         NaN               0
surface Dice            1           0                 0
HD95, average distance  0           NaN               NaN
======================  ==========  ================  ================

NaN means undefined: a missed lesion has no surface to measure to, and any number put in its place would
be a choice of the author. It counts as 0 in the overlap measures; summaries leave NaN out and say how
many there were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SURFACE_TOLERANCE: float = 0.01
"""Tolerance of the surface Dice as a share of the image's diagonal: 5.8 pixels in 500x300. Relative,
because images of one cohort differ up to fivefold in their number of pixels."""
SURFACE_TOLERANCE_MM: float = 1.0
"""Tolerance of the surface Dice in millimetres, where the spacing is known."""
MASK_MEASURES: tuple[str, ...] = ("dice", "iou", "sensitivity", "precision", "surface_dice", "hd95_px", "asd_px")
"""Names of the measures that `score_mask` returns for every image."""
MASK_MEASURES_MM: tuple[str, ...] = ("surface_dice_mm", "hd95_mm", "asd_mm")
"""Names of the further measures where the spacing is known."""


def score_mask(truth: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float] | None = None) -> dict[str, float]:
    """All measures of one image, each computed once.

    Args:
        truth, predicted: masks (H, W), bool.
        spacing_mm: (row, column) millimetres per pixel, or None where unknown.

    Returns:
        `MASK_MEASURES` and `MASK_MEASURES_MM`; the latter are NaN without spacing.

    Raises:
        ValueError: the shapes differ.
    """
    both, true_area, predicted_area = _areas(truth, predicted)
    pixels = surface_distances(truth, predicted)
    scores = {
        "dice": _ratio(2 * both, true_area + predicted_area, 1.0),
        "iou": _ratio(both, true_area + predicted_area - both, 1.0),
        "sensitivity": _ratio(both, true_area, np.nan),
        "precision": _ratio(both, predicted_area, np.nan),
        "surface_dice": pixels.dice(SURFACE_TOLERANCE * float(np.hypot(*truth.shape))),
        "hd95_px": pixels.percentile(95),
        "asd_px": pixels.mean(),
        "surface_dice_mm": np.nan,
        "hd95_mm": np.nan,
        "asd_mm": np.nan,
    }
    if spacing_mm is not None:
        millimetres = surface_distances(truth, predicted, spacing_mm)
        scores["surface_dice_mm"] = millimetres.dice(SURFACE_TOLERANCE_MM)
        scores["hd95_mm"] = millimetres.percentile(95)
        scores["asd_mm"] = millimetres.mean()
    return scores


def dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    """2 |T and P| / (|T| + |P|), in [0, 1]. Both empty: 1; one empty: 0.

    >>> dice(np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool))
    0.5
    """
    both, true_area, predicted_area = _areas(truth, predicted)
    return _ratio(2 * both, true_area + predicted_area, 1.0)


def iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    """|T and P| / |T or P|, in [0, 1]. Both empty: 1; one empty: 0."""
    both, true_area, predicted_area = _areas(truth, predicted)
    return _ratio(both, true_area + predicted_area - both, 1.0)


def sensitivity(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the lesion that was found, |T and P| / |T|. Truth empty: NaN."""
    both, true_area, _ = _areas(truth, predicted)
    return _ratio(both, true_area, np.nan)


def precision(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the prediction that is lesion, |T and P| / |P|. Prediction empty: NaN."""
    both, _, predicted_area = _areas(truth, predicted)
    return _ratio(both, predicted_area, np.nan)


def hd95(truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """95th-percentile Hausdorff distance: the larger of the two directed 95th percentiles.

    Definition as in Nikolov et al., arXiv 1809.04430, and MONAI. Both empty: 0; one empty: NaN.
    """
    return surface_distances(truth, predicted, spacing).percentile(95)


def average_surface_distance(truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """Average symmetric surface distance: mean over the pixels of both surfaces. Both empty: 0; one: NaN."""
    return surface_distances(truth, predicted, spacing).mean()


def surface_dice(
    truth: np.ndarray, predicted: np.ndarray, tolerance: float, spacing: Sequence[float] = (1.0, 1.0)
) -> float:
    """Share of both surfaces that lies within the tolerance of the other one.

    The normalised surface Dice of Nikolov et al., arXiv 1809.04430, with surface pixels as elements.
    Both empty: 1; one empty: 0.
    """
    return surface_distances(truth, predicted, spacing).dice(tolerance)


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces.

    Attributes:
        from_truth: (n,), float64: from each surface pixel of the truth to the nearest of the prediction.
        from_predicted: (m,), float64: the other way. Where the other mask is empty the distances are infinite.
    """

    from_truth: np.ndarray
    from_predicted: np.ndarray

    @property
    def _both_empty(self) -> bool:
        return not self.from_truth.size and not self.from_predicted.size

    @property
    def _one_empty(self) -> bool:
        return bool(self.from_truth.size) != bool(self.from_predicted.size)

    def percentile(self, percent: float) -> float:
        """The larger of the two directed percentiles (linear interpolation); 100 is the Hausdorff distance."""
        if self._both_empty:
            return 0.0
        if self._one_empty:
            return float("nan")
        return float(max(np.percentile(self.from_truth, percent), np.percentile(self.from_predicted, percent)))

    def mean(self) -> float:
        """Mean over both surfaces, each pixel with the same weight."""
        if self._both_empty:
            return 0.0
        if self._one_empty:
            return float("nan")
        return float(np.concatenate((self.from_truth, self.from_predicted)).mean())

    def dice(self, tolerance: float) -> float:
        """Share of all surface pixels within the tolerance (inclusive)."""
        close = int((self.from_truth <= tolerance).sum() + (self.from_predicted <= tolerance).sum())
        return _ratio(close, self.from_truth.size + self.from_predicted.size, 1.0)


def surface_distances(
    truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)
) -> SurfaceDistances:
    """Nearest-neighbour distances between the surface pixels of two masks.

    A surface pixel lies in the mask and has one of its four neighbours outside it; beyond the image's edge
    is outside. Distances are between pixel centres, found with k-d trees over the surface pixels alone, so
    that the time depends on the lesion and not on the image.

    Raises:
        ValueError: the shapes differ, or the spacing is not two positive numbers.
    """
    from scipy.spatial import cKDTree

    _check_shapes(truth, predicted)
    step = np.asarray(spacing, dtype=np.float64)
    if step.shape != (2,) or not (np.isfinite(step) & (step > 0)).all():
        raise ValueError(f"spacing must be two positive numbers, got {spacing!r}")
    true_points = surface_pixels(truth) * step
    predicted_points = surface_pixels(predicted) * step
    if not len(true_points) or not len(predicted_points):
        return SurfaceDistances(np.full(len(true_points), np.inf), np.full(len(predicted_points), np.inf))
    return SurfaceDistances(
        from_truth=cKDTree(predicted_points).query(true_points)[0],
        from_predicted=cKDTree(true_points).query(predicted_points)[0],
    )


def surface_pixels(mask: np.ndarray) -> np.ndarray:
    """(row, column) of the surface pixels of a mask (H, W): (n, 2), int64, row by row."""
    rows, columns = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0))
    if not rows.any():
        return np.empty((0, 2), dtype=np.int64)
    top, left = int(rows.argmax()), int(columns.argmax())
    bottom, right = len(rows) - int(rows[::-1].argmax()), len(columns) - int(columns[::-1].argmax())
    box = np.pad(mask[top:bottom, left:right].astype(bool), 1)
    inside = box[:-2, 1:-1] & box[2:, 1:-1] & box[1:-1, :-2] & box[1:-1, 2:]
    return np.argwhere(box[1:-1, 1:-1] & ~inside) + (top, left)


def _areas(truth: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    _check_shapes(truth, predicted)
    truth, predicted = truth.astype(bool, copy=False), predicted.astype(bool, copy=False)
    return int((truth & predicted).sum()), int(truth.sum()), int(predicted.sum())


def _check_shapes(truth: np.ndarray, predicted: np.ndarray) -> None:
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(f"masks must be two-dimensional and of one shape, got {truth.shape} and {predicted.shape}")


def _ratio(part: float, whole: float, empty: float) -> float:
    return float(part / whole) if whole else float(empty)
