"""Is a .tflite file good enough? Its answers against those of Keras, and both against the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, MASK_THRESHOLD, NORMAL, tasks_of
from busmt.data.images import Letterbox
from busmt.data.phantom import make_phantom
from busmt.data.pipeline import read_image
from busmt.deployment.quantise import Quantiser, calibration_positions
from busmt.errors import DataError
from busmt.evaluation.classification import classification_measures, restrict
from busmt.evaluation.intervals import Estimate, bootstrap, weighted_mean
from busmt.evaluation.segmentation import dice
from busmt.prediction import Forward, interpret
from busmt.training.run import Run

MAX_LOSS: float = 0.005
"""Largest accepted loss of mean lesion Dice and of macro AUROC against Keras."""
MIN_LIKENESS: float = 0.995
"""Mean Dice between an int8 file's masks and those of Keras that is aimed at on validation images. The losses
against the truth alone would be a poor guide: on some dozens of images one borderline lesion moves them by more
than `MAX_LOSS`, in either direction."""
RESAMPLES: int = 1000
_BY_TASK = (
    "same_label", "mean_mask_dice", "min_mask_dice", "mean_label_drift", "max_label_drift", "mean_mask_drift",
    "max_mask_drift",
)  # fmt: skip
"""Fields of a `Fidelity` that are None where the network lacks the task."""
MAX_CASES: int = 300


@dataclass(frozen=True)
class Case:
    """An image with its truth.

    Attributes:
        picture: network input (S, S, 1), float32, in [0, 1].
        box: where the image lies in it.
        truth: lesion mask (H, W), bool, on the image's own grid.
        label: index of the class.
        group: of the patient or of duplicates, for the intervals.
    """

    picture: np.ndarray
    box: Letterbox
    truth: np.ndarray
    label: int
    group: str


@dataclass(frozen=True)
class Answers:
    """What a model says about cases: probability maps (N, S, S), class probabilities (N, 3), Dice (N,); None, and NaN
    for Dice, of a task that it lacks."""

    maps: np.ndarray | None
    probabilities: np.ndarray | None
    dice: np.ndarray


@dataclass(frozen=True)
class Fidelity:
    """How near a variant is to Keras, and what it loses. What concerns a task that the network lacks is None.

    Attributes:
        variant: of `busmt.deployment.quantise.VARIANTS`.
        bytes: size of the model without its appendix.
        images: number of images; lesions: those with one.
        same_label: images with the class that Keras gives.
        mean_mask_dice, min_mask_dice: Dice between its mask and that of Keras on the model's grid; 1 where both
            are empty.
        mean_label_drift, max_label_drift: difference of a class probability.
        mean_mask_drift, max_mask_drift: difference of a lesion probability.
        contradictions: images whose class is normal and whose mask is not empty, or the reverse, where Keras is
            not contradictory itself (a network without refinement may be).
        dice_loss: mean lesion Dice of Keras less that of the variant, on the images' own grids.
        auroc_loss: the same for macro AUROC (one against the rest).
        float_parts: parts of the network that an int8 variant keeps in float.
    """

    variant: str
    bytes: int
    images: int
    lesions: int
    same_label: int | None
    mean_mask_dice: float | None
    min_mask_dice: float | None
    mean_label_drift: float | None
    max_label_drift: float | None
    mean_mask_drift: float | None
    max_mask_drift: float | None
    contradictions: int
    dice_loss: Estimate
    auroc_loss: Estimate
    float_parts: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """No contradiction, and no more than `MAX_LOSS` lost; a loss that is undefined does not count."""
        losses = [loss.value for loss in (self.dice_loss, self.auroc_loss) if np.isfinite(loss.value)]
        drifts = [drift for drift in (self.max_label_drift, self.max_mask_drift) if drift is not None]
        return all(np.isfinite(drifts)) and self.contradictions == 0 and all(loss <= MAX_LOSS for loss in losses)

    @property
    def likeness(self) -> float:
        """Mean Dice between its masks and those of Keras; without masks the share of images with the same class."""
        return (self.same_label or 0) / self.images if self.mean_mask_dice is None else self.mean_mask_dice

    def to_dict(self) -> dict[str, Any]:
        """Plain types, with the verdict; undefined numbers are None."""
        plain = {name: _plain(value) for name, value in asdict(self).items()}
        return {**plain, "max_loss": MAX_LOSS, "passed": self.passed}


def truth_cases(run: Run, size: int, part: str) -> tuple[list[Case], str]:
    """The images of one part of a run with their truth, at most `MAX_CASES`, and what they are.

    Where the run's images are not at hand, phantoms are used, and the text says so.
    """
    try:
        catalog = run.part(part)
        positions = np.linspace(0, len(catalog) - 1, min(MAX_CASES, len(catalog))).round().astype(int)
        cases = []
        for position in positions:
            sample, label = catalog[int(position)], int(catalog.labels[position])
            picture, box = read_image(sample.image, size)
            cases.append(Case(picture, box, sample.read_mask(), label, sample.group))
        return cases, f"{part} images"
    except DataError as error:
        return phantom_cases(48, size), f"phantoms, because the run's images cannot be read ({error})"


def phantom_cases(count: int, size: int) -> list[Case]:
    """Phantoms of the model's own size, classes in turn."""
    cases = []
    for seed in range(count):
        label = seed % len(CLASSES)
        phantom = make_phantom(CLASSES[label], seed, (size, size))
        picture = phantom.image[..., None].astype(np.float32) / 255.0
        cases.append(Case(picture, Letterbox(size, size, size), phantom.mask, label, str(seed)))
    return cases


