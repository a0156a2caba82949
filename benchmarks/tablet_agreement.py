"""Does the tablet app say what Python says? The same .tflite file on the same images, in Chromium and in Python.

    busmt export runs/busi --to tablet/ --format tablet
    python benchmarks/tablet_agreement.py tablet/ --data path/to/Dataset_BUSI_with_GT --out agreement.json

Needs Chromium. Python reads the file with `busmt.prediction.Predictor` (decoding, letterbox and masks of the package;
ai-edge-litert); the app reads the same bytes with its own JavaScript and LiteRT.js. Ends with 1 where a label differs
or the Dice of two masks is below 0.99.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "deployment")]

from chromium import Page, analyse, find_chromium, opened  # noqa: E402

from busmt.config import CLASSES  # noqa: E402
from busmt.data.cohorts import read_cohort  # noqa: E402
from busmt.prediction import Predictor  # noqa: E402

MIN_DICE = 0.99


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of an exported tablet app")
    parser.add_argument("--data", type=Path, required=True, help="BUSI or another cohort")
    parser.add_argument("--images", type=int, default=50, help="evenly spread over the cohort, default 50")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="compare on the images saved again as JPEG")
    options = parser.parse_args()
    if find_chromium() is None:
        parser.error("Chromium was not found")
    table = read_cohort(options.data).table
    chosen = np.unique(np.linspace(0, len(table) - 1, min(options.images, len(table))).round().astype(int))
    paths = [Path(table["image"].iloc[int(position)]) for position in chosen]
    predictor = Predictor.load(options.site / "model.tflite")
    with opened(options.site) as (page, _), tempfile.TemporaryDirectory() as folder:
        rows = []
        for path in paths:
            rows.append(compare(page, predictor, save_jpeg(path, Path(folder), options.jpeg) if options.jpeg else path))
    result = summarise(rows, json.loads((options.site / "model.json").read_text()))
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result | {"per_image": rows}, indent=2) + "\n")
    return 0 if result["same_label"] == len(rows) and result["min_mask_dice"] >= MIN_DICE else 1


def save_jpeg(path: Path, folder: Path, quality: int) -> Path:
    copy = folder / f"{path.stem}.jpg"
    with Image.open(path) as image:
        image.convert("RGB" if image.mode == "RGB" else "L").save(copy, quality=quality)
    return copy


def compare(page: Page, predictor: Predictor, path: Path) -> dict[str, Any]:
    """One image on both sides."""
    own = predictor.predict_file(path)
    start = time.perf_counter()
    other = analyse(page, path.name, path.read_bytes())
    both = int(own.mask.sum() + other["mask"].sum())
    return {
        "image": path.name,
        "label": own.label,
        "same_label": other["label"] == own.label,
        "same_referral": other["refer"] == own.refer,
        "mask_dice": 2 * int((own.mask & other["mask"]).sum()) / both if both else 1.0,
        "label_difference": float(np.abs(own.probabilities - np.array(other["probabilities"])).max()),
        "seconds": time.perf_counter() - start,
    }


def summarise(rows: list[dict[str, Any]], card: dict[str, Any]) -> dict[str, Any]:
    lesions = [row for row in rows if row["label"] != CLASSES[0]]
    return {
        "model": card["name"],
        "variant": card["variant"],
        "images": len(rows),
        "images_with_a_mask": len(lesions),
        "same_label": sum(row["same_label"] for row in rows),
        "same_referral": sum(row["same_referral"] for row in rows),
        "min_mask_dice": min(row["mask_dice"] for row in rows),
        "mean_mask_dice": statistics.fmean(row["mask_dice"] for row in rows),
        "max_label_difference": max(row["label_difference"] for row in rows),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
    }


if __name__ == "__main__":
    sys.exit(main())
