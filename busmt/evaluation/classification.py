"""Classification measures on class probabilities, with weights for resampling.

Every measure takes labels (N,), int, as indices into the columns of probabilities (N, C), and weights
(B, N) or none; it returns (B,) float64 (B = 1 without weights). A weight of k means that the image counts
k times. NaN means undefined, for example an AUROC without a positive or without a negative image.

A cohort without one of the classes is scored on the classes that it has: `restrict` renormalises the
probabilities first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from busmt.config import CLASSES

OPERATING_POINTS: tuple[float, ...] = (0.90, 0.95)
"""Specificities at which sensitivity is given, and the other way round."""
MALIGNANT = "malignant"


def classification_measures(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All measures by name.

    Args:
        labels: (N,), int, indices into `classes`.
        probabilities: (N, C), rows sum to one.
        classes: names of the C columns.
        weights: (B, N) or None.

    Returns:
        Names to (B,): accuracy, balanced_accuracy, macro_f1, kappa, auroc_macro, average_precision_macro,
        and per class recall_*, precision_*, auroc_*, average_precision_*. With a malignant class also
        specificity_malignant (everything not called malignant among the rest),
        sensitivity_at_90_specificity, specificity_at_90_sensitivity and the same at 95, all of malignant
        against the rest.
    """
    weights = as_weights(weights, len(labels))
    table = confusion(labels, probabilities.argmax(axis=1), len(classes), weights)
    measures = {
        "accuracy": accuracy(table),
        "balanced_accuracy": balanced_accuracy(table),
        "macro_f1": macro_f1(table),
        "kappa": kappa(table),
    }
    curves = [binary_curve(labels == index, probabilities[:, index], weights) for index in range(len(classes))]
    areas = np.stack([curve.auroc() for curve in curves])
    precisions = np.stack([curve.average_precision() for curve in curves])
    measures["auroc_macro"] = areas.mean(axis=0)
    measures["average_precision_macro"] = precisions.mean(axis=0)
    for index, name in enumerate(classes):
        measures[f"recall_{name}"] = _divide(table[:, index, index], table[:, index].sum(axis=1))
        measures[f"precision_{name}"] = _divide(table[:, index, index], table[:, :, index].sum(axis=1))
        measures[f"auroc_{name}"] = areas[index]
        measures[f"average_precision_{name}"] = precisions[index]
    if MALIGNANT in classes:
        index = list(classes).index(MALIGNANT)
        rest = [other for other in range(len(classes)) if other != index]
        others = table[:, rest]
        called = others[:, :, index].sum(axis=1)
        measures["specificity_malignant"] = 1 - _divide(called, others.sum(axis=(1, 2)))
        for point in OPERATING_POINTS:
            percent = round(100 * point)
            measures[f"sensitivity_at_{percent}_specificity"] = curves[index].sensitivity_at(point)
            measures[f"specificity_at_{percent}_sensitivity"] = curves[index].specificity_at(point)
    return measures