def calibration_pictures(run: Run, size: int) -> list[np.ndarray]:
    """Training images for calibration, evenly over the classes; phantoms where they cannot be read."""
    try:
        train = run.part("train")
        return [read_image(train[position].image, size)[0] for position in calibration_positions(train)]
    except DataError:
        return [case.picture for case in phantom_cases(48, size)]


class Comparison:
    """Images with their truth, and what Keras says about them.

    Args:
        cases: the images.
        reference: the Keras model.
    """

    def __init__(self, cases: Sequence[Case], reference: Forward):
        self.cases = cases
        self._own = answer(reference, cases)

    def judge(self, variant: str, content: bytes, floats: tuple[str, ...] = (), resamples: int = RESAMPLES) -> Fidelity:
        """Run a .tflite file on the images and compare it with Keras and with the truth."""
        other = answer(interpret(content)[0], self.cases)
        return replace(judge(variant, len(content), self._own, other, self.cases, resamples), float_parts=floats)


def choose(
    quantiser: Quantiser, variant: str, validation: Comparison, say: Callable[[str], None] = lambda text: None
) -> tuple[bytes, tuple[str, ...]]:
    """Quantise, leaving more and more of the parts in float, the most harmful ones first, until it is good enough.

    Good enough is, on validation images, to lose no more than `MAX_LOSS` and to reach `MIN_LIKENESS`. If nothing
    is, the likest of those that do not lose more is taken, and if all do, the likest.

    Args:
        quantiser: around the float32 file.
        variant: of `busmt.deployment.quantise.QUANTISED`.
        validation: validation images: what is chosen must not be chosen on test images.
        say: called with a line of text for each attempt.

    Returns:
        The .tflite file, and the parts that are left in float.
    """
    attempts: list[tuple[bool, float, bytes, tuple[str, ...]]] = []
    for count in _counts(len(quantiser.parts)):
        floats = tuple(quantiser.ranking(variant)[:count]) if count else ()
        content = quantiser.quantise(variant, floats)
        fidelity = validation.judge(variant, content, floats, resamples=1)
        say(
            f"{variant}: {count} of {len(quantiser.parts)} parts in float, likeness {fidelity.likeness:.4f}, "
            f"loss of Dice {fidelity.dice_loss.value:+.4f}, of AUROC {fidelity.auroc_loss.value:+.4f}"
        )
        attempts.append((fidelity.passed, fidelity.likeness, content, floats))
        if fidelity.passed and fidelity.likeness >= MIN_LIKENESS:
            break
    else:
        attempts.sort(key=lambda attempt: attempt[:2])
    return attempts[-1][2:]


