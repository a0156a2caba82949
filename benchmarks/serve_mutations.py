"""Damaged image files at the `serving_bytes` signature: does each get a status, and its neighbours their answer?

    python benchmarks/serve_mutations.py exports/busi --out benchmarks/results/serve_mutations.json

PNG and JPEG files of phantoms (grey, RGB, RGBA, palette; baseline and progressive) are mutated: bytes overwritten,
preferably in the header, files cut, bytes appended. They run in batches of 15 with one whole image at a random place,
whose answer must stay what it is alone. A crash or an exception ends the run.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from busmt.config import CLASSES
from busmt.data.images import write_json
from busmt.data.phantom import make_phantom
from busmt.deployment.intake import STATUS_MESSAGES
from busmt.deployment.server.model import ServedModel
from busmt.deployment.server.versions import version_folder

BATCH = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    signature = ServedModel.load(version_folder(options.export)).signatures["serving_bytes"]
    rng, files, statuses, slowest = random.Random(options.seed), seeds(), Counter[str](), 0.0
    whole = files[0]
    alone = signature.run([whole])[0]
    batches = -(-options.mutations // BATCH)
    for _ in range(batches):
        batch = [mutate(rng.choice(files), rng) for _ in range(BATCH)]
        place = rng.randrange(BATCH + 1)
        batch.insert(place, whole)
        start = time.perf_counter()
        rows = signature.run(batch)
        slowest = max(slowest, time.perf_counter() - start)
        neighbour = rows.pop(place)
        if neighbour["status"] or np.abs(neighbour["mask"] - alone["mask"]).max() > 1e-3:
            sys.exit("a whole image got another answer among damaged ones")
        for row in rows:
            statuses[STATUS_MESSAGES[row["status"]] or "read"] += 1
            answered = row["class_id"] in range(len(CLASSES)) and np.isfinite(row["mask"]).all()
            withheld = row["class_id"] == -1 and (row["mask"] == -1).all() and (row["label"] == -1).all()
            if not (withheld if row["status"] else answered):
                sys.exit(f"status {row['status']} with class {row['class_id']}")
    figures = {
        "mutations": batches * BATCH, "statuses": dict(statuses.most_common()), "neighbours_unharmed": batches,
        "seconds_of_slowest_batch": round(slowest, 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "tensorflow": tf.__version__,
    }  # fmt: skip
    print(figures)
    if options.out:
        write_json(options.out, figures)
    return 0


def seeds() -> list[bytes]:
    """Whole files of several kinds."""
    kinds = [("PNG", "L", {}), ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {})]
    kinds += [("JPEG", "L", {}), ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True})]
    files = []
    for number, (kind, mode, options) in enumerate(kinds):
        pixels = make_phantom(CLASSES[number % len(CLASSES)], number, (120, 160)).image
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Another file, mostly a damaged one."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        reach = rng.choice([40, 200, len(changed)])
        changed[rng.randrange(min(reach, len(changed)))] = rng.randrange(256)
    if rng.random() < 0.2:
        changed = changed[: rng.randrange(len(changed))]
    if rng.random() < 0.1:
        changed += rng.randbytes(50)
    return bytes(changed)


if __name__ == "__main__":
    sys.exit(main())
