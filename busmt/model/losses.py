"""Losses of the two tasks. Each returns one value per sample (B,), float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

_SMOOTH = 1.0


def dice_bce(truth: Any, logits: Any) -> Any:
    """Soft Dice of lesion images plus binary cross-entropy of all.

    Where the true mask is empty, Dice has no overlap to reward and is left out: cross-entropy alone asks for
    an empty mask there (Milletari et al., 3DV 2016, for soft Dice).

    Args:
        truth: (B, H, W, 1), float32, in {0, 1}.
        logits: (B, H, W, 1), float32.
    """
    cross_entropy = ops.mean(_cross_entropy(truth, logits), axis=(1, 2, 3))
    probability = ops.sigmoid(logits)
    overlap = ops.sum(truth * probability, axis=(1, 2, 3))
    total = ops.sum(truth, axis=(1, 2, 3)) + ops.sum(probability, axis=(1, 2, 3))
    dice = 1.0 - (2.0 * overlap + _SMOOTH) / (total + _SMOOTH)
    return _has_lesion(truth) * dice + cross_entropy


def focal_tversky(truth: Any, logits: Any) -> Any:
    """Focal Tversky loss (Abraham & Khan, ISBI 2019: alpha 0.7, beta 0.3, gamma 4/3) of lesion images.

    Images with an empty true mask get the mean cross-entropy instead: their Tversky index is 0 whatever
    is predicted. Arguments as `dice_bce`.
    """
    cross_entropy = ops.mean(_cross_entropy(truth, logits), axis=(1, 2, 3))
    probability = ops.sigmoid(logits)
    hit = ops.sum(truth * probability, axis=(1, 2, 3))
    missed = ops.sum(truth * (1.0 - probability), axis=(1, 2, 3))
    wrong = ops.sum((1.0 - truth) * probability, axis=(1, 2, 3))
    index = (hit + _SMOOTH) / (hit + 0.7 * missed + 0.3 * wrong + _SMOOTH)
    lesion = _has_lesion(truth)
    # the floor keeps the gradient of the power finite where the overlap is perfect
    return lesion * ops.power(ops.maximum(1.0 - index, 1e-6), 0.75) + (1.0 - lesion) * cross_entropy


def label_cross_entropy(truth: Any, probabilities: Any, smoothing: float = 0.0) -> Any:
    """Categorical cross-entropy with label smoothing.

    Args:
        truth: (B, C), float32, one-hot.
        probabilities: (B, C), float32, summing to 1.
        smoothing: share that is spread evenly over the classes, in [0, 1).
    """
    soft = truth * (1.0 - smoothing) + smoothing / truth.shape[-1]
    return -ops.sum(soft * ops.log(ops.clip(probabilities, 1e-6, 1.0)), axis=-1)


def logits_of(probability: Any) -> Any:
    """Inverse of the sigmoid, kept finite by clipping to [1e-6, 1 - 1e-6]."""
    probability = ops.clip(probability, 1e-6, 1.0 - 1e-6)
    return ops.log(probability) - ops.log(1.0 - probability)


MASK_LOSSES: dict[str, Callable[..., Any]] = {"dice_bce": dice_bce, "focal_tversky": focal_tversky}


def _has_lesion(truth: Any) -> Any:
    return ops.cast(ops.max(truth, axis=(1, 2, 3)) > 0.5, truth.dtype)


def _cross_entropy(truth: Any, logits: Any) -> Any:
    return ops.relu(logits) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))
