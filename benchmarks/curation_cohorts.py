"""Does one cohort show lesions of another? Asked before a network that was trained on one is tested on the other.

    python benchmarks/curation_cohorts.py --busi path/to/Dataset_BUSI_with_GT --bus-bra path/to/BUS-BRA \
        --out benchmarks/results/curation_cohorts.json

Both cohorts are put into one catalog, and the pairs that curation finds in it are counted, within and across cohorts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd

from busmt.config import CurationConfig
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import curate
from busmt.data.curation.cache import Cache
from busmt.data.curation.candidates import find_candidates
from busmt.data.curation.fingerprints import fingerprints

COLUMNS = ["image_id", "image", "masks", "label", "group", "cohort"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busi", required=True, help="BUSI folder")
    parser.add_argument("--bus-bra", required=True, help="BUS-BRA folder")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    options = parser.parse_args()
    parts = [read_cohort(options.busi, "busi").table, read_cohort(options.bus_bra, "bus-bra").table]
    both = Catalog(pd.concat([part[COLUMNS] for part in parts], ignore_index=True))
    cohort = both.table.set_index("image_id")["cohort"]
    with tempfile.TemporaryDirectory() as cache:
        pairs = curate(both, CurationConfig(duplicates="all"), cache_dir=Path(cache)).pairs
        with Cache(cache) as kept:
            candidates = find_candidates(fingerprints(list(both), kept))
    across = cohort[pairs["first"]].to_numpy() != cohort[pairs["second"]].to_numpy()
    names = both.table["cohort"].to_numpy()
    compared = {(min(c.first, c.second), max(c.first, c.second)) for c in candidates}
    figures = {
        "images": both.table["cohort"].value_counts().to_dict(),
        "compared_pairs_across_cohorts": int(sum(names[a] != names[b] for a, b in compared)),
        "joined_pairs_within_a_cohort": int((~across).sum()),
        "joined_pairs_across_cohorts": pairs.loc[across, ["first", "second", "kind", "similarity"]].to_dict("records"),
    }
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
