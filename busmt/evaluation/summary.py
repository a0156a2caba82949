"""Metrics of a per-image table, with their intervals: the content of metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, MASK_THRESHOLD, NORMAL, TASKS
from busmt.evaluation import calibration, classification
from busmt.evaluation.detection import IOU_THRESHOLDS
from busmt.evaluation.intervals import LEVEL, RESAMPLES, bootstrap, weighted_mean, weighted_median
from busmt.evaluation.segmentation import MASK_MEASURES, MASK_MEASURES_MM
from busmt.evaluation.table import LAST_COMPUTED, NOT_METADATA, PROBABILITIES, RAW_PROBABILITIES, tasks_in

SCHEMA: str = "busmt-metrics"
SCHEMA_VERSION: int = 1
"""Raised whenever a key of metrics.json is renamed, removed or changes its meaning; see docs/evaluation.md."""
SIZES: tuple[str, ...] = ("small", "medium", "large")
"""Tertiles of the lesion's share of the image."""

_SUBGROUP_LIMIT = 12  # a metadata column with more values than this is no subgroup


def summarise(
    table: pd.DataFrame, referral_threshold: float | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """All metrics of a per-image table, with intervals; the content of metrics.json without its provenance.

    Of a model with one task, the other task's blocks are empty or None, and "tasks" says so.
    """
    tasks = tasks_in(table)
    classes = tuple(name for name in CLASSES if (table["label"] == name).any())
    draw = {"resamples": resamples, "seed": seed}
    masks, labels = MASK_OUTPUT in tasks, LABEL_OUTPUT in tasks
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "tasks": list(tasks),
        "images": len(table),
        "groups": int(table["group"].nunique()),
        "classes": list(classes),
        "class_counts": {name: int((table["label"] == name).sum()) for name in CLASSES},
        "interval": {"method": "percentile bootstrap", "unit": "group", "level": LEVEL, **draw},
        "segmentation": _segmentation(table, **draw),
        "normals": _normals(table, **draw) if masks else None,
        "for_comparison_only": _dice_average(table, **draw) if masks else {},
        "detection": _detection(table, **draw) if masks else {},
        "classification": _classification(table, classes, **draw) if labels else None,
        "calibration": _calibration(table, classes, referral_threshold, **draw) if labels else None,
        "agreement": _agreement(table) if tasks == TASKS else {"before": None, "after": None},
        "subgroups": _subgroups(table, classes, **draw),
    }


def with_size(table: pd.DataFrame) -> tuple[pd.DataFrame, list[float] | None]:
    """The table with its column lesion_size, and the two limits between the tertiles, as shares of the image."""
    table = table.drop(columns="lesion_size", errors="ignore").copy()
    lesions = table["lesion_pixels"] > 0
    table["lesion_size"] = ""
    if lesions.sum() < len(SIZES):
        return table, None
    limits = table.loc[lesions, "lesion_share"].quantile([1 / 3, 2 / 3]).to_numpy()
    places = np.searchsorted(limits, table["lesion_share"], side="left")
    table.loc[lesions, "lesion_size"] = np.asarray(SIZES)[places][lesions]
    return table, limits.tolist()


