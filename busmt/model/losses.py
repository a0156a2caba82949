"""Losses of the two tasks. Each returns one value per sample (B,), float32. Masks may have a third axis in space."""

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
    cross_entropy = ops.mean(_cross_entropy(truth, logits), axis=_space(truth))
    probability = ops.sigmoid(logits)
    overlap = ops.sum(truth * probability, axis=_space(truth))
    total = ops.sum(truth, axis=_space(truth)) + ops.sum(probability, axis=_space(truth))
    dice = 1.0 - (2.0 * overlap + _SMOOTH) / (total + _SMOOTH)
    return _has_lesion(truth) * dice + cross_entropy


def focal_tversky(truth: Any, logits: Any) -> Any:
    """Focal Tversky loss (Abraham & Khan, ISBI 2019: alpha 0.7, beta 0.3, gamma 4/3) of lesion images.

    Images with an empty true mask get the mean cross-entropy instead: their Tversky index is 0 whatever
    is predicted. Arguments as `dice_bce`.
    """
    cross_entropy = ops.mean(_cross_entropy(truth, logits), axis=_space(truth))
    probability = ops.sigmoid(logits)
    hit = ops.sum(truth * probability, axis=_space(truth))
    missed = ops.sum(truth * (1.0 - probability), axis=_space(truth))
    wrong = ops.sum((1.0 - truth) * probability, axis=_space(truth))
    index = (hit + _SMOOTH) / (hit + 0.7 * missed + 0.3 * wrong + _SMOOTH)
    lesion = _has_lesion(truth)
    # the floor keeps the gradient of the power finite where the overlap is perfect
    return lesion * ops.power(ops.maximum(1.0 - index, 1e-6), 0.75) + (1.0 - lesion) * cross_entropy


def squared_dice(truth: Any, logits: Any) -> Any:
    """Soft Dice of all images with squared denominators (Milletari et al., 3DV 2016) and 1 added to both parts.

    It asks for an empty mask, too, where the true one is empty. Arguments as `dice_bce`.
    """
    probability = ops.sigmoid(logits)
    overlap = ops.sum(truth * probability, axis=_space(truth))
    total = ops.sum(truth * truth + probability * probability, axis=_space(truth))
    return 1.0 - (2.0 * overlap + _SMOOTH) / (total + _SMOOTH)


def outline(truth: Any) -> Any:
    """The band of two pixels along the edge of masks (B, H, W, 1), {0, 1}: dilation less erosion, 3 x 3."""
    sides = (3,) * (len(truth.shape) - 2)
    grown = ops.max_pool(truth, sides, strides=1, padding="same")
    shrunk = -ops.max_pool(-truth, sides, strides=1, padding="same")
    return grown - shrunk


def label_cross_entropy(truth: Any, probabilities: Any, smoothing: float = 0.0) -> Any:
    """Categorical cross-entropy with label smoothing.

    Args:
        truth: (B, C), float32, one-hot.
        probabilities: (B, C), float32, summing to 1.
        smoothing: share that is spread evenly over the classes, in [0, 1).
    """
    soft = truth * (1.0 - smoothing) + smoothing / truth.shape[-1]
    return -ops.sum(soft * ops.log(ops.clip(probabilities, 1e-6, 1.0)), axis=-1)


def label_focal(truth: Any, probabilities: Any, smoothing: float = 0.0) -> Any:
    """Focal loss with gamma 2 (Lin et al., ICCV 2017, eq. 4); arguments as `label_cross_entropy`.

    The factor (1 - p) ** 2 is that of the true class.
    """
    likelihood = ops.sum(truth * probabilities, axis=-1)
    return ops.square(1.0 - likelihood) * label_cross_entropy(truth, probabilities, smoothing)


def logits_of(probability: Any) -> Any:
    """Inverse of the sigmoid, kept finite by clipping to [1e-6, 1 - 1e-6]."""
    probability = ops.clip(probability, 1e-6, 1.0 - 1e-6)
    return ops.log(probability) - ops.log(1.0 - probability)


MASK_LOSSES: dict[str, Callable[..., Any]] = {
    "dice_bce": dice_bce, "focal_tversky": focal_tversky, "dice": squared_dice,
}  # fmt: skip
LABEL_LOSSES: dict[str, Callable[..., Any]] = {"cross_entropy": label_cross_entropy, "focal": label_focal}


def _space(truth: Any) -> tuple[int, ...]:
    """All axes but that of the samples."""
    return tuple(range(1, len(truth.shape)))


def _has_lesion(truth: Any) -> Any:
    return ops.cast(ops.max(truth, axis=_space(truth)) > 0.5, truth.dtype)


def _cross_entropy(truth: Any, logits: Any) -> Any:
    return ops.relu(logits) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))
