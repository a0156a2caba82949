"""Paired comparison of systems on the same images, one run each or one run per fold.

A system is what was trained the same way: one run, or k runs that each tested another fold. The folds'
per-image tables are put together, so that every image counts once, and two systems are compared image by
image: bootstrap interval of the difference and permutation test, both over groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, NORMAL
from busmt.errors import DataError
from busmt.evaluation import calibration, classification
from busmt.evaluation.intervals import LEVEL, RESAMPLES, paired_difference, weighted_mean
from busmt.evaluation.protocol import Evaluation
from busmt.evaluation.summary import scored_labels
from busmt.evaluation.table import tasks_in

COMPARED: dict[str, tuple[str, bool]] = {
    "dice": ("Dice", True),
    "iou": ("IoU", True),
    "surface_dice": ("Surface Dice", True),
    "hd95_px": ("HD95, pixels", False),
    "asd_px": ("Average surface distance, pixels", False),
    "false_positive_rate": ("Normal images with a lesion marked", False),
    "accuracy": ("Accuracy", True),
    "balanced_accuracy": ("Balanced accuracy", True),
    "macro_f1": ("Macro F1", True),
    "auroc_macro": ("AUROC, mean over classes", True),
    "auroc_malignant": ("AUROC, malignant against the rest", True),
    "average_precision_malignant": ("Average precision, malignant", True),
    "recall_malignant": ("Sensitivity, malignant", True),
    "specificity_malignant": ("Specificity, malignant", True),
    "ece": ("Expected calibration error", False),
    "brier": ("Brier score", False),
}
"""Compared measures: name for people, and whether more is better."""
NOT_SHOWN = "not shown to differ"
"""Verdict where interval and permutation test do not both show a difference."""
_PER_LESION = ("dice", "iou", "surface_dice", "hd95_px", "asd_px")


@dataclass(frozen=True)
class System:
    """What is compared.

    Attributes:
        name: for the table.
        folds: the per-image table of each of its runs; no image may occur twice.
    """

    name: str
    folds: tuple[pd.DataFrame, ...]

    @property
    def table(self) -> pd.DataFrame:
        """All folds together, sorted by image.

        Raises:
            DataError: an image was scored by two of the runs.
        """
        table = pd.concat(self.folds, ignore_index=True).sort_values("image_id", ignore_index=True)
        twice = table["image_id"][table["image_id"].duplicated()]
        if len(twice):
            raise DataError(
                f"{self.name}: {len(twice)} images, such as {twice.iloc[0]}, were scored by two of its runs"
            )
        return table


def system_of(name: str, evaluations: Sequence[Evaluation]) -> System:
    """A system from the evaluations of its runs."""
    return System(name, tuple(evaluation.per_image for evaluation in evaluations))


def compare(
    systems: Sequence[System], common: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compare every system with the first one.

    Args:
        systems: at least two.
        common: compare on the images that all systems scored, where they are not the same.
        resamples: bootstrap resamples and permutations.
        seed: of both.

    Returns:
        What comparison.json holds: "systems", "images", "groups", "left_out", "comparisons" (one for each
        system after the first: measure to first, second, difference = second - first with interval, p_value,
        verdict; and `right_alone`) and "folds" (each system's Dice, accuracy and balanced accuracy fold by fold, with
        mean and spread).

    Raises:
        DataError: fewer than two systems, no task in common, other images, or images whose class, size or mask
            differs.
    """
    if len(systems) < 2:
        raise DataError("a comparison needs at least two systems")
    tables, left_out = _aligned(systems, common)
    reference = tables[0]
    classes = tuple(name for name in CLASSES if (reference["label"] == name).any())
    comparisons = []
    for system, table in zip(systems[1:], tables[1:], strict=True):
        if not set(tasks_in(table)) & set(tasks_in(reference)):
            raise DataError(f"{systems[0].name} and {system.name} have no task in common: one masks, one classifies")
        statistic = paired_statistic(table, reference, classes)
        differences = paired_difference(statistic, reference["group"].to_numpy(), resamples, seed)
        measures = {}
        for key, difference in differences.items():
            values = difference.to_dict()
            measures[key] = {
                "first": values["second"],  # the reference is what is subtracted
                "second": values["first"],
                "difference": {name: values[name] for name in ("value", "low", "high")},
                "p_value": values["p_value"],
                "verdict": verdict(values["low"], values["high"], values["p_value"], COMPARED[key][1]),
            }
        comparisons.append(
            {
                "first": systems[0].name,
                "second": system.name,
                "measures": measures,
                "right_alone": right_alone(reference, table),
            }
        )
    return {
        "schema": "busmt-comparison",
        "schema_version": 1,
        "systems": [system.name for system in systems],
        "images": len(reference),
        "groups": int(reference["group"].nunique()),
        "classes": list(classes),
        "left_out": left_out,
        "interval": {"method": "paired percentile bootstrap", "unit": "group", "level": LEVEL, "resamples": resamples},
        "test": {"method": "permutation, systems swapped by group", "permutations": resamples, "corrected": False},
        "comparisons": comparisons,
        "folds": {system.name: fold_by_fold(system, classes) for system in systems},
    }


