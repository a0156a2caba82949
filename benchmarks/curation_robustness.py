"""Made-up trouble: does curation find changed copies of known images, and only those?

    python benchmarks/curation_robustness.py --data path/to/BUS-BRA --out benchmarks/results/curation_robustness.json

200 images of BUS-BRA, each of another patient, get 1000 copies (20 changes, 50 copies each) and 40 copies
under another class. A copy is found when curation puts it into its source's group. A pair that curation
joins is right when both sides stem from one patient.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from busmt.config import CurationConfig
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import Curation, curate

SOURCES, COPIES_PER_CHANGE, RELABELLED = 200, 50, 40
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="BUS-BRA folder")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trouble = make_trouble(read_cohort(options.data), Path(folder), np.random.default_rng(options.seed))
        start = time.perf_counter()
        curation = curate(trouble, CurationConfig(duplicates="all", contradictions="keep"))
        figures = score(trouble, curation) | {"seconds": round(time.perf_counter() - start, 1), "seed": options.seed}
    images.write_atomically(options.out, (json.dumps(figures, indent=2) + "\n").encode())
    print(pd.DataFrame(figures["changes"]).to_string(index=False))
    print(json.dumps({name: value for name, value in figures.items() if name not in ("changes", "missed")}, indent=2))


def make_trouble(cohort: Catalog, folder: Path, rng: np.random.Generator) -> Catalog:
    """Sources, copies and relabelled copies as files, with `patient` and `change` in the table."""
    table = cohort.table.drop_duplicates("patient")
    picked = cohort.select(table["image_id"].iloc[np.sort(rng.permutation(len(table))[:SOURCES])])
    rows: list[dict] = []
    samples = list(picked)
    patients = picked.table["patient"].tolist()
    for sample, patient in zip(samples, patients, strict=True):
        _add(rows, folder, images.read_grey(sample.image), sample.read_mask(), sample.label, patient, "source")
    for name, change in CHANGES.items():
        for position in rng.permutation(SOURCES)[:COPIES_PER_CHANGE]:
            sample = samples[position]
            grey, mask = change(images.read_grey(sample.image), sample.read_mask(), rng)
            _add(rows, folder, grey, mask, sample.label, patients[position], name)
    for position in rng.permutation(SOURCES)[:RELABELLED]:
        sample = samples[position]
        grey, mask = rescale(0.8)(images.read_grey(sample.image), sample.read_mask(), rng)
        other = "malignant" if sample.label == "benign" else "benign"
        _add(rows, folder, grey, mask, other, patients[position], "relabelled")
    return Catalog(pd.DataFrame(rows), "made-up trouble")


def score(trouble: Catalog, curation: Curation) -> dict:
    """Recall by change, precision of pairs, and how many relabelled copies are contradictions."""
    table = trouble.table.assign(found=curation.decisions["group"].to_numpy())
    source = table[table["change"] == "source"].set_index("patient")["found"]
    copies = table[table["change"] != "source"].copy()
    copies["hit"] = copies["found"].to_numpy() == source[copies["patient"]].to_numpy()
    patient = table.set_index("image_id")["patient"]
    pairs = curation.pairs
    right = patient[pairs["first"]].to_numpy() == patient[pairs["second"]].to_numpy()
    rule = curation.decisions.set_index("image_id")["rule"]
    relabelled = copies[copies["change"] == "relabelled"]
    direct = _kind_to_source(table, pairs)
    return {
        "recall": round(float(copies["hit"].mean()), 4),
        "precision": round(float(right.mean()), 4),
        "pairs": len(pairs),
        "false_pairs": int((~right).sum()),
        "contradictions_found": f"{int(rule[relabelled['image_id']].str.contains('contradiction').sum())}/{RELABELLED}",
        "changes": [
            {
                "change": change,
                "copies": len(part),
                "recall": round(float(part["hit"].mean()), 3),
                "told_as_copy": round(float(part["image_id"].map(direct).isin(("exact", "near-duplicate")).mean()), 3),
            }
            for change, part in copies.groupby("change", sort=False)
        ],
        "missed": copies.loc[~copies["hit"], "image_id"].tolist(),
    }


def rescale(factor: float) -> Change:
    def change(grey, mask, rng):
        size = (round(grey.shape[1] * factor), round(grey.shape[0] * factor))
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return cv2.resize(grey, size, interpolation=way), _resized(mask, size)

    return change


def crop(share: float) -> Change:
    """Cuts `share` of the width and of the height away, at a random place."""

    def change(grey, mask, rng):
        height, width = (round(side * (1 - share)) for side in grey.shape)
        top, left = (
            int(rng.integers(0, side - kept + 1)) for side, kept in zip(grey.shape, (height, width), strict=True)
        )
        window = slice(top, top + height), slice(left, left + width)
        return grey[window].copy(), mask[window].copy()

    return change


def levels(curve: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(grey, mask, rng):
        return np.clip(curve(grey / 255.0) * 255.0, 0, 255).round().astype(np.uint8), mask

    return change


def recompress(quality: int) -> Change:
    def change(grey, mask, rng):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("L")), mask

    return change


def mirror(grey, mask, rng):
    return grey[:, ::-1].copy(), mask[:, ::-1].copy()


def calipers(grey, mask, rng):
    """Two crosses and a dotted line at the ends of the lesion."""
    drawn = grey.copy()
    rows, columns = np.nonzero(mask)
    ends = (int(columns.min()), int(rows.mean())), (int(columns.max()), int(rows.mean()))
    for place in ends:
        cv2.drawMarker(drawn, place, 255, cv2.MARKER_CROSS, 11, 1)
    for x in range(ends[0][0], ends[1][0], 5):
        drawn[ends[0][1], x] = 255
    return drawn, mask


def text(grey, mask, rng):
    """Three lines of white text and a body mark."""
    drawn = grey.copy()
    height, width = drawn.shape
    for line, word in enumerate(("RT UOQ 10:00", "BREAST", "D1 12.4 mm")):
        cv2.putText(drawn, word, (6, height - 12 - 16 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    cv2.circle(drawn, (width - 24, height - 24), 16, 255, 1)
    return drawn, mask


def chain(*changes: Change) -> Change:
    def change(grey, mask, rng):
        for step in changes:
            grey, mask = step(grey, mask, rng)
        return grey, mask

    return change


CHANGES: dict[str, Change] = {
    "rescaled to 50 %": rescale(0.5),
    "rescaled to 75 %": rescale(0.75),
    "rescaled to 150 %": rescale(1.5),
    "cropped by 10 %": crop(0.10),
    "cropped by 20 %": crop(0.20),
    "cropped by 25 %": crop(0.25),
    "mirrored": mirror,
    "brightness +20 %": levels(lambda x: x + 0.2),
    "brightness -20 %": levels(lambda x: x - 0.2),
    "contrast x0.6": levels(lambda x: (x - 0.5) * 0.6 + 0.5),
    "contrast x1.5": levels(lambda x: (x - 0.5) * 1.5 + 0.5),
    "gamma 0.5": levels(lambda x: x**0.5),
    "gamma 2.0": levels(lambda x: x**2.0),
    "JPEG quality 60": recompress(60),
    "JPEG quality 20": recompress(20),
    "calipers added": calipers,
    "text added": text,
    "text and calipers, rescaled to 75 %": chain(text, calipers, rescale(0.75)),
    "cropped by 15 %, gamma 0.7, JPEG 50": chain(crop(0.15), levels(lambda x: x**0.7), recompress(50)),
    "mirrored, cropped by 20 %, contrast x1.3": chain(mirror, crop(0.2), levels(lambda x: (x - 0.5) * 1.3 + 0.5)),
}


def _add(rows: list[dict], folder: Path, grey, mask, label: str, patient, change: str) -> None:
    name = f"{len(rows):04d} {change}"
    path = folder / f"{len(rows):04d}.png"
    images.write_png(path, grey)
    images.write_png(path.with_name(f"{path.stem}_mask.png"), mask)
    rows.append({
        "image_id": name, "image": str(path), "masks": str(path.with_name(f"{path.stem}_mask.png")), "label": label,
        "patient": patient, "change": change,
    })  # fmt: skip


def _kind_to_source(table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, str]:
    """Kind of the pair that joins a copy directly with its source."""
    change = table.set_index("image_id")["change"]
    kinds = {}
    for first, second, kind in zip(pairs["first"], pairs["second"], pairs["kind"], strict=True):
        if change[first] == "source":
            kinds[second] = kind
    return kinds


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


if __name__ == "__main__":
    main()
