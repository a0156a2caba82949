"""Burnt-in marks: text, calipers and other overlays that the scanner's software drew on the image.

Overlays differ from echoes in how they are drawn: thin strokes of one level (white, or a colour), much
brighter than what lies right around them. Strokes in a row of equal height are text; a cross is a caliper.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_WORKING_SIDE = 560
"""Longer side at which strokes are looked for, pixels; larger images are shrunk to it."""
_STROKE = 5
"""Widest stroke that counts as drawn, pixels at the working size."""
_CONTRAST = 60
_BRIGHT = 110
_COLOUR = 40
_CROSS_SCORE = 0.72

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mark:
    """A burnt-in mark; box in pixels of the image.

    Attributes:
        kind: "text", "caliper" or "overlay" (coloured box, bar or flow).
    """

    kind: str
    left: int
    top: int
    width: int
    height: int


def find_marks(colour: np.ndarray) -> tuple[Mark, ...]:
    """Marks of an image (H, W, 3), uint8, RGB, from top to bottom."""
    scale = min(1.0, _WORKING_SIDE / max(colour.shape[:2]))
    small = cv2.resize(colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else colour
    levels = channel_maximum(small)
    coloured = colour_difference(small) > _COLOUR
    strokes = _strokes(levels)
    marks = [("text", box) for box in _text_boxes(strokes)]
    free = np.ones(levels.shape, bool)
    for _, (left, top, width, height) in marks:
        free[top : top + height, left : left + width] = False
    marks += [("caliper", box) for box in _crosses(levels, strokes & free)]
    marks += [("overlay", box) for box in _blobs(coloured & free)]
    found = [Mark(kind, *(round(side / scale) for side in box)) for kind, box in marks]
    return tuple(sorted(found, key=lambda mark: (mark.top, mark.left, mark.kind)))


def channel_maximum(colour: np.ndarray) -> np.ndarray:
    """Brightest channel of (H, W, 3), uint8; numpy's reduction over three values is many times slower."""
    red, green, blue = cv2.split(colour)
    return cv2.max(cv2.max(red, green), blue)


def colour_difference(colour: np.ndarray) -> np.ndarray:
    """Largest less smallest channel of (H, W, 3), uint8; 0 where grey."""
    red, green, blue = cv2.split(colour)
    return cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)


def _strokes(levels: np.ndarray) -> np.ndarray:
    """Thin bright lines: what an opening by a square wider than a stroke takes away."""
    side = _STROKE + 2
    opened = cv2.morphologyEx(levels, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return (levels > _BRIGHT) & (cv2.subtract(levels, opened) > _CONTRAST)


def _text_boxes(strokes: np.ndarray) -> list[_Box]:
    """Boxes of at least two characters of about one height in a row."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    characters = [
        _box(row)
        for row in stats[1:]
        if 6 <= row[cv2.CC_STAT_HEIGHT] <= 22
        and row[cv2.CC_STAT_AREA] >= 8
        and row[cv2.CC_STAT_WIDTH] <= 3 * row[cv2.CC_STAT_HEIGHT]  # letters may touch
    ]
    lines: list[list[_Box]] = []
    for box in sorted(characters):
        line = next((line for line in lines if _continues(line[-1], box)), None)
        if line is None:
            lines.append([box])
        else:
            line.append(box)
    return [_around(line) for line in lines if len(line) >= 3]


def _box(row: np.ndarray) -> _Box:
    """Box of a row of connected-component statistics."""
    left, top, width, height = (int(value) for value in row[:4])
    return left, top, width, height


def _continues(last: _Box, box: _Box) -> bool:
    """Same height and baseline within two pixels, at most two characters' width to the right."""
    return (
        abs(last[1] - box[1]) <= 2
        and abs(last[1] + last[3] - box[1] - box[3]) <= 2
        and 0 <= box[0] - (last[0] + last[2]) <= 1.2 * last[3]
    )


def _around(boxes: list[_Box]) -> _Box:
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def _crosses(levels: np.ndarray, strokes: np.ndarray) -> list[_Box]:
    """Caliper crosses, upright or diagonal: bright arms of a pixel or two, looked for where strokes are compact."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    found: list[tuple[float, _Box]] = []
    for left, top, width, height, _ in stats[1:]:
        if 5 <= max(width, height) <= 40 and min(width, height) >= 4:
            patch = levels[max(0, top - 10) : top + height + 10, max(0, left - 10) : left + width + 10]
            score, (column, row), side = max(
                (*_best_match(patch, template), template.shape[0])
                for template in _CROSSES
                if min(patch.shape) >= template.shape[0]
            )
            if score > _CROSS_SCORE:
                box = (max(0, int(left) - 10) + column, max(0, int(top) - 10) + row, side, side)
                found.append((score, box))
    kept: list[_Box] = []
    for _, box in sorted(found, key=lambda entry: (-entry[0], entry[1])):
        if all(abs(box[0] - other[0]) > 10 or abs(box[1] - other[1]) > 10 for other in kept):
            kept.append(box)
    return kept


def _best_match(patch: np.ndarray, template: np.ndarray) -> tuple[float, tuple[int, int]]:
    _, value, _, place = cv2.minMaxLoc(cv2.matchTemplate(patch, template, cv2.TM_CCOEFF_NORMED))
    return float(value), (int(place[0]), int(place[1]))


def _cross(side: int, arm: int, width: int, diagonal: bool) -> np.ndarray:
    template = np.zeros((side, side), np.uint8)
    centre, reach = side // 2, arm
    ends = ((-reach, -reach, reach, reach), (-reach, reach, reach, -reach)) if diagonal else (
        (-reach, 0, reach, 0), (0, -reach, 0, reach))  # fmt: skip
    for x0, y0, x1, y1 in ends:
        cv2.line(template, (centre + x0, centre + y0), (centre + x1, centre + y1), 255, width)
    return template


_CROSSES = [
    _cross(side, arm, width, diagonal)
    for side, arm in ((13, 4), (17, 6))
    for width in (1, 2)
    for diagonal in (False, True)
]


def _blobs(coloured: np.ndarray) -> list[_Box]:
    closed = cv2.morphologyEx(coloured.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    return [_box(row) for row in stats[1:] if row[cv2.CC_STAT_AREA] >= 30]