def scored_labels(table: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What the classification is scored on.

    Returns:
        labels (N,), int64, indices into `classes`, and probabilities (N, C), float64, renormalised over them.
    """
    labels = table["label"].map(list(classes).index).to_numpy(np.int64)
    return labels, classification.restrict(table[PROBABILITIES].to_numpy(), classes)


def subgroup_columns(table: pd.DataFrame) -> list[str]:
    """Columns whose values are summarised apart: class, lesion size, cohort, and metadata with few values."""
    known = {"label", "lesion_size", "cohort"}
    chosen = [name for name in ("label", "lesion_size", "cohort") if name in table]
    computed = set(table.columns[: list(table.columns).index(LAST_COMPUTED) + 1])
    for name in table.columns:
        if name in known or name in computed or name in NOT_METADATA:
            continue
        if 2 <= table[name].nunique() <= _SUBGROUP_LIMIT:
            chosen.append(name)
    return [name for name in chosen if name != "cohort" or table[name].nunique() > 1]


def _segmentation(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    lesions = table[(table["lesion_pixels"] > 0) & table["predicted_pixels"].notna()]
    measures = [name for name in (*MASK_MEASURES, *MASK_MEASURES_MM) if lesions[name].notna().any()]
    result: dict[str, Any] = {"images": len(lesions), "missed": int((lesions["predicted_pixels"] == 0).sum())}
    if lesions.empty:
        return result | {"measures": {}}
    values = {name: lesions[name].to_numpy(np.float64) for name in measures}
    marked = (lesions["predicted_pixels"] > 0).to_numpy()
    values["dice_if_marked"] = np.where(marked, values["dice"], np.nan)
    if not marked.any():
        del values["dice_if_marked"]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        means = {name: weighted_mean(column, weights) for name, column in values.items()}
        return means | {f"median {name}": weighted_median(column, weights) for name, column in values.items()}

    estimates = bootstrap(statistic, lesions["group"].to_numpy(), resamples, seed)
    result["measures"] = {
        name: {
            **estimates[name].to_dict(),
            "median": estimates[f"median {name}"].to_dict(),
            "q1": float(np.nanquantile(column, 0.25)),
            "q3": float(np.nanquantile(column, 0.75)),
            "images": int(np.isfinite(column).sum()),
            "undefined": int(np.isnan(column).sum()),
        }
        for name, column in values.items()
    }
    return result


def _normals(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any] | None:
    normals = table[table["label"] == CLASSES[NORMAL]]
    if normals.empty:
        return None
    marked = (normals["predicted_pixels"] > 0).to_numpy(np.float64)
    share = normals["predicted_share"].to_numpy(np.float64)
    estimates = bootstrap(
        lambda weights: {
            "false_positive_rate": weighted_mean(marked, weights),
            "false_positive_area": weighted_mean(share, weights),
        },
        normals["group"].to_numpy(),
        resamples,
        seed,
        shares={"false_positive_rate": int(normals["group"].nunique())},
    )
    counts = {"images": len(normals), "with_false_positive": int(marked.sum())}
    return counts | {name: estimate.to_dict() for name, estimate in estimates.items()}


def dice_with_normals(table: pd.DataFrame) -> np.ndarray:
    """Dice of every image of a per-image table, (N,), float64; on a normal an empty mask counts 1 and any other 0.

    Papers publish the average (such as Aumente-Maestro et al., 2025). A model that marks nothing anywhere scores
    the share of normals in it, so it serves comparison with them and nothing else.
    """
    empty = (table["predicted_pixels"] == 0).to_numpy(np.float64)
    return np.where(table["lesion_pixels"] > 0, table["dice"].to_numpy(np.float64), empty)


def _dice_average(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    values = dice_with_normals(table)
    estimates = bootstrap(
        lambda weights: {"dice_average": weighted_mean(values, weights)}, table["group"].to_numpy(), resamples, seed
    )
    return {"dice_average": estimates["dice_average"].to_dict()}


def _detection(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    lesions = table["lesions"].to_numpy(np.float64)
    result = {}
    for threshold in IOU_THRESHOLDS:
        name = f"iou{round(100 * threshold)}"
        found = table[f"found_{name}"].to_numpy(np.float64)
        false = table[f"false_positives_{name}"].to_numpy(np.float64)

        def statistic(
            weights: np.ndarray, found: np.ndarray = found, false: np.ndarray = false
        ) -> dict[str, np.ndarray]:
            with np.errstate(invalid="ignore", divide="ignore"):
                return {
                    "sensitivity": weights @ found / (weights @ lesions),
                    "false_positives_per_image": weighted_mean(false, weights),
                }

        holders = int(table.loc[table["lesions"] > 0, "group"].nunique())
        estimates = bootstrap(statistic, table["group"].to_numpy(), resamples, seed, shares={"sensitivity": holders})
        counts = {"lesions": int(lesions.sum()), "found": int(found.sum()), "false_positives": int(false.sum())}
        result[name] = counts | {key: estimate.to_dict() for key, estimate in estimates.items()}
    return result


def _classification(table: pd.DataFrame, classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any] | None:
    if len(classes) < 2:
        return None
    labels, probabilities = scored_labels(table, classes)
    owners = table.groupby("label")["group"].nunique()
    shares = {f"recall_{name}": int(owners[name]) for name in classes} | {"accuracy": int(table["group"].nunique())}
    shares["specificity_malignant"] = int(table.loc[table["label"] != classification.MALIGNANT, "group"].nunique())
    estimates = bootstrap(
        lambda weights: classification.classification_measures(labels, probabilities, classes, weights),
        table["group"].to_numpy(),
        resamples,
        seed,
        shares=shares,
    )
    counts = classification.confusion(labels, probabilities.argmax(axis=1), len(classes))[0]
    as_said = pd.crosstab(table["label"], table["predicted"]).reindex(index=classes, columns=CLASSES, fill_value=0)
    return {
        "measures": {name: estimate.to_dict() for name, estimate in estimates.items()},
        "confusion": counts.astype(int).tolist(),
        "confusion_as_said": as_said.to_numpy(int).tolist(),
    }


def _calibration(
    table: pd.DataFrame, classes: Sequence[str], referral_threshold: float | None, resamples: int, seed: int
) -> dict[str, Any] | None:
    if len(classes) < 2:
        return None
    labels, probabilities = scored_labels(table, classes)
    estimates = bootstrap(
        lambda weights: calibration.calibration_measures(labels, probabilities, weights),
        table["group"].to_numpy(),
        resamples,
        seed,
    )
    result: dict[str, Any] = {name: estimate.to_dict() for name, estimate in estimates.items()}
    result["aurc"] = calibration.area_under_risk(*calibration.risk_coverage(labels, probabilities))
    full, truth = table[PROBABILITIES].to_numpy(np.float64), table["label"].map(CLASSES.index).to_numpy()
    if referral_threshold is not None:
        result["referral"] = calibration.referral_at(referral_threshold, full, truth).to_dict()
    shares, found = calibration.referral_curve(full, truth)
    if len(shares):
        reached = found >= calibration.REFERRAL_SENSITIVITY - 1e-12
        result["referral_needed"] = {
            "target": calibration.REFERRAL_SENSITIVITY,
            "referred": float(shares[reached][0]),
        }
    return result


def _agreement(table: pd.DataFrame) -> dict[str, Any]:
    """Images on which the two tasks contradict each other: class normal with a mask, or a lesion class without."""
    said_normal = (table["predicted"] == CLASSES[NORMAL]).to_numpy()
    after = said_normal == (table["predicted_pixels"] > 0).to_numpy()
    result: dict[str, Any] = {"after": _share(after), "before": None}
    raw = table[table["raw_mask_peak"].notna() & table[RAW_PROBABILITIES[0]].notna()]
    if len(raw):
        raw_normal = raw[RAW_PROBABILITIES].to_numpy().argmax(axis=1) == NORMAL
        result["before"] = _share(raw_normal == (raw["raw_mask_peak"] > MASK_THRESHOLD).to_numpy())
    return result


def _share(contradictions: np.ndarray) -> dict[str, Any]:
    count = int(contradictions.sum())
    return {"images": len(contradictions), "contradictions": count, "rate": count / len(contradictions)}


def _subgroups(table: pd.DataFrame, classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for column in subgroup_columns(table):
        result[column] = {}
        for value, part in sorted(table.groupby(column, observed=True), key=lambda pair: _place(pair[0])):
            if value != "":
                result[column][str(value)] = _subgroup(part, classes, resamples, seed)
    return result


def _subgroup(part: pd.DataFrame, classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    counts = {"images": len(part), "groups": int(part["group"].nunique())}
    accuracy = _accuracy(part, classes, resamples, seed) if LABEL_OUTPUT in tasks_in(part) else None
    return {**counts, "accuracy": accuracy, "segmentation": _segmentation(part, resamples, seed)}


def _accuracy(part: pd.DataFrame, classes: Sequence[str], resamples: int, seed: int) -> dict[str, float]:
    labels, probabilities = scored_labels(part, classes)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    correct = bootstrap(
        lambda weights: {"accuracy": weighted_mean(right, weights)},
        part["group"].to_numpy(),
        resamples,
        seed,
        shares={"accuracy": int(part["group"].nunique())},
    )
    return correct["accuracy"].to_dict()


def _place(value: Any) -> tuple[int, Any]:
    """Order of subgroups: classes and sizes as they are defined, numbers by size, names by the alphabet."""
    if value in (*CLASSES, *SIZES):
        return 0, (*CLASSES, *SIZES).index(value)
    return (2, value) if isinstance(value, str) else (1, value)
