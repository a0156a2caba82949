"""Are the probabilities true? And which cases should a person see?

Calibration error, Brier score, temperature scaling, and the referral rule. What is fitted here is fitted
on validation data and stored with the model; nothing is ever fitted on test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from busmt.config import CLASSES
from busmt.errors import DataError
from busmt.evaluation.classification import MALIGNANT, as_weights

BINS: int = 15
"""Equal-width bins of the expected calibration error (Guo et al., ICML 2017)."""
TEMPERATURES: tuple[float, float] = (0.4, 20.0)
"""Range that a fitted temperature is taken from. A few validation images that are all classified right are most
likely at a temperature of 0, which would make the model certain of everything: the lower end forbids that."""
REFERRAL_SENSITIVITY: float = 0.99
"""Sensitivity for malignancy that the referral rule is fitted to reach."""


def calibration_measures(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Expected calibration error, Brier score and negative log-likelihood.

    Args:
        labels: (N,), int, columns of `probabilities`.
        probabilities: (N, C), rows sum to one.
        weights: (B, N) or None.

    Returns:
        "ece" (top label, 15 bins), "brier" (sum over classes of squared errors, 0 to 2; Brier, 1950) and
        "nll" (nats), each (B,).
    """
    weights = as_weights(weights, len(labels))
    total = weights.sum(axis=1)
    truth = np.eye(probabilities.shape[1])[labels]
    squared = ((probabilities - truth) ** 2).sum(axis=1)
    surprise = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1))
    table = reliability(labels, probabilities, weights)
    gaps = np.abs(table.correct - table.confident).sum(axis=1)
    return {"ece": gaps / total, "brier": weights @ squared / total, "nll": weights @ surprise / total}


