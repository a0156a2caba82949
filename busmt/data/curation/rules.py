"""Rules for single samples: what makes one unusable, and what is only flagged."""

from __future__ import annotations

import functools
import re
from importlib import resources

import pandas as pd

from busmt.config import CLASSES, NORMAL
from busmt.data.curation.fingerprints import Fingerprint
from busmt.data.curation.marks import AXILLA
from busmt.data.curation.scan import PHOTOGRAPH

FLAGS: tuple[str, ...] = ("axilla", "marks", "multifocal", "small", "mask-text", "masks-disagree")
"""Rules that only flag, unless the configuration asks for removal."""

_BLANK_SPREAD = 3.0
_COLOURED = 0.10
_BRIGHT_LEVEL = 215.0
_NOISE = 0.25
_WHOLE = 0.95
_INVERTED_BORDER = 0.5
_SMALL = 0.004
_TEXT_IN_OUTLINE = 0.02


def faults(item: Fingerprint, label: str) -> list[tuple[str, str]]:
    """(rule, reason) of everything that makes a sample unusable."""
    if item.fault:
        return [("unreadable", item.fault)]
    found = _not_a_scan(item)
    if item.mask_fault:
        found.append(("mask-unreadable", item.mask_fault))
    elif label == CLASSES[NORMAL]:
        if item.mask_share > 0:
            found.append(("mask-on-normal", f"filed as normal, but its mask covers {item.mask_share:.1%} of the image"))
    elif item.mask_share == 0:
        found.append(("mask-empty", f"filed as {label}, but its mask is empty"))
    elif item.mask_share > _WHOLE:
        found.append(("mask-whole", f"the mask covers {item.mask_share:.0%} of the image"))
    elif item.mask_border > _INVERTED_BORDER and item.mask_share > 0.5:
        found.append(
            ("mask-inverted", f"the mask covers the background: {item.mask_border:.0%} of the border is marked")
        )
    return found


def flags(item: Fingerprint, image_id: str, cohort: str, label: str) -> list[tuple[str, str]]:
    """(rule, reason) of what a person may want to look at."""
    if item.fault:
        return []
    found = []
    proof = _axilla(item, image_id, cohort)
    if proof:
        found.append(("axilla", f'the burnt-in word "axilla" ({proof}): the scan does not show the breast'))
    kinds = [mark.kind for mark in item.marks if mark.kind != AXILLA]
    if kinds:
        counts = pd.Series(kinds).value_counts().sort_index()
        found.append(("marks", "burnt-in " + ", ".join(f"{kind} ({count})" for kind, count in counts.items())))
    if item.mask_text > _TEXT_IN_OUTLINE:
        found.append(("mask-text", f"{item.mask_text:.0%} of the mask's outline runs through burnt-in text"))
    if label != CLASSES[NORMAL] and not item.mask_fault:
        if item.lesions > 1:
            found.append(("multifocal", f"the mask has {item.lesions} separate regions"))
        if 0 < item.mask_share < _SMALL:
            found.append(("small", f"the lesion covers {item.mask_share:.2%} of the image"))
    return found


def boxes(item: Fingerprint) -> str:
    """Boxes of burnt-in marks as text: "kind left top width height", joined by "|"."""
    return "|".join(f"{mark.kind} {mark.left} {mark.top} {mark.width} {mark.height}" for mark in item.marks)


@functools.cache
def axilla_list() -> frozenset[str]:
    """BUSI images with the word "axilla" burnt in, as published (source in the list's first line)."""
    text = (resources.files("busmt.data") / "lists" / "busi-axilla.csv").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if re.fullmatch(r"\w+ \(\d+\)", line))


def _axilla(item: Fingerprint, image_id: str, cohort: str) -> str:
    """How it is known that the image carries the word, or ""."""
    read = [
        f"read at {mark.left}, {mark.top}, {mark.width} x {mark.height} pixels"
        for mark in item.marks
        if mark.kind == AXILLA
    ]
    listed = ["published list"] if cohort == "busi" and image_id in axilla_list() else []
    return "; ".join(read + listed)


def _not_a_scan(item: Fingerprint) -> list[tuple[str, str]]:
    if item.spread < _BLANK_SPREAD:
        return [("not-a-scan", f"blank: the grey levels spread by {item.spread:.1f} of 255")]
    if item.colour > _COLOURED:
        return [("not-a-scan", f"{item.colour:.0%} of the pixels are coloured: colour Doppler or a photograph")]
    if item.level > _BRIGHT_LEVEL:
        return [("not-a-scan", f"mean grey level {item.level:.0f} of 255, brighter than any B-mode scan: a page?")]
    if item.texture < _NOISE:
        return [("not-a-scan", "neighbouring pixels are unrelated: noise, not a scan")]
    if item.scan_score < PHOTOGRAPH:
        return [("not-a-scan", f"smooth ground without speckle (score {item.scan_score:.1f}): a photograph?")]
    return []
