"""What curation finds on BUSI, checked, and compared with the published list.

    python benchmarks/curation_busi.py --data path/to/Dataset_BUSI_with_GT --published curated_busi_450.csv \\
        --out benchmarks/results/curation_busi.json --list busmt/data/lists/busi-curated-v1.csv
"""

from __future__ import annotations

import argparse
import json

import cv2
import numpy as np

from busmt.config import CurationConfig
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import Curation, curate
from busmt.data.curation.compare import compare, summary
from busmt.data.curation.report import count_table

SIDE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="BUSI folder")
    parser.add_argument("--published", help="name list of another curation")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    parser.add_argument("--list", dest="list_file", help="write the curated list (no pixels) to this file")
    options = parser.parse_args()
    cohort = read_cohort(options.data, "busi")
    curation = curate(cohort, CurationConfig())
    figures = measure(cohort, curation)
    if options.published:
        figures["published_list"] = summary(compare(cohort, curation, options.published))
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    if options.list_file:
        listed = curation.decisions.drop(columns="boxes")
        images.write_atomically(options.list_file, listed.to_csv(index=False).encode())
    print(json.dumps(figures, indent=2))


def measure(cohort: Catalog, curation: Curation) -> dict:
    pairs = curation.pairs
    crossed = pairs[pairs["first_label"] != pairs["second_label"]]
    copies = pairs[pairs["kind"] != "frame"]
    return {
        "classes": count_table(curation.decisions),
        "pairs": pairs["kind"].value_counts().to_dict(),
        "images_in_copies": len(set(copies["first"]) | set(copies["second"])),
        "images_in_groups": len(set(pairs["first"]) | set(pairs["second"])),
        "cross_class_pairs": [f"{a} / {b}" for a, b in zip(crossed["first"], crossed["second"], strict=True)],
        "copies_whose_masks_disagree": int((copies["mask_iou"] < 0.7).sum()),
        "groups_kept": int(curation.catalog.table["group"].nunique()),
        "rules": curation.decisions["rule"].str.split("; ").explode().value_counts().drop("").to_dict(),
        "largest_correlation_between_groups": largest_correlation(curation.catalog),
        "share_with_marks": round(float((curation.decisions["boxes"] != "").mean()), 3),
    }


def largest_correlation(catalog: Catalog) -> dict:
    """The most alike images, by normalised correlation at 64 x 64, that are in two groups of the curated catalog."""
    shrunk = [
        cv2.resize(images.read_grey(sample.image), (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(float).ravel()
        for sample in catalog
    ]
    values = np.stack(shrunk)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    correlation = values @ values.T
    groups = catalog.table["group"].to_numpy()
    correlation[groups[:, None] == groups[None, :]] = -1
    first, second = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
    return {"value": round(float(correlation[first, second]), 4), "pair": [catalog.ids[first], catalog.ids[second]]}


if __name__ == "__main__":
    main()
