"""Burnt-in marks, the word "axilla", and photographs: what is told, on real images.

    python benchmarks/curation_marks.py --busi path/to/Dataset_BUSI_with_GT --bus-bra path/to/BUS-BRA \\
        --out benchmarks/results/curation_marks.json

Marks: 120 BUSI images drawn at random (`random.Random(2024).shuffle` of all image_ids) were looked at without the
detector; curation_marks_seen.csv says which kinds of marks each bears (`logo`: the maker's name or part of it in a
corner, counted apart). Photographs: those that come with scikit-image and scikit-learn, as grey and as colour.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import skimage.data
import sklearn.datasets

from busmt.data import images
from busmt.data.cohorts import read_cohort
from busmt.data.curation.fingerprints import Fingerprint, fingerprint
from busmt.data.curation.marks import AXILLA, KINDS, colour_difference
from busmt.data.curation.rules import axilla_list
from busmt.data.curation.scan import PHOTOGRAPH, scan_score

SEEN = Path(__file__).with_name("curation_marks_seen.csv")
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cat", "cell", "clock", "coffee", "coins", "grass", "gravel",
    "immunohistochemistry", "moon", "retina", "rocket",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busi", required=True, help="BUSI folder")
    parser.add_argument("--bus-bra", required=True, help="BUS-BRA folder")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    options = parser.parse_args()
    busi, bus_bra = (_prints(folder) for folder in (options.busi, options.bus_bra))
    figures = {
        "busi": _counts(busi) | {"axilla": _axilla(busi)},
        "bus_bra": _counts(bus_bra) | {"axilla_read": [name for name in bus_bra if _reads(bus_bra[name])]},
        "seen": against_seen(busi),
        "photographs": photographs(),
        "scans_taken_for_photographs": sum(
            item.scan_score < PHOTOGRAPH for item in (*busi.values(), *bus_bra.values())
        ),
        "lowest_scan_scores": sorted(round(item.scan_score, 2) for item in (*busi.values(), *bus_bra.values()))[:5],
    }
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    print(json.dumps(figures, indent=2))


def against_seen(prints: dict[str, Fingerprint]) -> dict:
    """Per kind: images that bear it, of these those in which it is told, and images in which it is told wrongly."""
    seen = pd.read_csv(SEEN).set_index("image_id").fillna("")
    kinds = {name: set(seen.loc[name, "kinds"].split()) for name in seen.index}
    told = {name: {mark.kind for mark in prints[name].marks} - {AXILLA} for name in seen.index}
    table = {}
    for kind in KINDS:
        borne = {name for name in kinds if kind in kinds[name]}
        logo = {name for name in kinds if "logo" in kinds[name]}
        found = {name for name in told if kind in told[name]}
        wrong = found - borne - (logo if kind in ("text", "overlay") else set())
        table[kind] = {
            "images": len(borne),
            "told": len(borne & found),
            "wrong": sorted(wrong),
            "missed": sorted(borne - found),
        }
    marked = {name for name in kinds if kinds[name] - {"logo"}}
    plain = {name for name in kinds if not kinds[name]}
    return {
        "images": len(seen),
        "with_marks_beside_logos": len(marked),
        "of_these_flagged": sum(bool(told[name]) for name in marked),
        "without_any": len(plain),
        "of_these_flagged_wrongly": sorted(name for name in plain if told[name]),
        "kinds": table,
    }


def photographs() -> dict:
    """Which photographs are told, as grey images by their score, and as colour images by score or colour."""
    pictures = {name: np.asarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS}
    pictures |= {
        Path(name).stem: picture
        for name, picture in zip(
            sklearn.datasets.load_sample_images().filenames, sklearn.datasets.load_sample_images().images, strict=True
        )
    }
    scores, told = {}, {}
    for name, picture in pictures.items():
        coloured = picture.ndim == 3
        grey = cv2.cvtColor(picture[..., :3], cv2.COLOR_RGB2GRAY) if coloured else picture.astype(np.uint8)
        scores[name] = round(scan_score(grey), 2)
        share = float((colour_difference(picture[..., :3]) > 40).mean()) if coloured else 0.0
        told[name] = scores[name] < PHOTOGRAPH or share > 0.10
    return {
        "images": len(pictures),
        "told_as_grey": sum(score < PHOTOGRAPH for score in scores.values()),
        "told_as_they_are": sum(told.values()),
        "scores": scores,
        "missed_as_they_are": sorted(name for name in told if not told[name]),
    }


def _prints(folder: str) -> dict[str, Fingerprint]:
    samples = list(read_cohort(folder))
    with ThreadPoolExecutor() as pool:
        return dict(zip([sample.image_id for sample in samples], pool.map(fingerprint, samples), strict=True))


def _counts(prints: dict[str, Fingerprint]) -> dict:
    return {
        "images": len(prints),
        "with_marks": sum(bool(item.marks) for item in prints.values()),
        "marks": dict(Counter(mark.kind for item in prints.values() for mark in item.marks)),
    }


def _reads(item: Fingerprint) -> bool:
    return any(mark.kind == AXILLA for mark in item.marks)


def _axilla(prints: dict[str, Fingerprint]) -> dict:
    read = {name for name, item in prints.items() if _reads(item)}
    listed = axilla_list()
    return {
        "listed": len(listed), "read": len(read & listed), "not_read": sorted(listed - read),
        "read_in_others": sorted(read - listed),
    }  # fmt: skip


if __name__ == "__main__":
    main()
