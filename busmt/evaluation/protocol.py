"""The evaluation protocol: one table row per image, and metrics that are a function of that table alone.

`score_predictions` turns samples and predictions into a table, one image at a time; `summarise` turns the
table into the metrics with their intervals. Whoever has per_image.csv can therefore repeat every number of
metrics.json, pool folds, or compare systems without the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from busmt.config import CLASSES, MASK_THRESHOLD, NORMAL
from busmt.data.catalog import Sample
from busmt.data.images import write_atomically
from busmt.errors import DataError
from busmt.evaluation import calibration, classification
from busmt.evaluation.detection import IOU_THRESHOLDS, detect
from busmt.evaluation.intervals import LEVEL, RESAMPLES, bootstrap, weighted_mean, weighted_median
from busmt.evaluation.segmentation import MASK_MEASURES, MASK_MEASURES_MM, score_mask

if TYPE_CHECKING:
    from busmt.prediction import Prediction

SCHEMA: str = "busmt-metrics"
SCHEMA_VERSION: int = 1
"""Raised whenever a key of metrics.json is renamed, removed or changes its meaning; see docs/evaluation.md."""
SIZES: tuple[str, ...] = ("small", "medium", "large")
"""Tertiles of the lesion's share of the image."""
METRICS_FILE = "metrics.json"
PER_IMAGE_FILE = "per_image.csv"

PROBABILITIES: list[str] = [f"p_{name}" for name in CLASSES]
RAW_PROBABILITIES: list[str] = [f"raw_p_{name}" for name in CLASSES]
_NOT_METADATA = {"image_id", "image", "masks", "label", "group", "cohort", "patient", "fold", "spacing_mm"}
_SUBGROUP_LIMIT = 12  # a metadata column with more values than this is no subgroup


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        per_image: one row per image; columns in docs/evaluation.md.
        metrics: nested plain dictionaries, as in metrics.json.
    """

    per_image: pd.DataFrame
    metrics: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that were scored."""
        return tuple(self.metrics["classes"])


