"""How much of a result rests on images whose copies and neighbours are in the same cohort.

    python benchmarks/kept_together.py aumente-unetpp-450
    python benchmarks/kept_together.py aumente-unetpp-450 narrow-base narrow-published --common

Splits the images of experiments in results/ by the groups of the first one: images that share their group with others,
and images that stand alone. For each experiment and each part: images, accuracy and average Dice, in which an empty
mask on a normal counts 1 and any other 0. Images that an experiment has not tested are left out of its rows, and with
`--common` out of all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from busmt.evaluation.summary import dice_with_normals
from busmt.training.crossval import fold_tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--common", action="store_true", help="only the images that all have tested")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results", help="their folder")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    tables = {name: scores(options.results / name) for name in options.experiments}
    for name, table in tables.items():
        if table.empty:
            parser.error(f"{options.results / name}: no fold files")
    groups = tables[options.experiments[0]]["group"]
    shared = groups.index[groups.map(groups.value_counts()) > 1]
    result: dict[str, Any] = {"groups": int(groups[shared].nunique())}
    if options.common:
        common = set.intersection(*(set(table.index) for table in tables.values()))
        tables = {name: table[table.index.isin(common)] for name, table in tables.items()}
    for name, table in tables.items():
        inside = table.index.isin(shared)
        result[name] = {"in groups": means(table[inside]), "alone": means(table[~inside]), "all": means(table)}
    text = json.dumps(result, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def scores(folder: Path) -> pd.DataFrame:
    """By image_id: group, whether the class is right, and Dice as in "average Dice"."""
    tables = fold_tables(folder)
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables).set_index("image_id")
    right = table["label"] == table["predicted"]
    return pd.DataFrame({"group": table["group"], "right": right, "dice": dice_with_normals(table)})


def means(table: pd.DataFrame) -> dict[str, Any]:
    """None for the means of no image."""
    values = {"accuracy": table["right"].mean(), "dice_average": table["dice"].mean()}
    return {"images": len(table)} | {key: None if pd.isna(value) else round(value, 4) for key, value in values.items()}


if __name__ == "__main__":
    sys.exit(main())
