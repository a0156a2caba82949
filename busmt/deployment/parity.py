"""Does an export say the same as the Keras model? Checked on images right after it was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from busmt.config import LABEL_OUTPUT, MASK_OUTPUT, MASK_THRESHOLD, NORMAL, TASKS, tasks_of
from busmt.errors import ExportError
from busmt.prediction import Forward

MIN_DICE = 0.999
MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Agreement of one exported model with Keras. What concerns a task that the network lacks is None.

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
    same_label: int | None
    min_mask_dice: float | None
    max_mask_difference: float | None
    max_label_difference: float | None
    contradictions: int

    @property
    def max_difference(self) -> float:
        """The larger of both differences; NaN where an output was not a number."""
        known = [gap for gap in (self.max_mask_difference, self.max_label_difference) if gap is not None]
        return float(np.max(known))  # keeps a NaN

    @property
    def passed(self) -> bool:
        """Same class everywhere, Dice and differences within the limits, no contradiction."""
        return (
            self.same_label in (None, self.images)
            and (self.min_mask_dice is None or self.min_mask_dice >= MIN_DICE)
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
    rows = [_agreement(reference(image[None]), candidate(image[None])) for image in inputs]

    def over_all(key: str, reduce: Callable[[list[float]], float]) -> float | None:
        values = [row[key] for row in rows if key in row]
        return float(reduce(values)) if values else None

    same = over_all("same_label", sum)
    return Parity(
        name,
        len(inputs),
        None if same is None else int(same),
        over_all("mask_dice", min),
        over_all("mask_difference", np.max),  # keeps a NaN, which max() would lose
        over_all("label_difference", np.max),
        int(sum(row.get("contradiction", 0) for row in rows)),
    )


def require(parity: Parity) -> None:
    """Raise ExportError, with the figures, where an export does not agree with Keras."""
    if not parity.passed:
        raise ExportError(
            f"{parity.format} disagrees with the Keras model on {parity.images} images: {in_words(parity)}, "
            f"{parity.contradictions} contradictions; nothing was written"
        )


def in_words(parity: Parity) -> str:
    """The figures of a parity, as far as the network has the task."""
    parts = []
    if parity.same_label is not None:
        parts.append(f"same class on {parity.same_label}")
    if parity.min_mask_dice is not None:
        parts.append(f"smallest mask Dice {parity.min_mask_dice:.5f}")
    return ", ".join([*parts, f"largest difference {parity.max_difference:.2e}"])


def _agreement(own: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """How two answers to one image agree, in the tasks of the first."""
    row: dict[str, float] = {}
    for task in tasks_of(own):
        row[f"{task}_difference"] = float(np.abs(own[task] - other[task]).max())
    if LABEL_OUTPUT in own:
        row["same_label"] = float(np.argmax(other[LABEL_OUTPUT][0]) == np.argmax(own[LABEL_OUTPUT][0]))
    if MASK_OUTPUT in own:
        first, second = own[MASK_OUTPUT] > MASK_THRESHOLD, other[MASK_OUTPUT] > MASK_THRESHOLD
        total = int(first.sum() + second.sum())
        row["mask_dice"] = 2 * int((first & second).sum()) / total if total else 1.0
    if tasks_of(own) == TASKS:
        row["contradiction"] = float(_contradicts(other) and not _contradicts(own))
    return row


def _contradicts(outputs: dict[str, np.ndarray]) -> bool:
    normal = int(np.argmax(outputs[LABEL_OUTPUT][0])) == NORMAL
    return normal == bool((outputs[MASK_OUTPUT] > MASK_THRESHOLD).any())