def score_predictions(
    samples_and_predictions: Iterable[tuple[Sample, Prediction]],
    metadata: pd.DataFrame | None = None,
    *,
    referral_threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Score predictions against the masks and classes of their samples.

    Masks are read, scored on the image's own pixel grid and let go, so that memory does not grow with the
    number of images.

    Args:
        samples_and_predictions: pairs of the same image.
        metadata: a catalog's table, for cohort, spacing_mm and subgroups; joined by image_id.
        referral_threshold: of the rule that was fitted on validation; see `calibration.Referral`.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: a pair does not belong together, a mask is unreadable, or there is no pair at all.
    """
    columns = _metadata_columns(metadata)
    rows = []
    for sample, prediction in samples_and_predictions:
        rows.append(score_image(sample, prediction, columns.get(sample.image_id, {})))
    if not rows:
        raise DataError("nothing to evaluate: there is no image")
    return evaluate_table(pd.DataFrame(rows), referral_threshold, resamples, seed)


def evaluate_table(
    per_image: pd.DataFrame, referral_threshold: float | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """Evaluation of a table made by `score_image`, one fold's or several folds' rows together."""
    table, limits = _with_size(per_image)
    metrics = summarise(table, referral_threshold, resamples, seed)
    metrics["lesion_size_limits"] = limits
    return Evaluation(table, metrics)


def score_image(sample: Sample, prediction: Prediction, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One row of the per-image table.

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
    truth, predicted = sample.read_mask(), np.asarray(prediction.mask, dtype=bool)
    if truth.shape != predicted.shape:
        raise DataError(f"{sample.image}: its mask is {truth.shape}, the prediction {predicted.shape} pixels")
    raw = prediction.raw_probabilities
    return {
        "image_id": sample.image_id,
        "group": sample.group,
        "cohort": metadata.pop("cohort", ""),
        "label": sample.label,
        "predicted": prediction.label,
        **dict(zip(PROBABILITIES, map(float, prediction.probabilities), strict=True)),
        **dict(zip(RAW_PROBABILITIES, map(float, raw) if raw is not None else [np.nan] * len(CLASSES), strict=True)),
        "mask_peak": float(prediction.probability_map.max()),
        "raw_mask_peak": np.nan if prediction.raw_map_peak is None else float(prediction.raw_map_peak),
        "height": truth.shape[0],
        "width": truth.shape[1],
        "spacing_mm": np.nan if spacing is None else spacing,
        "lesion_pixels": int(truth.sum()),
        "predicted_pixels": int(predicted.sum()),
        "lesion_share": float(truth.mean()),
        "predicted_share": float(predicted.mean()),
        **_segmentation_columns(truth, predicted, spacing),
        **_detection_columns(truth, predicted),
        **metadata,
    }


def summarise(
    table: pd.DataFrame, referral_threshold: float | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """All metrics of a per-image table, with intervals; the content of metrics.json without its provenance."""
    classes = tuple(name for name in CLASSES if (table["label"] == name).any())
    draw = {"resamples": resamples, "seed": seed}
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "images": len(table),
        "groups": int(table["group"].nunique()),
        "classes": list(classes),
        "class_counts": {name: int((table["label"] == name).sum()) for name in CLASSES},
        "interval": {"method": "percentile bootstrap", "unit": "group", "level": LEVEL, **draw},
        "segmentation": _segmentation(table, **draw),
        "normals": _normals(table, **draw),
        "detection": _detection(table, **draw),
        "classification": _classification(table, classes, **draw),
        "calibration": _calibration(table, classes, referral_threshold, **draw),
        "agreement": _agreement(table),
        "subgroups": _subgroups(table, classes, **draw),
    }


def write_evaluation(evaluation: Evaluation, folder: str | os.PathLike, figures: bool = True) -> list[Path]:
    """Write metrics.json, per_image.csv and, if wanted, figures (PNG and SVG) into a folder; each file atomically.

    Returns:
        The written files.
    """
    from busmt.evaluation.figures import write_figures

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metrics, table = folder / METRICS_FILE, folder / PER_IMAGE_FILE
    write_metrics(evaluation.metrics, metrics)
    write_atomically(table, evaluation.per_image.to_csv(index=False, float_format="%.9g").encode())
    return [metrics, table, *(write_figures(evaluation, folder / "figures") if figures else [])]


def write_metrics(metrics: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write metrics as JSON, atomically; NaN becomes null."""
    text = json.dumps(plain(metrics), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_evaluation(folder: str | os.PathLike) -> Evaluation:
    """Read back what `write_evaluation` wrote.

    Raises:
        DataError: a file is missing or damaged, or was written by another version of the schema.
    """
    folder = Path(folder)
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / PER_IMAGE_FILE, keep_default_na=False, na_values=[""])
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run `busmt evaluate` first") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{folder}: its {METRICS_FILE} or {PER_IMAGE_FILE} is damaged; run `busmt evaluate`") from error
    found = (metrics.get("schema"), metrics.get("schema_version")) if isinstance(metrics, dict) else (None, None)
    if found != (SCHEMA, SCHEMA_VERSION):
        raise DataError(
            f"{folder / METRICS_FILE}: schema {found[0]} version {found[1]}, this busmt reads "
            f"{SCHEMA} version {SCHEMA_VERSION}; run `busmt evaluate` again"
        )
    for column in ("image_id", "group", "cohort", "label", "predicted"):
        if column not in table:
            raise DataError(f"{folder / PER_IMAGE_FILE}: the column {column} is missing; run `busmt evaluate` again")
        table[column] = table[column].fillna("").astype(str)
    return Evaluation(table, metrics)


