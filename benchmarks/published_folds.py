"""BUSI with the folds of Aumente-Maestro et al. (2025): copies and neighbours may lie on both sides, as there.

    python benchmarks/published_folds.py path/to/Dataset_BUSI_with_GT curated_busi_450.csv published_folds.csv
    busmt crossval --data published_folds.csv --config results/narrow-published.yaml --name narrow-published

Writes a catalog with the images of their list and the column `fold`: scikit-learn's StratifiedKFold, four folds,
shuffled, seed 1993, on the list in the order of class and number, as their code draws them. Each image is
a group of its own: use it to repeat their protocol, with `curation: {enabled: false}`, and for nothing else.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from sklearn.model_selection import StratifiedKFold

from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_busi
from busmt.data.curation.names import read_name_list
from busmt.errors import BusmtError

COUNT, SEED = 4, 1993


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busi", type=Path)
    parser.add_argument("list", help="their list: a CSV with the columns class;id")
    parser.add_argument("out", type=Path, help="catalog to write")
    options = parser.parse_args()
    try:
        names, catalog = read_name_list(options.list).ids, read_busi(options.busi)
    except BusmtError as error:
        parser.error(str(error))
    absent = sorted(set(names) - set(catalog.ids))
    if absent:
        parser.error(f"{options.busi}: has no {absent[0]} ({len(absent)} of the {len(names)} images of the list)")
    table = catalog.select(names).table
    number = table["image_id"].map(lambda name: int(re.search(r"\d+", name)[0]))
    table = table.assign(number=number).sort_values(["label", "number"], ignore_index=True)
    splitter = StratifiedKFold(COUNT, shuffle=True, random_state=SEED)
    for fold, (_, test) in enumerate(splitter.split(table, table["label"])):
        table.loc[test, "fold"] = fold
    Catalog(table.drop(columns="number").astype({"fold": int})).to_csv(options.out)
    print(f"{options.out}: {len(table)} images in {COUNT} folds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