def paired_statistic(
    first: pd.DataFrame, second: pd.DataFrame, classes: Sequence[str]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Function of weights over the rows of both tables, the first's before the second's; see `intervals`.

    Surface distances count only where both systems have one, so that a system gains nothing by missing
    a difficult lesion. What one of the systems does not say at all, because it has one task, is not compared.
    """
    both = pd.concat((first, second), ignore_index=True)
    lesions = (both["lesion_pixels"] > 0).to_numpy()
    columns: dict[str, np.ndarray] = {}
    for name in _PER_LESION:
        values = both[name].to_numpy(np.float64)
        undefined = np.isnan(values.reshape(2, -1)).any(axis=0)
        columns[name] = np.where(np.tile(undefined, 2) | ~lesions, np.nan, values)
    normal = (both["label"] == CLASSES[NORMAL]).to_numpy() & both["predicted_pixels"].notna().to_numpy()
    if normal.any():
        columns["false_positive_rate"] = np.where(normal, both["predicted_pixels"] > 0, np.nan)
    tasks = set(tasks_in(first)) & set(tasks_in(second))
    if MASK_OUTPUT not in tasks:
        columns = {}
    columns = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    labels, probabilities = scored_labels(both, classes)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        measures = {name: weighted_mean(values, weights) for name, values in columns.items()}
        if len(classes) > 1 and LABEL_OUTPUT in tasks:
            measures |= classification.classification_measures(labels, probabilities, classes, weights)
            measures |= calibration.calibration_measures(labels, probabilities, weights)
        return {name: measures[name] for name in COMPARED if name in measures}

    return statistic


def right_alone(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, int] | None:
    """Images whose class the first, or the second, alone gets right; None where one does not classify.

    These are all that two accuracies on the same images differ by, as in McNemar's test: were both systems equally
    good, the difference would have a standard error of sqrt(their sum) images.
    """
    if not all(LABEL_OUTPUT in tasks_in(table) for table in (first, second)):
        return None
    one, other = ((table["label"] == table["predicted"]).to_numpy() for table in (first, second))
    return {"first": int((one & ~other).sum()), "second": int((other & ~one).sum())}


def verdict(low: float, high: float, p_value: float, more_is_better: bool) -> str:
    """What interval and test of second - first say about the second: "better", "worse" or "not shown to differ".

    A difference counts as shown where the interval leaves out 0 and the test agrees (p < 0.05).
    """
    if not (np.isfinite(low) and np.isfinite(high)) or low <= 0 <= high or not p_value < 1 - LEVEL:
        return NOT_SHOWN
    return "better" if (low > 0) == more_is_better else "worse"


def _aligned(systems: Sequence[System], common: bool) -> tuple[list[pd.DataFrame], int]:
    """The systems' tables over the same images in the same order, and how many images were left out."""
    tables = [system.table for system in systems]
    shared = set.intersection(*(set(table["image_id"]) for table in tables))
    every = set.union(*(set(table["image_id"]) for table in tables))
    if not shared:
        raise DataError("the systems were not scored on the same images: they have none in common")
    if shared != every and not common:
        raise DataError(
            f"the systems were scored on different images: {len(shared)} of {len(every)} in common, "
            f"{min(every - shared)} is missing from one; use --common to compare on those"
        )
    tables = [table[table["image_id"].isin(shared)].reset_index(drop=True) for table in tables]
    for system, table in zip(systems[1:], tables[1:], strict=True):
        _check_same(systems[0].name, tables[0], system.name, table)
    return tables, len(every) - len(shared)


def _check_same(first: str, one: pd.DataFrame, second: str, other: pd.DataFrame) -> None:
    """Cohorts may use the same names for different images."""
    for column, what in (("label", "class"), ("height", "size"), ("width", "size"), ("lesion_pixels", "lesion mask")):
        differs = (one[column] != other[column]).to_numpy()
        if differs.any():
            image = one["image_id"][differs].iloc[0]
            raise DataError(f"{image} has another {what} in {second} than in {first}: not the same images")


def fold_by_fold(system: System, classes: Sequence[str]) -> dict[str, Any]:
    """Dice, accuracy and balanced accuracy of each fold, with their mean and standard deviation (NaN for one fold).

    Only those that the system has the task for.
    """
    tasks = set.intersection(*(set(tasks_in(fold)) for fold in system.folds))
    names = {"dice": MASK_OUTPUT, "accuracy": LABEL_OUTPUT, "balanced_accuracy": LABEL_OUTPUT}
    values: dict[str, list[float]] = {name: [] for name, task in names.items() if task in tasks}
    for fold in system.folds:
        if MASK_OUTPUT in tasks:
            values["dice"].append(float(fold.loc[fold["lesion_pixels"] > 0, "dice"].mean()))
        if LABEL_OUTPUT not in tasks:
            continue
        labels, probabilities = scored_labels(fold[fold["label"].isin(classes)], classes)
        values["accuracy"].append(float((probabilities.argmax(axis=1) == labels).mean()))
        table = classification.confusion(labels, probabilities.argmax(axis=1), len(classes))
        values["balanced_accuracy"].append(float(classification.balanced_accuracy(table)[0]))
    return {
        name: {
            "folds": folds,
            "mean": float(np.mean(folds)),
            "sd": float(np.std(folds, ddof=1)) if len(folds) > 1 else float("nan"),
        }
        for name, folds in values.items()
    }