def scored_labels(table: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What the classification is scored on.

    Returns:
        labels (N,), int64, indices into `classes`, and probabilities (N, C), float64, renormalised over them.
    """
    labels = table["label"].map(list(classes).index).to_numpy(np.int64)
    return labels, classification.restrict(table[PROBABILITIES].to_numpy(), classes)


def plain(value: Any) -> Any:
    """JSON types: numpy unpacked, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _segmentation_columns(truth: np.ndarray, predicted: np.ndarray, spacing: float | None) -> dict[str, float]:
    """Measures of a lesion image; NaN without a lesion, so that no empty mask is ever averaged as a success."""
    if not truth.any():
        return dict.fromkeys((*MASK_MEASURES, *MASK_MEASURES_MM), np.nan)
    return score_mask(truth, predicted, None if spacing is None else (spacing, spacing))


def _detection_columns(truth: np.ndarray, predicted: np.ndarray) -> dict[str, int]:
    columns: dict[str, int] = {}
    for threshold, result in detect(truth, predicted).items():
        name = f"iou{round(100 * threshold)}"
        columns |= {"lesions": result.lesions, f"found_{name}": result.found}
        columns[f"false_positives_{name}"] = result.false_positives
    return columns


def _segmentation(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    lesions = table[table["lesion_pixels"] > 0]
    measures = [name for name in (*MASK_MEASURES, *MASK_MEASURES_MM) if lesions[name].notna().any()]
    result: dict[str, Any] = {"images": len(lesions), "missed": int((lesions["predicted_pixels"] == 0).sum())}
    if lesions.empty:
        return result | {"measures": {}}
    values = {name: lesions[name].to_numpy(np.float64) for name in measures}

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


def subgroup_columns(table: pd.DataFrame) -> list[str]:
    """Columns whose values are summarised apart: class, lesion size, cohort, and metadata with few values."""
    known = {"label", "lesion_size", "cohort"}
    chosen = [name for name in ("label", "lesion_size", "cohort") if name in table]
    computed = set(table.columns[: _first_metadata(table)])
    for name in table.columns:
        if name in known or name in computed or name in _NOT_METADATA:
            continue
        if 2 <= table[name].nunique() <= _SUBGROUP_LIMIT:
            chosen.append(name)
    return [name for name in chosen if name != "cohort" or table[name].nunique() > 1]


def _place(value: Any) -> tuple[int, Any]:
    """Order of subgroups: classes and sizes as they are defined, numbers by size, names by the alphabet."""
    if value in (*CLASSES, *SIZES):
        return 0, (*CLASSES, *SIZES).index(value)
    return (2, value) if isinstance(value, str) else (1, value)


def _first_metadata(table: pd.DataFrame) -> int:
    """Metadata stands behind the last computed column."""
    last = f"false_positives_iou{round(100 * IOU_THRESHOLDS[-1])}"
    return int(list(table.columns).index(last)) + 1


def _subgroup(part: pd.DataFrame, classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    labels, probabilities = scored_labels(part, classes)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    correct = bootstrap(
        lambda weights: {"accuracy": weighted_mean(right, weights)},
        part["group"].to_numpy(),
        resamples,
        seed,
        shares={"accuracy": int(part["group"].nunique())},
    )
    return {
        "images": len(part),
        "groups": int(part["group"].nunique()),
        "accuracy": correct["accuracy"].to_dict(),
        "segmentation": _segmentation(part, resamples, seed),
    }


def _with_size(table: pd.DataFrame) -> tuple[pd.DataFrame, list[float] | None]:
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


def _metadata_columns(metadata: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    if metadata is None:
        return {}
    kept = [name for name in metadata.columns if name not in _NOT_METADATA or name in ("cohort", "spacing_mm")]
    computed = {*PROBABILITIES, *RAW_PROBABILITIES, *MASK_MEASURES, *MASK_MEASURES_MM, "predicted", "height", "width"}
    names = {name: f"catalog_{name}" if name in computed else str(name) for name in kept}
    return metadata.set_index("image_id")[kept].rename(columns=names).to_dict("index")


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
