"""The evaluation protocol: predictions in, table and metrics out, and both on disk.

The metrics are a function of the per-image table alone. Whoever has per_image.csv can repeat every number of
metrics.json, pool folds, or compare systems, without the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from busmt.data import tables
from busmt.data.catalog import Sample
from busmt.data.images import write_json
from busmt.errors import DataError
from busmt.evaluation.intervals import RESAMPLES
from busmt.evaluation.summary import SCHEMA, SCHEMA_VERSION, summarise, with_size
from busmt.evaluation.table import metadata_by_image, score_image

if TYPE_CHECKING:
    from busmt.prediction import Prediction

METRICS_FILE = "metrics.json"
PER_IMAGE_FILE = "per_image.csv"
_TEXTS = ("image_id", "group", "cohort", "label", "predicted")


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
    columns = metadata_by_image(metadata)
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
    table, limits = with_size(per_image)
    metrics = summarise(table, referral_threshold, resamples, seed)
    metrics["lesion_size_limits"] = limits
    return Evaluation(table, metrics)


def write_evaluation(evaluation: Evaluation, folder: str | os.PathLike[str], figures: bool = True) -> list[Path]:
    """Write metrics.json, per_image.csv and, if wanted, figures (PNG and SVG) into a folder; each file atomically.

    Returns:
        The written files.
    """
    from busmt.evaluation.figures import write_figures

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metrics, table = folder / METRICS_FILE, folder / PER_IMAGE_FILE
    write_metrics(evaluation.metrics, metrics)
    write_table(evaluation.per_image, table)
    return [metrics, table, *(write_figures(evaluation, folder / "figures") if figures else [])]


def write_metrics(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write metrics as JSON, atomically; NaN becomes null."""
    write_json(path, metrics)


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a per-image table as CSV, atomically."""
    tables.write_table(path, table, float_format="%.9g")


def read_evaluation(folder: str | os.PathLike[str]) -> Evaluation:
    """Read back what `write_evaluation` wrote.

    Raises:
        DataError: a file is missing or damaged, or was written by another version of the schema.
    """
    folder = Path(folder)
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        table = tables.read_table(folder / PER_IMAGE_FILE, keep_default_na=False, na_values=[""])
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
    absent = [column for column in _TEXTS if column not in table]
    if absent:
        raise DataError(f"{folder / PER_IMAGE_FILE}: the column {absent[0]} is missing; run `busmt evaluate` again")
    return Evaluation(with_texts(table), metrics)


def with_texts(table: pd.DataFrame) -> pd.DataFrame:
    """A per-image table that was read from text, with names as text even where they look like numbers or are empty."""
    return table.assign(**{column: table[column].astype(object).fillna("").astype(str) for column in _TEXTS})