@dataclass(frozen=True)
class Reliability:
    """What a reliability diagram shows.

    Attributes:
        edges: (K + 1,), of the confidence bins.
        count: (B, K), weighted images per bin.
        correct: (B, K), how many of them were right.
        confident: (B, K), sum of their confidences.
    """

    edges: np.ndarray
    count: np.ndarray
    correct: np.ndarray
    confident: np.ndarray


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, bins: int = BINS
) -> Reliability:
    """Bin the images by the probability of the predicted class; bins are (low, high]."""
    weights = as_weights(weights, len(labels))
    confidence = probabilities.max(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    member = np.zeros((len(labels), bins))
    member[np.arange(len(labels)), place] = 1
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return Reliability(
        edges, weights @ member, weights @ (member * right[:, None]), weights @ (member * confidence[:, None])
    )


def fit_temperature(logits_or_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes validation labels most likely (Guo et al., ICML 2017).

    Args:
        logits_or_probabilities: (N, C). Rows that are non-negative and sum to one are taken for probabilities.
        labels: (N,), int.

    Returns:
        T > 0, within `TEMPERATURES`; softmax(logits / T) is calibrated, T > 1 makes it less certain.

    Raises:
        DataError: no image, or labels that do not fit.
    """
    from scipy.optimize import minimize_scalar

    logits = _as_logits(logits_or_probabilities)
    labels = np.asarray(labels)
    if not len(labels) or len(labels) != len(logits) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(f"temperature: {len(logits)} predictions and {len(labels)} labels do not fit together")

    def surprise(log_temperature: float) -> float:
        scaled = _log_softmax(logits / np.exp(log_temperature))
        return -float(scaled[np.arange(len(labels)), labels].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(surprise, bounds=(low, high), method="bounded").x))


def apply_temperature(logits_or_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, C), float64, at a temperature."""
    return np.exp(_log_softmax(_as_logits(logits_or_probabilities) / temperature))


@dataclass(frozen=True)
class Referral:
    """Rule: refer a case to a person where it is not called malignant and its probability of malignancy is at
    least the threshold.

    Attributes:
        threshold: on the probability of malignancy, in [0, 1].
        target: sensitivity that was asked for.
        sensitivity: sensitivity reached on the data the rule was fitted on; a referred malignant case counts as
            found. NaN without malignant cases.
        referred: share of all cases that the rule refers there.
        malignant: number of malignant cases there. With fewer than 100 the target of 99 % means: none missed.
    """

    threshold: float
    target: float
    sensitivity: float
    referred: float
    malignant: int

    def to_dict(self) -> dict[str, float]:
        return {
            "threshold": self.threshold,
            "target": self.target,
            "sensitivity": self.sensitivity,
            "referred": self.referred,
            "malignant": self.malignant,
        }


def fit_referral(probabilities: np.ndarray, labels: np.ndarray, target: float = REFERRAL_SENSITIVITY) -> Referral:
    """The highest threshold with which the referral rule reaches the target sensitivity for malignancy.

    Args:
        probabilities: (N, 3), in the order of `CLASSES`, calibrated.
        labels: (N,), int.
        target: sensitivity in (0, 1].

    Raises:
        DataError: nothing to fit on: no malignant case.
    """
    column = CLASSES.index(MALIGNANT)
    malignant = np.asarray(labels) == column
    if not malignant.any():
        raise DataError("referral: no malignant case among the validation images, so that nothing can be fitted")
    caught = np.where(probabilities.argmax(axis=1) == column, 1.0, probabilities[:, column])
    ranked = np.sort(caught[malignant])[::-1]
    needed = int(np.ceil(target * len(ranked) - 1e-9))
    return referral_at(float(ranked[needed - 1]), probabilities, labels, target)


def referral_at(
    threshold: float, probabilities: np.ndarray, labels: np.ndarray, target: float = REFERRAL_SENSITIVITY
) -> Referral:
    """What the rule with this threshold does on other data; see `fit_referral`."""
    column = CLASSES.index(MALIGNANT)
    malignant = np.asarray(labels) == column
    refer = is_referred(probabilities, threshold)
    found = refer | (probabilities.argmax(axis=1) == column)
    reached = float(found[malignant].mean()) if malignant.any() else float("nan")
    return Referral(float(threshold), target, reached, float(refer.mean()), int(malignant.sum()))


def is_referred(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Which cases a person should see: (N,), bool. Probabilities (N, 3) in the order of `CLASSES`."""
    column = CLASSES.index(MALIGNANT)
    return (probabilities.argmax(axis=1) != column) & (probabilities[:, column] >= threshold)


def referral_curve(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity for malignancy against the share that is referred, over all thresholds.

    Returns:
        shares (K,), rising from 0, and sensitivities (K,), rising to 1. Empty without malignant cases.
    """
    column = CLASSES.index(MALIGNANT)
    malignant = np.asarray(labels) == column
    if not malignant.any():
        return np.empty(0), np.empty(0)
    called = probabilities.argmax(axis=1) == column
    thresholds = np.concatenate(([np.inf], np.unique(probabilities[~called, column])[::-1]))
    scores = np.where(called, -np.inf, probabilities[:, column])
    referred = np.searchsorted(np.sort(-scores), -thresholds, side="right")
    missed = np.sort(-scores[malignant & ~called])
    found = (malignant & called).sum() + np.searchsorted(missed, -thresholds, side="right")
    return referred / len(labels), found / malignant.sum()


def risk_coverage(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error rate among the most confident share of the images (El-Yaniv and Wiener, JMLR 2010).

    Returns:
        coverages (K,), in (0, 1], rising, and risks (K,). Images of equal confidence are kept together.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    kept = np.arange(1, len(order) + 1)
    return kept[last] / len(order), (np.cumsum(wrong) / kept)[last]


def area_under_risk(coverages: np.ndarray, risks: np.ndarray) -> float:
    """Mean risk over all coverages (AURC): each step of coverage with the risk reached at its end."""
    return float((np.diff(coverages, prepend=0) * risks).sum())


def _as_logits(values: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"predictions must be a table of images by classes, got the shape {values.shape}")
    if len(values) and (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-4):
        return np.log(np.clip(values, 1e-12, None))
    return values


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
