"""report.html: what was removed and grouped, side by side, in one file that a person can overrule from."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd

from busmt.config import CLASSES
from busmt.data import images
from busmt.data.catalog import Catalog, Sample
from busmt.data.curation.decide import Curation
from busmt.data.curation.marks import Mark
from busmt.data.curation.page import CARDS, TEMPLATE
from busmt.data.curation.verdicts import REMOVED
from busmt.data.tables import write_table
from busmt.errors import DataError

_SIDE = 260
_OUTLINE, _BOX = (230, 159, 0), (86, 180, 233)  # orange and sky blue (Okabe and Ito): told apart by everyone
_TITLES = {
    "contradiction": "Contradictions: one lesion under two classes",
    "copy": "Copies of one picture",
    "frame": "Frames of one lesion: kept, in one group",
    "single": "Removed on its own account",
    "flag": "Kept, with a flag",
}


def write_report(
    path: str | os.PathLike[str],
    catalog: Catalog,
    curation: Curation,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a self-contained HTML report, atomically.

    Args:
        path: the file.
        catalog: the cohort that was curated.
        curation: its result.
        progress: called with (pictures done, pictures in all).
    """
    sections = _sections(curation)
    names = sorted({name for section in sections for card in section["cards"] for name in card["names"]})
    pictures = _pictures([sample for sample in catalog if sample.image_id in set(names)], curation.decisions, progress)
    decisions = curation.decisions.set_index("image_id").to_dict("index")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    html = page.render(
        counts=count_table(curation.decisions),
        rules=_rule_table(curation.decisions),
        pair_kinds=curation.pairs["kind"].value_counts().to_dict(),
        groups=int(curation.catalog.table["group"].nunique()),
        notes=curation.notes,
        sections=sections,
        pictures=pictures,
        decisions=decisions,
    )
    images.write_atomically(path, html.encode())