def restrict(probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Probabilities (N, 3) in the order of `CLASSES` to (N, C), float64, over these classes, renormalised.

    A row without any probability on them becomes uniform.
    """
    columns = [CLASSES.index(name) for name in classes]
    kept = np.asarray(probabilities, dtype=np.float64)[:, columns]
    total = kept.sum(axis=1, keepdims=True)
    return np.where(total > 0, kept / np.where(total > 0, total, 1), 1 / len(columns))


def confusion(labels: np.ndarray, predicted: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted counts (B, C, C): rows are the true classes, columns the predicted ones."""
    weights = as_weights(weights, len(labels))
    cells = np.zeros((len(labels), count * count))
    cells[np.arange(len(labels)), np.asarray(labels) * count + np.asarray(predicted)] = 1
    return (weights @ cells).reshape(-1, count, count)


def accuracy(table: np.ndarray) -> np.ndarray:
    """Share of images on the diagonal of a confusion (B, C, C)."""
    return _divide(np.trace(table, axis1=1, axis2=2), table.sum(axis=(1, 2)))


def balanced_accuracy(table: np.ndarray) -> np.ndarray:
    """Mean recall over the classes that occur in a confusion (B, C, C)."""
    return _mean_known(_divide(_diagonal(table), table.sum(axis=2)))


def macro_f1(table: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur, as truth or as prediction, in a confusion (B, C, C)."""
    return _mean_known(_divide(2 * _diagonal(table), table.sum(axis=2) + table.sum(axis=1)))


def kappa(table: np.ndarray) -> np.ndarray:
    """Cohen's kappa, unweighted, of a confusion (B, C, C). NaN where chance alone agrees fully."""
    total = table.sum(axis=(1, 2))
    chance = _divide((table.sum(axis=2) * table.sum(axis=1)).sum(axis=1), total**2)
    return _divide(accuracy(table) - chance, 1 - chance)


@dataclass(frozen=True)
class BinaryCurve:
    """Counts at every threshold, from the highest score down.

    Attributes:
        thresholds: (U,), the distinct scores, falling; an image is called positive at or above one.
        true_positives, false_positives: (B, U), weighted counts.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    @property
    def sensitivity(self) -> np.ndarray:
        """(B, U)."""
        return _divide(self.true_positives, self.true_positives[:, -1:])

    @property
    def false_positive_rate(self) -> np.ndarray:
        """(B, U); 1 - specificity."""
        return _divide(self.false_positives, self.false_positives[:, -1:])

    @property
    def precision(self) -> np.ndarray:
        """(B, U)."""
        return _divide(self.true_positives, self.true_positives + self.false_positives)

    def auroc(self) -> np.ndarray:
        """Area under the ROC curve, ties as half (Hanley and McNeil, 1982)."""
        before = np.pad(self.true_positives, ((0, 0), (1, 0)))[:, :-1]
        steps = np.diff(self.false_positives, axis=1, prepend=0)
        area = (steps * (self.true_positives + before) / 2).sum(axis=1)
        return _divide(area, self.true_positives[:, -1] * self.false_positives[:, -1])

    def average_precision(self) -> np.ndarray:
        """Sum of precision times the step in recall, without interpolation. NaN without a positive image."""
        steps = np.diff(self.true_positives, axis=1, prepend=0)
        return _divide((steps * np.nan_to_num(self.precision)).sum(axis=1), self.true_positives[:, -1])

    def sensitivity_at(self, specificity: float) -> np.ndarray:
        """Largest sensitivity of a threshold with at least this specificity; 0 where only "none" has it."""
        allowed = self.false_positive_rate <= 1 - specificity + 1e-12
        best = np.where(allowed, self.sensitivity, 0).max(axis=1)
        return np.where(self._both_present, best, np.nan)

    def specificity_at(self, sensitivity: float) -> np.ndarray:
        """Largest specificity of a threshold with at least this sensitivity."""
        allowed = self.sensitivity >= sensitivity - 1e-12
        best = np.where(allowed, 1 - self.false_positive_rate, 0).max(axis=1)
        return np.where(self._both_present, best, np.nan)

    @property
    def _both_present(self) -> np.ndarray:
        return (self.true_positives[:, -1] > 0) & (self.false_positives[:, -1] > 0)


def binary_curve(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> BinaryCurve:
    """Counts at every threshold of a score.

    Args:
        positive: (N,), bool.
        scores: (N,), higher means more likely positive.
        weights: (B, N) or None.
    """
    weights = as_weights(weights, len(scores))
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    weights, hits = weights[:, order], np.asarray(positive, dtype=bool)[order]
    return BinaryCurve(
        thresholds=ranked[last],
        true_positives=np.cumsum(weights * hits, axis=1)[:, last],
        false_positives=np.cumsum(weights * ~hits, axis=1)[:, last],
    )


def as_weights(weights: np.ndarray | None, count: int) -> np.ndarray:
    """Weights as (B, N), float64; none means that every image counts once."""
    return np.ones((1, count)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))


def _diagonal(table: np.ndarray) -> np.ndarray:
    return np.diagonal(table, axis1=1, axis2=2)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole == 0, np.nan, part / whole)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of (B, C), NaN left out; NaN where nothing is left."""
    known = np.isfinite(values)
    return _divide(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))
