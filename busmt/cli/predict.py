"""busmt predict"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from busmt.cli.common import json_option, one_line, print_json, progress, quiet_start, say
from busmt.errors import BusmtError, DataError

LINK = "a link that leaves the folder; give the file itself if it is meant"
_MASK_NAME = re.compile(r"_(mask(_\d+)?|overlay)$")


@click.command(
    epilog="""\b
Examples:
  busmt predict image.png
  busmt predict image.png --model runs/busi
  busmt predict scans/ more/*.png --model exports/model-int8.tflite --out results/ --json
  busmt predict curated/catalog.csv --model runs/busi
\b
Writes NAME_mask.png and NAME_overlay.png for each image, and predictions.json and predictions.csv.
A .tflite model needs no TensorFlow (pip install "busmt[lite]").
Exit code 1: some images could not be read; they are named, the others are done.
"""
)
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|CATALOG...")
@click.option(
    "--model",
    envvar="BUSMT_MODEL",
    metavar="PATH",
    help="Run folder, .keras, SavedModel or .tflite; also by the variable BUSMT_MODEL. Default: the released model.",
)
@click.option("--out", default="predictions", show_default=True, metavar="DIR", help="Where the results go.")
@json_option
def predict(inputs: tuple[str, ...], model: str | None, out: str, as_json: bool) -> int:
    """Segment and classify images; masks have the size of their image."""
    if model is None:
        from busmt.released import released_model

        model = str(released_model())
        say(f"model: {model}")
    if Path(model).suffix != ".tflite":  # which needs no TensorFlow
        quiet_start()
    from busmt.config import CLASSES
    from busmt.prediction import Predictor

    items = list(collect_inputs(inputs))
    folder = Path(out)
    refuse_overwriting(folder, items)
    predictor = Predictor.load(model)
    if not predictor.checked:
        say(f"warning: {model}: without its model.json, nothing tells whether it is whole")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})") from error
    rows: list[dict[str, Any]] = [{"image": str(path), "error": f"{path}: {LINK}"} for path in outside_links(inputs)]
    with progress("Predicting") as advance:
        for done, (path, name) in enumerate(items, start=1):
            row: dict[str, Any] = {"image": str(path)}
            try:
                row |= _predict_one(predictor, path, folder / name)
            except BusmtError as error:
                row["error"] = str(error)
            rows.append(row)
            advance(done, len(items))
    result = {"model": model, "classes": list(CLASSES), "predictions": rows}
    _write_tables(folder, result)
    failed = [row for row in rows if "error" in row]
    for row in failed:
        say(f"busmt: error: {row['error']}")
    if as_json:
        print_json(result)
    else:
        _print_rows(rows)
        say(f"{len(rows) - len(failed)} of {len(rows)} images done; pictures, predictions.json and .csv: {folder}")
    return 1 if failed else 0


def collect_inputs(inputs: tuple[str, ...]) -> list[tuple[Path, str]]:
    """Image files and the unique name, relative to the output folder, that each one's results get."""
    from busmt.data.images import IMAGE_SUFFIXES

    found: list[tuple[Path, Path]] = []
    for text in inputs:
        given = Path(text)
        if given.suffix.lower() == ".csv":
            from busmt.data.cohorts import read_cohort

            table = read_cohort(given, strict=False).table
            found += [
                (Path(image), Path(Path(name).name))
                for image, name in zip(table["image"], table["image_id"], strict=True)
            ]
            continue
        if not given.is_dir():
            found.append((given, Path(given.stem)))
            continue
        inside = [
            entry
            for entry in sorted(given.rglob("*"))
            if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file() and not _MASK_NAME.search(entry.stem)
        ]
        inside = [entry for entry in inside if not _leaves(entry, given)]
        if not inside:
            raise DataError(f"{given}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
        found += [(entry, entry.relative_to(given).with_suffix("")) for entry in inside]
    taken: dict[str, int] = {}
    items = []
    for path, name in found:
        key = name.as_posix()
        taken[key] = taken.get(key, 0) + 1
        items.append((path, key if taken[key] == 1 else f"{key}-{taken[key]}"))
    return items


def outside_links(inputs: tuple[str, ...]) -> list[Path]:
    """Images of the given folders that are links to files elsewhere: what a folder from somebody else points to
    must not end up among its results."""
    from busmt.data.images import IMAGE_SUFFIXES

    folders = [Path(text) for text in inputs if Path(text).is_dir()]
    found = (entry for folder in folders for entry in sorted(folder.rglob("*")) if _leaves(entry, folder))
    return [entry for entry in found if entry.suffix.lower() in IMAGE_SUFFIXES]


def _leaves(entry: Path, folder: Path) -> bool:
    return not Path(os.path.realpath(entry)).is_relative_to(os.path.realpath(folder))


def refuse_overwriting(out: Path, items: list[tuple[Path, str]]) -> None:
    """Raise DataError where results would be written among the images, and over masks that lie there."""
    sources = {os.path.realpath(path.parent) for path, _ in items}
    for _, name in items:
        if os.path.realpath((out / name).parent) in sources:
            raise DataError(f"--out {out}: holds the images themselves; name another folder")


def _predict_one(predictor: Any, path: Path, target: Path) -> dict[str, Any]:
    import numpy as np

    from busmt.config import CLASSES, MASK_THRESHOLD
    from busmt.data.images import read_colour, write_png
    from busmt.overlay import PREDICTION_COLOUR, draw_outlines, write_caption

    prediction = predictor.predict_file(path)
    mask_path, overlay_path = (target.with_name(f"{target.name}_{kind}.png") for kind in ("mask", "overlay"))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture, row = read_colour(path), dict[str, Any]()  # a model with one task fills its part of the row alone
    if prediction.probabilities is not None:
        values = zip(CLASSES, prediction.probabilities, strict=True)
        row |= {"label": prediction.label, "probabilities": {name: round(float(p), 6) for name, p in values}}
        row["refer"] = prediction.refer
    if prediction.mask is not None:
        write_png(mask_path, prediction.mask)
        picture = draw_outlines(picture, [(prediction.mask, PREDICTION_COLOUR)])
        row |= {"lesion_pixels": int(np.count_nonzero(prediction.mask))}
    row |= {"height": prediction.letterbox.height, "width": prediction.letterbox.width}
    if prediction.mask is not None:
        row |= {"mask_threshold": MASK_THRESHOLD, "mask": str(mask_path)}
    if prediction.probabilities is not None:
        caption = f"{prediction.label} {float(prediction.probabilities.max()):.2f}"
        picture = write_caption(picture, caption + (" - refer" if prediction.refer else ""))
    write_png(overlay_path, picture)
    return {**row, "overlay": str(overlay_path)}


def _write_tables(folder: Path, result: dict[str, Any]) -> None:
    import pandas as pd

    from busmt.data.images import write_json
    from busmt.data.tables import write_table

    write_json(folder / "predictions.json", result)
    flat = [
        {key: value for key, value in row.items() if key != "probabilities"}
        | {f"probability_{name}": value for name, value in row.get("probabilities", {}).items()}
        for row in result["predictions"]
    ]
    write_table(folder / "predictions.csv", pd.DataFrame(flat))


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if "error" not in row:
            parts = []
            if "label" in row:
                parts.append(f"{row['label']:<10} {max(row['probabilities'].values()):.3f}")
            if "lesion_pixels" in row:
                parts.append(f"{row['lesion_pixels']:>8} px")
            refer = "  refer" if row.get("refer") else ""
            click.echo("  ".join([*parts, one_line(row["image"])]) + refer)
