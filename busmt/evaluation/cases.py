"""Pictures of single images: which to show, and the tissue with outlines of truth and prediction."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, NORMAL
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.errors import DataError
from busmt.evaluation.classification import MALIGNANT
from busmt.evaluation.figures import save_figure
from busmt.evaluation.table import PROBABILITIES, tasks_in
from busmt.overlay import PREDICTION_COLOUR, TRUTH_COLOUR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from busmt.prediction import Prediction

CASE_KINDS: dict[str, str] = {
    "best": "Best segmentation",
    "median": "Median segmentation",
    "worst": "Worst segmentation",
    "missed_cancers": "Malignant lesions not called malignant",
    "false_alarms": "Normal images with a lesion marked",
    "confident_errors": "Wrong class with the highest confidence",
}
"""Kind of case to its heading, in the order in which they are shown."""
_SHOWN_SIDE = 720  # longer side of a case picture, pixels
_SAFE = " ()+,=@"
_INDEX = "index.json"


@dataclass(frozen=True)
class Case:
    """One image worth looking at.

    Attributes:
        kind: key of `CASE_KINDS`.
        image_id: of the image.
        caption: what the measures say about it.
        picture: file with the outlines, once written.
    """

    kind: str
    image_id: str
    caption: str
    picture: Path | None = None


def choose_cases(table: pd.DataFrame, each: int = 4, among: Iterable[str] | None = None) -> list[Case]:
    """The images to show, by rules that leave no choice to the author; an image is shown once.

    Best and worst are ranked by Dice (missed lesions are the worst), median by distance from the median
    Dice; missed cancers by the probability of malignancy, lowest first; false alarms by marked area;
    confident errors by confidence.

    Args:
        table: per-image table of an evaluation.
        each: images per kind at most.
        among: choose among these image_ids only (those that have a picture); the median stays that of all.
    """
    middle = table.loc[table["lesion_pixels"] > 0, "dice"].median()
    if among is not None:
        table = table[table["image_id"].isin(set(among))]
    lesions = table[table["lesion_pixels"] > 0].sort_values(["dice", "image_id"], ascending=[False, True])
    missed = table[(table["label"] == MALIGNANT) & (table["predicted"] != MALIGNANT)]
    alarms = table[(table["label"] == CLASSES[NORMAL]) & (table["predicted_pixels"] > 0)]
    wrong = table[table["label"] != table["predicted"]]
    if LABEL_OUTPUT not in tasks_in(table):
        missed, wrong = missed.head(0), wrong.head(0)
    if MASK_OUTPUT not in tasks_in(table):
        lesions, alarms = lesions.head(0), alarms.head(0)
    confidence = wrong[PROBABILITIES].max(axis=1)
    ranked = {
        "worst": lesions[::-1],
        "missed_cancers": missed.sort_values([f"p_{MALIGNANT}", "image_id"]),
        "false_alarms": alarms.sort_values(["predicted_share", "image_id"], ascending=[False, True]),
        "confident_errors": wrong.loc[confidence.sort_values(ascending=False, kind="stable").index],
        "best": lesions[lesions["dice"] > 0],
        "median": lesions.loc[(lesions["dice"] - middle).abs().sort_values(kind="stable").index],
    }
    taken: set[str] = set()
    chosen: dict[str, list[Case]] = {}
    for kind, rows in ranked.items():
        rows = rows[~rows["image_id"].isin(taken)].head(each)
        taken |= set(rows["image_id"])
        chosen[kind] = [Case(kind, row["image_id"], _caption(row)) for _, row in rows.iterrows()]
    return [case for kind in CASE_KINDS for case in chosen[kind]]


def write_cases(
    cases: list[Case],
    catalog: Catalog,
    predict: Callable[[Catalog], Iterable[Prediction]],
    folder: str | os.PathLike[str],
    stamp: str = "",
) -> list[Case]:
    """Predict the chosen images again and write a picture of each; masks of the rest were never kept.

    Pictures of an earlier evaluation in the folder are removed, so that none can be taken for these.

    Args:
        cases: from `choose_cases`.
        catalog: that holds the images.
        predict: catalog to predictions in its order.
        folder: for the pictures, made if missing.
        stamp: of the evaluation that they belong to; see `read_pictures`.

    Returns:
        The cases with their pictures, in the order given.

    Raises:
        DataError: an image cannot be read.
    """
    folder = Path(folder)
    _remove_pictures(folder)
    if not cases:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    chosen = catalog.select(case.image_id for case in cases)
    pictures = {}
    for sample, prediction in zip(chosen, predict(chosen), strict=True):
        target = picture_path(folder, sample.image_id)
        picture = outlined(images.read_colour(sample.image), sample.read_mask(), prediction.mask)
        images.write_png(target, picture)
        pictures[sample.image_id] = target
    index = {"stamp": stamp, "pictures": {image_id: target.name for image_id, target in pictures.items()}}
    images.write_json(folder / _INDEX, index)
    return [Case(case.kind, case.image_id, case.caption, pictures[case.image_id]) for case in cases]


def read_pictures(folder: str | os.PathLike[str], stamp: str) -> dict[str, Path]:
    """Pictures by image_id that `write_cases` wrote for the evaluation with this stamp; none for another one."""
    index = _read_index(Path(folder))
    if index.get("stamp") != stamp:
        return {}
    return {image_id: Path(folder) / name for image_id, name in index["pictures"].items()}


def picture_path(folder: str | os.PathLike[str], image_id: str) -> Path:
    """Where the picture of a case lies: another file for every image_id, with a name that any system accepts."""
    return Path(folder) / f"{quote(image_id, safe=_SAFE)}.png"


def outlined(image: np.ndarray, truth: np.ndarray | None, predicted: np.ndarray | None) -> np.ndarray:
    """The image with outlines only, so that the tissue stays visible.

    Args:
        image: (H, W, 3), uint8, RGB.
        truth, predicted: masks (H, W), bool, or None; truth blue and solid, prediction orange and dashed.

    Returns:
        (h, w, 3), uint8, RGB; enlarged or reduced so that its longer side is 720 pixels.
    """
    import cv2

    height, width = image.shape[:2]
    scale = _SHOWN_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for mask, colour, dashed in ((truth, TRUTH_COLOUR, False), (predicted, PREDICTION_COLOUR, True)):
        if mask is not None and mask.any():
            for contour in _contours(mask, size):
                _draw(shown, contour, colour, dashed)
    return shown


def draw_sheet(cases: list[Case]) -> Figure:
    """Best, median and worst cases side by side, one kind per row."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in CASE_KINDS if any(case.kind == kind for case in cases)]
    columns = max((sum(case.kind == kind for case in cases) for kind in kinds), default=1)
    figure = Figure(figsize=(3.1 * columns, 2.9 * max(1, len(kinds)) + 0.4), layout="constrained")
    figure.suptitle("truth: blue, solid     prediction: orange, dashed", fontsize=9)
    for row, kind in enumerate(kinds):
        for column, case in enumerate(case for case in cases if case.kind == kind):
            axes = figure.add_subplot(len(kinds), columns, row * columns + column + 1)
            if case.picture is not None:
                axes.imshow(images.read_colour(case.picture)[::2, ::2])
            axes.set_axis_off()
            axes.set_anchor("N")
            heading = f"{CASE_KINDS[kind]}\n" if column == 0 else "\n"
            axes.set_title(heading + _wrapped(case), fontsize=7, loc="left")
    return figure


