"""Precision by patient: which of BUS-BRA's images does curation join when it is not told the patients?

python benchmarks/curation_bus_bra.py --data path/to/BUS-BRA --out benchmarks/results/curation_bus_bra.json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="BUS-BRA folder")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    options = parser.parse_args()
    cohort = read_cohort(options.data, "bus-bra")
    patient = cohort.table.set_index("image_id")["patient"]
    blind = Catalog(cohort.table.assign(group=cohort.table["image_id"]))
    with tempfile.TemporaryDirectory() as cache:
        curation = curate(blind, CurationConfig(duplicates="all"), cache_dir=Path(cache))
        told = curate(cohort, CurationConfig(), cache_dir=Path(cache))
    pairs = curation.pairs
    same = patient[pairs["first"]].to_numpy() == patient[pairs["second"]].to_numpy()
    figures = {
        "images": len(cohort),
        "patients": int(patient.nunique()),
        "joined_pairs": len(pairs),
        "of_one_patient": int(same.sum()),
        "of_two_case_numbers": pairs.loc[~same, ["first", "second", "kind", "similarity", "agreement"]].to_dict(
            "records"
        ),
        "kinds": pairs["kind"].value_counts().to_dict(),
        "precision_by_case_number": round(float(same.mean()), 4),
        "groups_with_patients_told": int(pd.Series(told.decisions["group"]).nunique()),
        "removed_with_patients_told": int((told.decisions["decision"] == "removed").sum()),
    }
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