def write_cards(
    path: Path,
    title: str,
    figures: dict[str, int],
    sections: list[dict[str, Any]],
    catalog: Catalog,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a self-contained page of cards: sections of `{"title", "cards": [{"names", "caption"}]}`."""
    wanted = {name for section in sections for card in section["cards"] for name in card["names"]}
    samples = [sample for sample in catalog if sample.image_id in wanted]
    boxes = pd.DataFrame({"image_id": [sample.image_id for sample in samples], "boxes": ""})
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(CARDS)
    html = page.render(
        title=title,
        figures={name.replace("_", " "): value for name, value in figures.items()},
        sections=sections,
        pictures=_pictures(samples, boxes, progress),
        labels={sample.image_id: sample.label for sample in samples},
    )
    images.write_atomically(path, html.encode())


def count_table(decisions: pd.DataFrame) -> list[dict[str, Any]]:
    """Images per class before and after: class, before, kept (flagged ones too), flagged, removed."""
    rows = []
    for name in (*CLASSES, "all"):
        part = decisions if name == "all" else decisions[decisions["label"] == name]
        removed = int((part["decision"] == REMOVED).sum())
        flagged = int((part["decision"] == "flagged").sum())
        rows.append({"class": name, "before": len(part), "kept": len(part) - removed, "flagged": flagged,
                     "removed": removed})  # fmt: skip
    return rows


def picture(sample: Sample, boxes: str = "", side: int = _SIDE) -> np.ndarray:
    """Image (h, w, 3), uint8, RGB, at most `side` long, with the lesion's outline and boxes of marks.

    A file that cannot be read becomes a grey field.
    """
    try:
        colour = images.read_colour(sample.image)
    except DataError:
        return np.full((side, side, 3), 128, np.uint8)
    factor = side / max(colour.shape[:2])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    small = np.ascontiguousarray(cv2.resize(colour, None, fx=factor, fy=factor, interpolation=way))
    try:
        mask = sample.read_mask().astype(np.uint8)
    except DataError:
        mask = np.zeros(colour.shape[:2], np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.polylines(small, [np.round(line * factor).astype(np.int32) for line in outlines], True, _OUTLINE, 1)
    for entry in filter(None, boxes.split("|")):
        kind, *numbers = entry.split(" ")
        mark = Mark(kind, *(round(int(number) * factor) for number in numbers))
        corner = (mark.left + mark.width + 2, mark.top + mark.height + 2)
        cv2.rectangle(small, (mark.left - 2, mark.top - 2), corner, _BOX, 1)
    return small


def _sections(curation: Curation) -> list[dict[str, Any]]:
    """Cards of one or two images under headings, every pair once, every removed or flagged sample at least once."""
    decided = curation.decisions.set_index("image_id")
    cards: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _TITLES}
    for pair in curation.pairs.itertuples(index=False):
        iou = "both masks empty" if np.isnan(pair.mask_iou) else f"mask IoU {pair.mask_iou:.2f}"
        caption = f"{pair.kind}, detail {pair.similarity:.2f}, blocks {pair.agreement:.2f}, {iou}"
        caption += ", mirrored" if pair.mirrored else ""
        crossed = pair.first_label != pair.second_label
        kind = "contradiction" if crossed else ("frame" if pair.kind == "frame" else "copy")
        cards[kind].append({"names": [pair.first, pair.second], "caption": caption})
    paired = set(curation.pairs["first"]) | set(curation.pairs["second"])
    for name, row in decided.iterrows():
        if row["decision"] == REMOVED and name not in paired and row["rule"] != "not-listed":
            cards["single"].append({"names": [name], "caption": ""})
        elif row["decision"] == "flagged":
            cards["flag"].append({"names": [name], "caption": ""})
    return [{"title": _TITLES[kind], "cards": found} for kind, found in cards.items() if found]


def _rule_table(decisions: pd.DataFrame) -> list[dict[str, Any]]:
    each = decisions.assign(rule=decisions["rule"].str.split("; ")).explode("rule")
    each = each[each["rule"] != ""]
    counts = each.groupby(["rule", "decision"]).size().reset_index(name="images")
    return counts.sort_values(["decision", "images"], ascending=[False, False]).to_dict("records")


def _pictures(
    samples: Sequence[Sample], decisions: pd.DataFrame, progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """image_id to a JPEG data URL."""
    boxes = dict(zip(decisions["image_id"], decisions["boxes"], strict=True))
    found = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        encoded = pool.map(lambda sample: _data_url(picture(sample, boxes[sample.image_id])), samples)
        for done, (sample, url) in enumerate(zip(samples, encoded, strict=True), start=1):
            found[sample.image_id] = url
            if progress:
                progress(done, len(samples))
    return found


def _data_url(pixels: np.ndarray) -> str:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def write_outputs(
    out: Path, catalog: Catalog, curation: Curation, progress: Callable[[int, int], None] | None = None
) -> dict[str, Path]:
    """Write catalog.csv, decisions.csv, pairs.csv and report.html into a folder; each file whole or not at all.

    Raises:
        DataError: the folder lies inside the data, or cannot be written.
    """
    refuse_data_folder(out, catalog)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = {name: out / name for name in ("catalog.csv", "decisions.csv", "pairs.csv", "report.html")}
        curation.catalog.to_csv(files["catalog.csv"])
        write_table(files["decisions.csv"], curation.decisions)
        write_table(files["pairs.csv"], curation.pairs)
        write_report(files["report.html"], catalog, curation, progress)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error
    return files


def refuse_data_folder(out: Path, catalog: Catalog) -> None:
    """Raise DataError where `out` is a folder that holds images of the cohort, or lies in one."""
    target = out.resolve()
    folders = {Path(name).resolve().parent for name in catalog.table["image"]}
    roots = folders | ({Path(os.path.commonpath([str(folder) for folder in folders]))} if len(folders) > 1 else set())
    for folder in sorted(roots):
        if target == folder or folder in target.parents:
            raise DataError(f"{out}: lies in the data folder {folder}; name a folder outside of it")