def write_sheet(cases: list[Case], path: Path) -> list[Path]:
    """Write the sheet of cases as PNG and SVG."""
    return save_figure(draw_sheet(cases), path)


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{folder / _INDEX}: damaged; remove the folder and run `busmt evaluate` again") from error


def _remove_pictures(folder: Path) -> None:
    """Remove what an earlier evaluation wrote, and nothing else."""
    for name in _read_index(folder).get("pictures", {}).values():
        (folder / Path(name).name).unlink(missing_ok=True)
    (folder / _INDEX).unlink(missing_ok=True)


def _wrapped(case: Case) -> str:
    return f"{case.image_id}: {case.caption}".replace("; ", "\n", 1)


def _caption(row: pd.Series) -> str:
    parts = []
    if row["lesion_pixels"] > 0 and row["predicted_pixels"] >= 0:
        parts.append(f"Dice {row['dice']:.2f}" if row["predicted_pixels"] else "lesion missed")
    elif row["predicted_pixels"] > 0:
        parts.append(f"{100 * row['predicted_share']:.1f}\N{NO-BREAK SPACE}% marked")
    if row["predicted"]:
        confidence = row[f"p_{row['predicted']}"]
        parts.append(f"{row['label']}, called {row['predicted']} ({100 * confidence:.0f}\N{NO-BREAK SPACE}%)")
    else:
        parts.append(row["label"])
    return "; ".join(parts)


def _contours(mask: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Outlines of the mask on the shown grid, each (n, 2), int32, (x, y)."""
    import cv2

    smooth = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    binary = (smooth > 0.5).astype(np.uint8)
    if not binary.any():  # a lesion of a few pixels that vanishes in a smaller picture still gets its mark
        binary = (smooth >= smooth.max()).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [contour[:, 0] for contour in contours]


def _draw(image: np.ndarray, contour: np.ndarray, colour: tuple[int, int, int], dashed: bool) -> None:
    import cv2

    dash, gap = (9, 6) if dashed else (len(contour), 0)
    for start in range(0, len(contour), dash + gap):
        piece = contour[start : start + dash]
        cv2.polylines(image, [piece.reshape(-1, 1, 2)], not dashed, colour, thickness=2, lineType=cv2.LINE_AA)
