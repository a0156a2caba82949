"""How much of a naive split's score rests on test images whose copy was trained on.

    busmt curate --data path/to/Dataset_BUSI_with_GT --out curated
    busmt train --data path/to/Dataset_BUSI_with_GT --preset small --name raw --config raw.yaml
    busmt evaluate runs/raw
    python benchmarks/curation_leakage.py --run runs/raw --pairs curated/pairs.csv

with raw.yaml: `curation: {enabled: false}`, so that every image is a group of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from busmt.data.folds import read_folds
from busmt.data.images import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="an evaluated run on the raw cohort")
    parser.add_argument("--pairs", required=True, help="pairs.csv of busmt curate on the same cohort")
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    part = read_folds(options.run / "folds.csv").set_index("image_id")["part"]
    scores = pd.read_csv(options.run / "evaluation" / "per_image.csv", keep_default_na=True)
    leaked = scores["image_id"].isin(leaking(pd.read_csv(options.pairs), part))
    figures = {
        name: {
            "images": len(rows),
            "lesions": int(rows["dice"].notna().sum()),
            "dice": round(float(rows["dice"].mean()), 4),
            "accuracy": round(float((rows["label"] == rows["predicted"]).mean()), 4),
        }
        for name, rows in (("all", scores), ("same lesion trained on", scores[leaked]), ("others", scores[~leaked]))
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        write_atomically(options.out, (text + "\n").encode())


def leaking(pairs: pd.DataFrame, part: pd.Series) -> set[str]:
    """Test images that are paired with an image of the training or validation part."""
    names = set()
    for own, other in (("first", "second"), ("second", "first")):
        known = pairs[pairs[own].isin(part.index) & pairs[other].isin(part.index)]
        crossing = (part.loc[known[own]].to_numpy() == "test") & (part.loc[known[other]].to_numpy() != "test")
        names |= set(known[own][crossing])
    return names


if __name__ == "__main__":
    main()
