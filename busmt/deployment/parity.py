"""Does an export say the same as the Keras model? Checked on images right after it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from busmt.config import LABEL_OUTPUT, MASK_OUTPUT, MASK_THRESHOLD, NORMAL
from busmt.errors import ExportError
from busmt.prediction import Forward

MIN_DICE = 0.999
MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Agreement of one exported model with Keras.

    Attributes:
        format: what was compared, such as "tflite float32".
        images: number of images.
        same_label: images with the same class.
        min_mask_dice: smallest Dice between both thresholded masks; 1 where both are empty.
        max_mask_difference: largest difference of a lesion probability.
        max_label_difference: largest difference of a class probability.
        contradictions: images whose class is normal and mask is not empty, or the reverse, where Keras
            is not contradictory itself (a network without refinement may be).
    """

    format: str
    images: int
    same_label: int
    min_mask_dice: float
    max_mask_difference: float
    max_label_difference: float
    contradictions: int

    @property
    def max_difference(self) -> float:
        """The larger of both differences; NaN where an output was not a number."""
        return float(np.maximum(self.max_mask_difference, self.max_label_difference))

    @property
    def passed(self) -> bool:
        """Same class everywhere, Dice and differences within the limits, no contradiction."""
        return (
            self.same_label == self.images
            and self.min_mask_dice >= MIN_DICE
            and self.max_difference <= MAX_DIFFERENCE
            and self.contradictions == 0
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, with the verdict."""
        return {**asdict(self), "passed": self.passed}


def compare(name: str, reference: Forward, candidate: Forward, inputs: Sequence[np.ndarray]) -> Parity:
    """Compare a candidate with the Keras model, image by image.

    Args:
        name: what is compared.
        reference, candidate: functions from inputs (1, S, S, 1) to outputs by name.
        inputs: images (S, S, 1), float32, in [0, 1].
    """
    same, dice, mask_gap, label_gap, contradictions = 0, 1.0, 0.0, 0.0, 0
    for image in inputs:
        own, other = reference(image[None]), candidate(image[None])
        same += np.argmax(other[LABEL_OUTPUT][0]) == np.argmax(own[LABEL_OUTPUT][0])
        first, second = own[MASK_OUTPUT] > MASK_THRESHOLD, other[MASK_OUTPUT] > MASK_THRESHOLD
        total = int(first.sum() + second.sum())
        dice = min(dice, 2 * int((first & second).sum()) / total if total else 1.0)
        # np.maximum keeps a NaN, which max() would lose
        mask_gap = float(np.maximum(mask_gap, np.abs(own[MASK_OUTPUT] - other[MASK_OUTPUT]).max()))
        label_gap = float(np.maximum(label_gap, np.abs(own[LABEL_OUTPUT] - other[LABEL_OUTPUT]).max()))
        contradictions += _contradicts(other) and not _contradicts(own)
    return Parity(name, len(inputs), int(same), dice, mask_gap, label_gap, int(contradictions))


def require(parity: Parity) -> None:
    """Raise ExportError, with the figures, where an export does not agree with Keras."""
    if not parity.passed:
        raise ExportError(
            f"{parity.format} disagrees with the Keras model on {parity.images} images: same class on "
            f"{parity.same_label}, smallest mask Dice {parity.min_mask_dice:.5f}, largest difference "
            f"{parity.max_difference:.2e}, "
            f"{parity.contradictions} contradictions; nothing was written"
        )


def _contradicts(outputs: dict[str, np.ndarray]) -> bool:
    normal = int(np.argmax(outputs[LABEL_OUTPUT][0])) == NORMAL
    return normal == bool((outputs[MASK_OUTPUT] > MASK_THRESHOLD).any())
