"""Reading one burnt-in word, "axilla", by correlation with the word as drawn in common sans-serif letters.

Scans of the armpit are filed among breast scans; the scanner's operator has often typed the word onto them. Only
this word is looked for, so correlation serves and no text recognition is needed.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from busmt.data.curation.shapes import Box, around, overlaps

WORDS = ("AXILLA", "axilla")
_SCORE = 0.67
"""Least correlation; what is not the word stays below on BUSI and BUS-BRA."""
_ROUGH = 0.42
"""Least correlation with a few of the word's shapes for all of them to be tried."""
_FONT_SIZE = 64
_WEIGHTS = (1, 3)
"""Widening of the letters' strokes at the font's size, pixels: from regular to bold."""
_HEIGHTS = (0.88, 0.94, 1.0, 1.06, 1.15, 1.3)
_WIDTHS = (0.85, 0.92, 1.0, 1.08, 1.16)
_FALL = 60.0
_CONTRAST = 0.2
"""Least spread of closeness to the letters' level where the word stands; letters on their ground have 0.35 and more."""
_LEAST_HEIGHT = 10


def find_axilla(levels: np.ndarray, candidates: list[Box]) -> Box | None:
    """Where the word stands in an image (H, W), uint8, or None.

    Args:
        levels: the image.
        candidates: boxes of lines or of single characters, whose height is about the word's.
    """
    best: tuple[float, Box] | None = None
    for box in _regions(candidates):
        found = _best_in(levels, box)
        if found and (best is None or found[0] > best[0]):
            best = found
    return best[1] if best and best[0] >= _SCORE else None


def _regions(candidates: list[Box]) -> list[Box]:
    """Candidates of about one height that stand close by are one."""
    kept: list[Box] = []
    for box in sorted(candidates, key=lambda entry: (-entry[3], entry)):
        for number, other in enumerate(kept):
            if overlaps(box, other, box[3]) and box[3] >= 0.7 * other[3]:
                top, height = (other[1], other[3]) if other[2] >= box[2] else (box[1], box[3])
                left, _, width, _ = around([box, other])
                kept[number] = (left, top, width, height)
                break
        else:
            if box[3] >= _LEAST_HEIGHT:
                kept.append(box)
    return kept


def _best_in(levels: np.ndarray, box: Box) -> tuple[float, Box] | None:
    """Best correlation within reach of a box, with its place."""
    left, top, width, height = box
    drawn = levels[top : top + height, left : left + width]
    level = float(np.median(drawn[drawn >= np.quantile(drawn, 0.8)]))
    up, aside = height // 2 + 2, 5 * height if width < 4 * height else 2 * height
    rows, columns = max(0, top - up), max(0, left - aside)
    patch = levels[rows : top + height + up, columns : left + width + aside].astype(np.float32)
    # What is brighter or darker than the letters is ground; a rest of the levels keeps even ground from being
    # constant, of which OpenCV says that it correlates with everything.
    patch = np.clip(1 - np.abs(patch - level) / _FALL, 0, 1) + 0.1 * patch / 255
    rough = _matched(patch, height, _rough_shapes())
    if rough is None or rough[0] < _ROUGH:
        return None
    best = _matched(patch, height, _fine_shapes())
    if best is None:
        return None
    score, (across, down, wide, tall) = best
    return score, (columns + across, rows + down, wide, tall)


def _matched(patch: np.ndarray, height: int, tried: list[tuple[np.ndarray, float, float]]) -> tuple[float, Box] | None:
    """Best correlation of (word, height, width) with a patch, and its box there."""
    best: tuple[float, Box] | None = None
    for template, tall, stretch in tried:
        size = max(_LEAST_HEIGHT, round(height * tall))
        across = round(template.shape[1] * size / template.shape[0] * stretch)
        if size > patch.shape[0] or across > patch.shape[1]:
            continue
        word = cv2.resize(template, (across, size), interpolation=cv2.INTER_AREA)
        _, score, _, place = cv2.minMaxLoc(cv2.matchTemplate(patch, word, cv2.TM_CCOEFF_NORMED))
        if best is None or score > best[0]:
            window = patch[place[1] : place[1] + size, place[0] : place[0] + across]
            if window.std() >= _CONTRAST:
                best = score, (int(place[0]), int(place[1]), across, size)
    return best


@functools.cache
def _rough_shapes() -> list[tuple[np.ndarray, float, float]]:
    return [
        (word, tall, wide) for word in _templates(_WEIGHTS[-1:]) for tall in (0.94, 1.06, 1.22) for wide in (0.92, 1.08)
    ]


@functools.cache
def _fine_shapes() -> list[tuple[np.ndarray, float, float]]:
    return [(word, tall, wide) for word in _templates(_WEIGHTS) for tall in _HEIGHTS for wide in _WIDTHS]


def _templates(weights: tuple[int, ...]) -> list[np.ndarray]:
    """The words in Pillow's own font, which is close to Helvetica and Arial, at several weights; float32 in [0, 1]."""
    font = ImageFont.load_default(_FONT_SIZE)
    return [_rendered(word, font, weight) for word in WORDS for weight in weights]


def _rendered(word: str, font: Any, weight: int) -> np.ndarray:
    canvas = Image.new("L", (_FONT_SIZE * len(word), 2 * _FONT_SIZE))
    ImageDraw.Draw(canvas).text((10, 10), word, fill=255, font=font, stroke_width=weight, stroke_fill=255)
    pixels = np.asarray(canvas.crop(canvas.getbbox()), np.float32)
    return pixels / 255
