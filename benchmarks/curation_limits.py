"""How far joined pairs stay above the limits at which alignment gives a candidate up early, and what these save.

    python benchmarks/curation_limits.py --busi path/to/Dataset_BUSI_with_GT --bus-bra path/to/BUS-BRA \\
        --out benchmarks/results/curation_limits.json

The cohorts are BUSI, BUS-BRA and the made-up trouble of curation_robustness.py. All candidates are aligned to the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from curation_robustness import make_trouble

from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import alignment
from busmt.data.curation.cache import Cache
from busmt.data.curation.candidates import Candidate, find_candidates
from busmt.data.curation.fingerprints import Fingerprint, fingerprints

LIMITS = {"shifted": alignment._SHIFTED_DETAIL, "after_few_steps": alignment._GLIMPSED_DETAIL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busi", required=True, help="BUSI folder")
    parser.add_argument("--bus-bra", required=True, help="BUS-BRA folder")
    parser.add_argument("--cache", type=Path, help="folder for fingerprints")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    options = parser.parse_args()
    bus_bra = read_cohort(options.bus_bra, "bus-bra")
    with tempfile.TemporaryDirectory() as folder, Cache(options.cache or folder) as cache:
        figures = {"limits": LIMITS, "busi": measure(read_cohort(options.busi, "busi"), cache)}
        figures["bus_bra"] = measure(bus_bra, cache)
        figures["trouble"] = measure(make_trouble(bus_bra, Path(folder), np.random.default_rng(0)), cache)
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    print(json.dumps(figures, indent=2))


def measure(cohort: Catalog, cache: Cache) -> dict:
    """Lowest correlations of the candidates that are joined without limits, and how many others the limits let pass."""
    prints = fingerprints(list(cohort), cache)
    candidates = find_candidates(prints)
    before = np.array([early(candidate, prints) for candidate in candidates])
    alignment._SHIFTED_DETAIL = alignment._GLIMPSED_DETAIL = -1.0
    paths = [sample.image for sample in cohort]
    joined = np.array([bool(alignment.verify([candidate], prints, paths)) for candidate in candidates])
    alignment._SHIFTED_DETAIL, alignment._GLIMPSED_DETAIL = LIMITS.values()
    passing = (before >= list(LIMITS.values())).all(axis=1)
    return {
        "candidates": len(candidates),
        "joined": int(joined.sum()),
        "lowest_of_joined": dict(zip(LIMITS, before[joined].min(axis=0).round(3).tolist(), strict=True)),
        "joined_that_limits_would_lose": int((joined & ~passing).sum()),
        "share_of_others_aligned_to_the_end": round(float(passing[~joined].mean()), 3),
    }


def early(candidate: Candidate, prints: Sequence[Fingerprint]) -> tuple[float, float]:
    """Correlation of a candidate's detail at half the size after the shift, and after few steps."""
    first, second = prints[candidate.first].thumbnail, prints[candidate.second].thumbnail
    if candidate.mirrored:
        first = np.ascontiguousarray(first[:, ::-1])
    one, other = (alignment.local_detail(alignment._halved(image), 3.0) for image in (first, second))
    start = alignment._scaled(alignment.window_matrix(candidate.window, candidate.mirrored), 0.5)
    shifted, likeness = alignment._shifted(one, other, start)
    found = alignment._align(one, other, shifted, alignment._FEW_STEPS)
    return likeness, found[1] if found else -1.0


if __name__ == "__main__":
    main()
