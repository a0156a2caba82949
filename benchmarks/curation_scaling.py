"""Time and memory of curation from 1 000 to 50 000 images, on phantoms.

    python benchmarks/curation_scaling.py --folder phantoms --out benchmarks/results/curation_scaling.json

Phantoms of 96 x 96 pixels are written once, every tenth as a rescaled copy of the one before. Every size runs
in a process of its own, first without and then with a cache. Peak memory is the process's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from busmt.config import CLASSES, CurationConfig
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.curation import curate
from busmt.data.phantom import make_phantom

SIDE = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the phantoms are written, once")
    parser.add_argument("--out", help="JSON file for the figures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 5000, 10000, 20000, 50000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.folder, options.one, options.cache)))
        return
    write_phantoms(options.folder, max(options.sizes))
    figures = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as cache:
            first, second = (in_a_process(options.folder, size, cache) for _ in range(2))
        figures.append(first | {"second_run_seconds": second["seconds"]})
        print(json.dumps(figures[-1]), flush=True)
        if options.out:
            images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())


def in_a_process(folder: Path, size: int, cache: str) -> dict:
    command = [sys.executable, __file__, "--folder", str(folder), "--one", str(size), "--cache", cache]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(folder: Path, size: int, cache: Path) -> dict:
    """Curate the first `size` phantoms; seconds, peak memory, and how many of the copies are found."""
    rows = [row for position in range(size) for row in [_row(folder, position)]]
    catalog = Catalog(pd.DataFrame(rows))
    start, cpu = time.perf_counter(), time.process_time()
    curation = curate(catalog, CurationConfig(), cache_dir=cache)
    copies = [position for position in range(size) if position % 10 == 9]
    group = dict(zip(curation.decisions["image_id"], curation.decisions["group"], strict=True))
    found = sum(group[f"p{position}"] == group[f"p{position - 1}"] for position in copies)
    joined = zip(curation.pairs["first"], curation.pairs["second"], strict=True)
    wrong = sum(int(b[1:]) % 10 != 9 or int(a[1:]) != int(b[1:]) - 1 for a, b in joined)
    return {
        "images": size,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "copies": len(copies),
        "copies_found": int(found),
        "false_pairs": int(wrong),
    }


def write_phantoms(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = [position for position in range(count) if not (folder / f"{position}_mask.png").exists()]
    with ProcessPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(_write, [folder] * len(missing), missing, chunksize=64), start=1):
            if done % 5000 == 0:
                print(f"{done} of {len(missing)} phantoms", file=sys.stderr)


def _label(position: int) -> str:
    return CLASSES[(position - (position % 10 == 9)) % 3]


def _write(folder: Path, position: int) -> None:
    copy = position % 10 == 9
    phantom = make_phantom(_label(position), position - copy, size=(SIDE, SIDE))
    image, mask = phantom.image, phantom.mask
    if copy:
        size = (80, 88)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    images.write_png(folder / f"{position}.png", image)
    images.write_png(folder / f"{position}_mask.png", mask)


def _row(folder: Path, position: int) -> dict:
    image, mask = folder / f"{position}.png", folder / f"{position}_mask.png"
    return {"image_id": f"p{position}", "image": str(image), "masks": str(mask), "label": _label(position)}


if __name__ == "__main__":
    main()
