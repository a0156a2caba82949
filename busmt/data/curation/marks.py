"""Burnt-in marks: text, calipers, arrows and other overlays that the scanner's software drew on the image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from busmt.data.curation import shapes
from busmt.data.curation.strokes import coloured_strokes, drawn, drawn_levels, thin_strokes
from busmt.data.curation.words import find_axilla

_WORKING_SIDE = 560
"""Longer side at which thin strokes are looked for, pixels; larger images are shrunk to it."""
_COLOUR = 40
_AREA = 24
"""Widest part of a filled arrow, pixels."""

KINDS: tuple[str, ...] = ("text", "caliper", "arrow", "body-mark", "overlay")
AXILLA = "axilla"
"""Kind of the box around the word, which lies in a box of text too."""
_Found = list[tuple[str, shapes.Box]]


@dataclass(frozen=True)
class Mark:
    """A burnt-in mark; box in pixels of the image.

    Attributes:
        kind: "text", "caliper", "arrow", "body-mark" (outline of a breast with the probe's place) or
            "overlay" (frame, coloured box, bar or flow); "axilla" is the word where it can be read.
    """

    kind: str
    left: int
    top: int
    width: int
    height: int


def find_marks(colour: np.ndarray) -> tuple[Mark, ...]:
    """Marks of an image (H, W, 3), uint8, RGB, from top to bottom."""
    return examine(colour)[0]


def examine(colour: np.ndarray) -> tuple[tuple[Mark, ...], int]:
    """Marks of an image (H, W, 3), uint8, RGB, from top to bottom, and its clutter.

    What was drawn in one level is told exactly, on the image's own pixels. Where nothing was, or resizing has
    blurred it, text and crosses are looked for among all thin strokes.

    The clutter is how many marks the image seems to bear on thin strokes alone, at the working size, for choosing
    between copies of one picture: what is told exactly in one copy may be lost in a copy that was resized, which
    would pass for the cleaner one.
    """
    levels, difference = channel_maximum(colour), colour_difference(colour)
    at = drawn_levels(levels)
    strokes = drawn(levels, at) | coloured_strokes(difference, _COLOUR)
    found = _drawn_marks(strokes) if strokes.any() else []
    free = _outside([box for kind, box in found if kind != "overlay"], levels.shape)
    found += [("arrow", box) for box in shapes.arrows(levels, drawn(levels, at, _AREA) & free)] if at else []
    blurred, clutter = _blurred_marks(colour, exact=any(kind != "overlay" for kind, _ in found))
    found = _united(found, blurred)
    word = _axilla(colour, levels, strokes if at else None, found)
    if word:
        found = [*_united(found, [("text", word)]), (AXILLA, word)]
    marks = [Mark(kind, *box) for kind, box in found]
    return tuple(sorted(marks, key=lambda mark: (mark.top, mark.left, mark.kind))), clutter


def channel_maximum(colour: np.ndarray) -> np.ndarray:
    """Brightest channel of (H, W, 3), uint8; numpy's reduction over three values is many times slower."""
    red, green, blue = cv2.split(colour)
    return cv2.max(cv2.max(red, green), blue)


def colour_difference(colour: np.ndarray) -> np.ndarray:
    """Largest less smallest channel of (H, W, 3), uint8; 0 where grey."""
    red, green, blue = cv2.split(colour)
    return cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)


