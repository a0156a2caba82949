"""The per-image table: one row for each image, made from its mask file and its prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT
from busmt.data.catalog import Sample
from busmt.errors import DataError
from busmt.evaluation.detection import IOU_THRESHOLDS, detect
from busmt.evaluation.segmentation import MASK_MEASURES, MASK_MEASURES_MM, score_mask

if TYPE_CHECKING:
    from busmt.prediction import Prediction

PROBABILITIES: list[str] = [f"p_{name}" for name in CLASSES]
RAW_PROBABILITIES: list[str] = [f"raw_p_{name}" for name in CLASSES]
NOT_METADATA: frozenset[str] = frozenset(
    ("image_id", "image", "masks", "label", "group", "cohort", "patient", "fold", "spacing_mm")
)
"""Columns of a catalog that are no metadata."""
LAST_COMPUTED: str = f"false_positives_iou{round(100 * IOU_THRESHOLDS[-1])}"
"""The last column that is computed; the catalog's metadata stand behind it."""


def score_image(sample: Sample, prediction: Prediction, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One row of the per-image table; NaN, and no text, for what a model with one task does not say.

    Args:
        sample: with its mask files.
        prediction: of the same image.
        metadata: further columns; "spacing_mm" (number, millimetres per pixel) gives millimetres.

    Raises:
        DataError: not the same image, or an unreadable mask.
    """
    if sample.image_id != prediction.image_id:
        raise DataError(f"prediction of {prediction.image_id} cannot be scored against {sample.image_id}")
    metadata = dict(metadata or {})
    spacing = _spacing(metadata.pop("spacing_mm", None), sample.image_id)
    truth = sample.read_mask()
    predicted = None if prediction.mask is None else np.asarray(prediction.mask, dtype=bool)
    if predicted is not None and truth.shape != predicted.shape:
        raise DataError(f"{sample.image}: its mask is {truth.shape}, the prediction {predicted.shape} pixels")
    peak = None if prediction.probability_map is None else prediction.probability_map.max()
    return {
        "image_id": sample.image_id,
        "group": sample.group,
        "cohort": metadata.pop("cohort", ""),
        "label": sample.label,
        "predicted": prediction.label or "",
        **_probability_columns(PROBABILITIES, prediction.probabilities),
        **_probability_columns(RAW_PROBABILITIES, prediction.raw_probabilities),
        "mask_peak": _number(peak),
        "raw_mask_peak": _number(prediction.raw_map_peak),
        "height": truth.shape[0],
        "width": truth.shape[1],
        "spacing_mm": _number(spacing),
        "lesion_pixels": int(truth.sum()),
        "predicted_pixels": np.nan if predicted is None else int(predicted.sum()),
        "lesion_share": float(truth.mean()),
        "predicted_share": np.nan if predicted is None else float(predicted.mean()),
        **_segmentation_columns(truth, predicted, spacing),
        **_detection_columns(truth, predicted),
        **metadata,
    }


def tasks_in(table: pd.DataFrame) -> tuple[str, ...]:
    """The tasks that the model of a per-image table has: what it says is either in every row or in none."""
    columns = {MASK_OUTPUT: "predicted_pixels", LABEL_OUTPUT: PROBABILITIES[0]}
    return tuple(task for task, column in columns.items() if table[column].notna().any())


def metadata_by_image(metadata: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    """What the catalog says about each image beyond what is computed; a name that is taken gets "catalog_" in front."""
    if metadata is None:
        return {}
    kept = [name for name in metadata.columns if name not in NOT_METADATA or name in ("cohort", "spacing_mm")]
    computed = {*PROBABILITIES, *RAW_PROBABILITIES, *MASK_MEASURES, *MASK_MEASURES_MM, "predicted", "height", "width"}
    names = {name: f"catalog_{name}" if name in computed else str(name) for name in kept}
    return metadata.set_index("image_id")[kept].rename(columns=names).to_dict("index")


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _probability_columns(names: list[str], values: np.ndarray | None) -> dict[str, float]:
    return dict(zip(names, [np.nan] * len(names) if values is None else map(float, values), strict=True))


def _segmentation_columns(truth: np.ndarray, predicted: np.ndarray | None, spacing: float | None) -> dict[str, float]:
    """Measures of a lesion image; NaN without a lesion, so that no empty mask is ever averaged as a success."""
    if predicted is None or not truth.any():
        return dict.fromkeys((*MASK_MEASURES, *MASK_MEASURES_MM), np.nan)
    return score_mask(truth, predicted, None if spacing is None else (spacing, spacing))


def _detection_columns(truth: np.ndarray, predicted: np.ndarray | None) -> dict[str, float]:
    columns: dict[str, float] = {}
    for threshold, result in detect(truth, np.zeros_like(truth) if predicted is None else predicted).items():
        name = f"iou{round(100 * threshold)}"
        columns |= {"lesions": result.lesions, f"found_{name}": result.found}
        columns[f"false_positives_{name}"] = result.false_positives
        if predicted is None:
            columns |= dict.fromkeys((f"found_{name}", f"false_positives_{name}"), np.nan)
    return columns


def _spacing(value: Any, image_id: str) -> float | None:
    if value is None or pd.isna(value) or value == "":
        return None
    try:
        spacing = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"image {image_id}: spacing_mm must be a number, got {value!r}") from error
    if not (np.isfinite(spacing) and spacing > 0):
        raise DataError(f"image {image_id}: spacing_mm must be positive, got {value!r}")
    return spacing
