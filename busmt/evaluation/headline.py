"""The figures that a reader wants first, in words: for the terminal, the report and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TASKS: tuple[str, ...] = ("Segmentation", "Detection", "Classification", "Calibration", "Agreement")
_CLASSIFICATION = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "kappa": "Cohen's kappa",
    "auroc_macro": "AUROC, mean over classes",
    "auroc_malignant": "AUROC, malignant against the rest",
    "average_precision_malignant": "Average precision, malignant",
    "recall_malignant": "Sensitivity, malignant",
    "specificity_malignant": "Specificity, malignant",
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "specificity_at_90_sensitivity": "Specificity at 90 % sensitivity",
    "specificity_at_95_sensitivity": "Specificity at 95 % sensitivity",
}
_SEGMENTATION = {
    "dice": "Dice",
    "dice_if_marked": "Dice where something is marked",
    "iou": "IoU",
    "sensitivity": "Pixel sensitivity",
    "precision": "Pixel precision",
    "surface_dice": "Surface Dice (1 % of the diagonal)",
    "hd95_px": "HD95, pixels",
    "asd_px": "Average surface distance, pixels",
    "surface_dice_mm": "Surface Dice (1 mm)",
    "hd95_mm": "HD95, mm",
    "asd_mm": "Average surface distance, mm",
}
_MAIN = {"dice", "iou", "hd95_px", "accuracy", "balanced_accuracy", "macro_f1", "auroc_macro", "auroc_malignant"}
_MAIN |= {"ece", "false_positive_rate", "iou30", "hd95_mm", "after"}


@dataclass(frozen=True)
class Line:
    """One figure.

    Attributes:
        task: one of `TASKS`.
        key: name in metrics.json.
        name: for people.
        value: the figure, without interval.
        interval: its 95 % interval, or "".
        note: median, counts; may be empty.
        main: whether it belongs to a short list.
    """

    task: str
    key: str
    name: str
    value: str
    interval: str
    note: str
    main: bool


def headline(metrics: Mapping[str, Any]) -> list[Line]:
    """Lines in reading order, only those that the evaluation has."""
    return [
        *_segmentation(metrics["segmentation"]),
        *_detection(metrics),
        *_classification(metrics["classification"]),
        *_calibration(metrics["calibration"]),
        *_agreement(metrics["agreement"]),
    ]


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is undefined.

    >>> number(0.74159), number(None), number(12.3456)
    ('0.742', '-', '12.35')
    """
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.{digits if abs(value) < 10 else 2}f}"


def interval(estimate: Mapping[str, Any]) -> str:
    """The bounds of an estimate, "0.701 to 0.779"; empty where there are none."""
    low, high = number(estimate.get("low")), number(estimate.get("high"))
    return "" if "-" in (low, high) else f"{low} to {high}"


def _line(task: str, key: str, name: str, estimate: Mapping[str, Any], note: str = "") -> Line:
    return Line(task, key, name, number(estimate["value"]), interval(estimate), note, key in _MAIN)


def _segmentation(block: Mapping[str, Any]) -> list[Line]:
    lines = []
    for key, name in _SEGMENTATION.items():
        measure = block["measures"].get(key)
        if measure is None:
            continue
        note = (
            f"median {number(measure['median']['value'])}, quartiles {number(measure['q1'])} to {number(measure['q3'])}"
        )
        if measure["undefined"]:
            note += f"; undefined on {measure['undefined']} of {block['images']}"
        lines.append(_line(TASKS[0], key, name, measure, note))
    return lines


def _detection(metrics: Mapping[str, Any]) -> list[Line]:
    lines = []
    for key, block in metrics["detection"].items():
        overlap = f"IoU of at least {int(key[3:]) / 100:g}"
        if block["lesions"]:
            found = f"{block['found']} of {block['lesions']}"
            lines.append(_line(TASKS[1], key, f"Lesions found, {overlap}", block["sensitivity"], found))
        extra = f"{block['false_positives']} in {metrics['images']} images"
        rate = block["false_positives_per_image"]
        lines.append(_line(TASKS[1], f"{key}_false", f"False marks per image, {overlap}", rate, extra))
    normals = metrics["normals"]
    if normals:
        note = f"{normals['with_false_positive']} of {normals['images']}"
        key = "false_positive_rate"
        lines.append(_line(TASKS[1], key, "Normal images with a lesion marked", normals[key], note))
        key = "false_positive_area"
        lines.append(_line(TASKS[1], key, "Marked share of normal images", normals[key]))
    return lines


def _classification(block: Mapping[str, Any] | None) -> list[Line]:
    if not block:
        return []
    measures = block["measures"]
    shown = [key for key in _CLASSIFICATION if key in measures]
    if len(block["confusion"]) == 2 and "auroc_malignant" in shown:
        shown.remove("auroc_macro")  # with two classes it is the same
    return [_line(TASKS[2], key, _CLASSIFICATION[key], measures[key]) for key in shown]


def _calibration(block: Mapping[str, Any] | None) -> list[Line]:
    if not block:
        return []
    names = {"ece": "Expected calibration error", "brier": "Brier score", "nll": "Negative log-likelihood"}
    lines = [_line(TASKS[3], key, name, block[key]) for key, name in names.items()]
    rule = block.get("referral")
    if rule:
        note = f"{percent(rule['sensitivity'])} of {rule['malignant']} malignant cases found or referred"
        lines.append(_line(TASKS[3], "referral", "Share referred by the rule", {"value": rule["referred"]}, note))
    needed = block.get("referral_needed")
    if needed:
        name = f"Share to refer for {percent(needed['target'])} sensitivity"
        lines.append(_line(TASKS[3], "referral_needed", name, {"value": needed["referred"]}, "read off these images"))
    return lines


def _agreement(block: Mapping[str, Any]) -> list[Line]:
    lines = []
    for key, name in (("before", "before refinement"), ("after", "after refinement")):
        part = block[key]
        if part:
            note = f"{part['contradictions']} of {part['images']}"
            lines.append(_line(TASKS[4], key, f"Mask contradicts class, {name}", {"value": part["rate"]}, note))
    return lines


def percent(share: float | None) -> str:
    """A share in per cent, without needless decimals.

    >>> percent(0.99), percent(0.125), percent(None)
    ('99 %', '12.5 %', '-')
    """
    return "-" if share is None or not np.isfinite(share) else f"{100 * share:.1f}".removesuffix(".0") + " %"