def answer(forward: Forward, cases: Sequence[Case]) -> Answers:
    """Run a model on cases, one at a time."""
    maps, probabilities, scores = [], [], []
    for case in cases:
        outputs = forward(case.picture[None])
        if LABEL_OUTPUT in outputs:
            probabilities.append(outputs[LABEL_OUTPUT][0])
        if MASK_OUTPUT in outputs:
            maps.append(outputs[MASK_OUTPUT][0, ..., 0])
            scores.append(dice(case.truth, case.box.restore_mask(maps[-1], MASK_THRESHOLD)))
        else:
            scores.append(np.nan)
    return Answers(
        np.stack(maps) if maps else None, np.stack(probabilities) if probabilities else None, np.array(scores)
    )


def judge(
    variant: str, size: int, own: Answers, other: Answers, cases: Sequence[Case], resamples: int = RESAMPLES
) -> Fidelity:
    """Compare a variant's answers with those of Keras, and both with the truth.

    Args:
        variant: of `busmt.deployment.quantise.VARIANTS`.
        size: of the file, bytes.
        own: answers of Keras; other: those of the variant.
        cases: the images that both have seen.
        resamples: of the intervals.
    """
    facts: dict[str, Any] = dict.fromkeys(_BY_TASK)
    said = {}
    if own.maps is not None and other.maps is not None:
        first, second = own.maps > MASK_THRESHOLD, other.maps > MASK_THRESHOLD
        overlaps = np.array([_overlap(a, b) for a, b in zip(first, second, strict=True)])
        facts |= {"mean_mask_dice": float(overlaps.mean()), "min_mask_dice": float(overlaps.min())}
        facts |= _drift("mask", own.maps, other.maps)
        said[MASK_OUTPUT] = [found.any(axis=(1, 2)) for found in (first, second)]
    if own.probabilities is not None and other.probabilities is not None:
        expected, labels = own.probabilities.argmax(axis=1), other.probabilities.argmax(axis=1)
        facts |= {"same_label": int((labels == expected).sum())}
        facts |= _drift("label", own.probabilities, other.probabilities)
        said[LABEL_OUTPUT] = [found == NORMAL for found in (expected, labels)]
    contradictions = 0
    if len(tasks_of(said)) == 2:
        known, odd = (normal == marked for normal, marked in zip(said[LABEL_OUTPUT], said[MASK_OUTPUT], strict=True))
        contradictions = int((odd & ~known).sum())
    losses = _losses(own, other, cases, resamples)
    return Fidelity(
        variant=variant,
        bytes=size,
        images=len(cases),
        lesions=sum(bool(case.truth.any()) for case in cases),
        contradictions=contradictions,
        **facts,
        dice_loss=losses["dice"],
        auroc_loss=losses["auroc"],
    )


def _counts(parts: int) -> Iterator[int]:
    """0, 1, 2, 4, 6, 9, ..., all."""
    count = 0
    while count < parts:
        yield count
        count += max(1, count // 2)
    yield parts


def _losses(own: Answers, other: Answers, cases: Sequence[Case], resamples: int) -> dict[str, Estimate]:
    """Dice and AUROC of Keras less those of the variant: both on the same resamples of the groups."""
    lesions = np.array([case.truth.any() for case in cases])
    truth = np.array([case.label for case in cases])
    present = [index for index in range(len(CLASSES)) if (truth == index).any()]
    classes = [CLASSES[index] for index in present]
    labels = np.searchsorted(present, truth)
    gaps = np.where(lesions, own.dice - other.dice, np.nan)

    def area(answers: Answers, weights: np.ndarray) -> np.ndarray:
        if len(classes) < 2 or answers.probabilities is None or not np.isfinite(answers.probabilities).all():
            return np.full(len(weights), np.nan)
        scores = restrict(answers.probabilities, classes)
        return classification_measures(labels, scores, classes, weights)["auroc_macro"]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"dice": weighted_mean(gaps, weights), "auroc": area(own, weights) - area(other, weights)}

    return bootstrap(statistic, [case.group for case in cases], resamples)


def _drift(task: str, own: np.ndarray, other: np.ndarray) -> dict[str, float]:
    gaps = np.abs(own - other)
    return {f"mean_{task}_drift": float(gaps.mean()), f"max_{task}_drift": float(gaps.max())}


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value