def _drawn_marks(strokes: np.ndarray) -> _Found:
    """Marks on a map of what was drawn; each kind is taken off the map before the next is looked for."""
    found: _Found = []
    for kind, look in (
        ("text", lambda rest: shapes.drawn_lines(rest, 3)),
        ("body-mark", shapes.body_marks),
    ):
        strokes = _taken(strokes, kind, look(strokes), found)
    sides = shapes.frame_sides(strokes)
    found += [("overlay", box) for box in shapes.frames(sides)]
    strokes = strokes & ~cv2.dilate(sides.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    for kind, look in (
        ("caliper", shapes.drawn_crosses),
        ("text", lambda rest: shapes.drawn_lines(rest, 2)),
    ):
        strokes = _taken(strokes, kind, look(strokes), found)
    return found


def _taken(strokes: np.ndarray, kind: str, boxes: list[shapes.Box], found: _Found) -> np.ndarray:
    """Notes marks in `found` and gives the map without them."""
    found += [(kind, box) for box in boxes]
    return strokes & _outside(boxes, strokes.shape)


def _blurred_marks(colour: np.ndarray, exact: bool) -> tuple[_Found, int]:
    """Text, crosses and colour, and their number; crosses only where nothing was told exactly (`exact`)."""
    levels, colour, scale = _shrunk(colour)
    strokes = thin_strokes(levels)
    text = shapes.text_lines(strokes)
    free = _outside(text, levels.shape)
    crosses, coloured = shapes.template_crosses(levels, strokes & free), _coloured(colour, free)
    clutter = len(text) + len(crosses) + len(coloured)
    even = shapes.even_lines(levels, strokes & free)
    found = [("text", box) for box in shapes.merged(text + even, 0)] + [("overlay", box) for box in coloured]
    if not exact:  # letters look like crosses
        found += [("caliper", box) for box in crosses if not any(shapes.overlaps(box, line) for line in even)]
    return [(kind, _enlarged(box, 1 / scale)) for kind, box in found], clutter


def _shrunk(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Levels and colour at the working size, and the factor that led there."""
    scale = min(1.0, _WORKING_SIDE / max(colour.shape[:2]))
    if scale < 1:
        colour = cv2.resize(colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return channel_maximum(colour), colour, scale


def _axilla(colour: np.ndarray, levels: np.ndarray, strokes: np.ndarray | None, found: _Found) -> shapes.Box | None:
    """Box of the word; looked for beside text and single characters, drawn (`strokes`) or blurred."""
    if strokes is not None:
        lines = [box for kind, box in found if kind == "text"]
        return find_axilla(levels, lines + shapes.characters(strokes))
    levels, _, scale = _shrunk(colour)
    box = find_axilla(levels, shapes.characters(thin_strokes(levels)))
    return _enlarged(box, 1 / scale) if box else None


def _united(known: _Found, more: _Found) -> _Found:
    """`known`, and what of `more` is not there yet; boxes of one line of text or one overlay become one."""
    found = list(known)
    for kind, box in more:
        same = [entry for entry in found if entry[0] == kind and shapes.overlaps(entry[1], box)]
        if kind == "text":  # letters look like crosses
            found = [entry for entry in found if entry[0] != "caliper" or not shapes.overlaps(entry[1], box)]
        elif not same and any(shapes.overlaps(other, box) for name, other in found if name != "overlay"):
            continue
        if kind in ("text", "overlay"):
            found = [entry for entry in found if entry not in same]
            found.append((kind, shapes.around([box, *(other for _, other in same)])))
        elif not same:
            found.append((kind, box))
    return found


def _outside(boxes: list[shapes.Box], shape: tuple[int, ...]) -> np.ndarray:
    free = np.ones(shape, bool)
    for left, top, width, height in boxes:
        free[top : top + height, left : left + width] = False
    return free


def _enlarged(box: shapes.Box, factor: float) -> shapes.Box:
    left, top, width, height = (round(side * factor) for side in box)
    return left, top, width, height


def _coloured(colour: np.ndarray, free: np.ndarray) -> list[shapes.Box]:
    """Boxes of coloured areas within `free`."""
    coloured = ((colour_difference(colour) > _COLOUR) & free).astype(np.uint8)
    closed = cv2.morphologyEx(coloured, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    return [(int(r[0]), int(r[1]), int(r[2]), int(r[3])) for r in stats[1:] if r[cv2.CC_STAT_AREA] >= 30]
