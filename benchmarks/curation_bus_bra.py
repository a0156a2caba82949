"""Precision by patient: which of BUS-BRA's images does curation join when it is not told the patients?

    python benchmarks/curation_bus_bra.py --data path/to/BUS-BRA --out benchmarks/results/curation_bus_bra.json

Three figures: joined pairs by case number, with the same after pairs that were looked at are counted as seen; how many
of all compared pairs of two cases are joined; and what bus_data.csv, which curation does not read, says of the cases
that are joined.
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

# Pairs of two case numbers that were looked at side by side and show one lesion (docs/curation.md).
SEEN_AS_ONE_LESION = (
    ("bus_0044-l", "bus_0065-l"), ("bus_0044-r", "bus_0065-r"), ("bus_0056-l", "bus_0091-l"),
    ("bus_0056-r", "bus_0091-r"), ("bus_0341-l", "bus_0356-l"), ("bus_0341-r", "bus_0356-r"),
    ("bus_0853-l", "bus_0854-s"),
)  # fmt: skip
RECORDED = ("Side", "Device", "BIRADS", "Pathology", "Histology")


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
        with Cache(cache) as kept:
            candidates = find_candidates(fingerprints(list(cohort), kept))
    pairs = curation.pairs
    same = patient[pairs["first"]].to_numpy() == patient[pairs["second"]].to_numpy()
    crossed = [(a, b) for a, b in zip(pairs.loc[~same, "first"], pairs.loc[~same, "second"], strict=True)]
    seen = [pair for pair in crossed if pair in SEEN_AS_ONE_LESION]
    numbers = patient.to_numpy()
    compared = {(min(c.first, c.second), max(c.first, c.second)) for c in candidates}
    apart = sum(numbers[a] != numbers[b] for a, b in compared)
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
        "precision_where_seen_pairs_count": round((int(same.sum()) + len(seen)) / len(pairs), 4),
        "compared_pairs": len(compared),
        "compared_pairs_of_two_cases": int(apart),
        "of_these_joined": len(crossed),
        "of_these_joined_and_not_seen_as_one_lesion": len(crossed) - len(seen),
        "records_of_joined_cases": records(Path(options.data) / "bus_data.csv", crossed),
        "groups_with_patients_told": int(pd.Series(told.decisions["group"]).nunique()),
        "removed_with_patients_told": int((told.decisions["decision"] == "removed").sum()),
    }
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    print(json.dumps(figures, indent=2))


def records(path: Path, crossed: list[tuple[str, str]]) -> dict:
    """What the cohort's own table says of joined pairs of two cases, and how often two random cases agree as much."""
    table = pd.read_csv(path).set_index("ID")
    first, second = (table.loc[[pair[side] for pair in crossed], list(RECORDED)] for side in (0, 1))
    agree = first.to_numpy() == second.to_numpy()
    cases = table.groupby("Case").first()[list(RECORDED)].drop(columns="Side").astype(str).agg("|".join, axis=1)
    chance = sum(count * (count - 1) for count in cases.value_counts()) / (len(cases) * (len(cases) - 1))
    return {
        "pairs": [
            {"first": a, "second": b}
            | {name: f"{x} / {y}" if x != y else str(x) for name, x, y in zip(RECORDED, p, q, strict=True)}
            for (a, b), p, q in zip(crossed, first.to_numpy(), second.to_numpy(), strict=True)
        ],
        "agreeing": dict(zip(RECORDED, map(int, agree.sum(axis=0)), strict=True)),
        "two_random_cases_agree_in_all_but_side": round(chance, 4),
    }


if __name__ == "__main__":
    main()
