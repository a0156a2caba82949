"""Shapes among drawn strokes: lines of text, caliper crosses, arrows, body marks and frames. Boxes are (left, top,
width, height) in pixels of the stroke map."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Box = tuple[int, int, int, int]

_ARM = 5
"""Least arm of a drawn caliper cross, pixels."""
_CROSS_SCORE = 0.72
_FRAME = 40
"""Least length of a frame's straight side, pixels."""
_UPRIGHT = cv2.getStructuringElement(cv2.MORPH_CROSS, (5, 5))
_DIAGONAL = np.maximum(np.eye(5, dtype=np.uint8), np.eye(5, dtype=np.uint8)[::-1])
_TEXT_HEIGHTS = (6, 22)
_DRAWN_HEIGHTS = (8, 48)


def text_lines(strokes: np.ndarray) -> list[Box]:
    """Boxes of at least three characters of one height and baseline in a row, on a map that may hold tissue."""
    return [around(line) for line in _rows(_characters(strokes, _TEXT_HEIGHTS), _continues_exactly) if len(line) >= 3]


def even_lines(levels: np.ndarray, strokes: np.ndarray) -> list[Box]:
    """Boxes of at least two characters in a row that are even and sharp as echoes hardly are, such as "LT"."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    even = [
        _box(stats[number])
        for number in range(1, count)
        if 8 <= stats[number][cv2.CC_STAT_HEIGHT] <= _TEXT_HEIGHTS[1]
        and 3 <= stats[number][cv2.CC_STAT_WIDTH] <= 1.5 * stats[number][cv2.CC_STAT_HEIGHT]
        and stats[number][cv2.CC_STAT_AREA] >= 20
        and _is_even(levels, labels, number, _box(stats[number]))
    ]
    return [around(line) for line in _rows(sorted(even), _continues_exactly) if len(line) >= 2]


def drawn_lines(strokes: np.ndarray, least: int) -> list[Box]:
    """Boxes of at least `least` characters in a row, on a map of what was drawn, where two are proof enough."""
    characters = [box for box in _characters(strokes, _DRAWN_HEIGHTS) if _is_character(strokes, box)]
    return [around(line) for line in _rows(characters, _continues) if len(line) >= least]


def characters(strokes: np.ndarray) -> list[Box]:
    """Boxes of what may be single characters, 8 to 48 pixels tall and not much wider, well filled."""
    boxes = _characters(strokes, _DRAWN_HEIGHTS)
    return [box for box in boxes if box[2] <= 2 * box[3] and _is_character(strokes, box)]


def drawn_crosses(strokes: np.ndarray) -> list[Box]:
    """Boxes of upright and diagonal crosses on a map of what was drawn, exact to the pixel."""
    filled = cv2.morphologyEx(strokes.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    hits = np.zeros(strokes.shape, np.uint8)
    for diagonal in (False, True):
        rows, columns = np.nonzero(cv2.erode(filled, _DIAGONAL if diagonal else _UPRIGHT, borderValue=0))
        arms, fields = _cross_parts(filled, rows, columns, diagonal)
        # A number stands in one of the fields between the arms of most upright calipers.
        hit = (arms.min(axis=0) > 0.75) & ((fields < 0.35).sum(axis=0) >= (4 if diagonal else 3))
        hits[rows[hit], columns[hit]] = 1
    _, _, _, centres = cv2.connectedComponentsWithStats(cv2.dilate(hits, np.ones((5, 5), np.uint8)), connectivity=8)
    return _apart([_centred(round(column), round(row), 2 * _ARM + 5) for column, row in centres[1:]])


def template_crosses(levels: np.ndarray, strokes: np.ndarray) -> list[Box]:
    """Caliper crosses by correlation with templates, looked for where strokes are compact."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    found: list[tuple[float, Box]] = []
    for left, top, width, height, _ in stats[1:]:
        if 5 <= max(width, height) <= 40 and min(width, height) >= 4:
            patch = levels[max(0, top - 10) : top + height + 10, max(0, left - 10) : left + width + 10]
            score, (column, row), side, diagonal = max(
                (*_best_match(patch, template), template.shape[0], diagonal)
                for template, diagonal in _CROSSES
                if min(patch.shape) >= template.shape[0]
            )
            if score <= _CROSS_SCORE:
                continue
            centre = np.array([row + side // 2]), np.array([column + side // 2])
            arms, fields = _cross_parts(patch, *centre, diagonal)
            step = 0.5 * (arms.max() - fields.min())  # the bar of a T has no arm above it
            if (arms.min() - fields > step).sum() >= 3:
                box = (max(0, int(left) - 10) + column, max(0, int(top) - 10) + row, side, side)
                found.append((score, box))
    return _apart([box for _, box in sorted(found, key=lambda entry: (-entry[0], entry[1]))])


def frame_sides(strokes: np.ndarray) -> np.ndarray:
    """Long straight lines along the axes, (H, W), bool, on a map of what was drawn."""
    level, upright = (
        cv2.morphologyEx(strokes.astype(np.uint8), cv2.MORPH_OPEN, np.ones(size, np.uint8)) > 0
        for size in ((1, _FRAME), (_FRAME, 1))
    )
    return level | upright


def frames(sides: np.ndarray) -> list[Box]:
    """Boxes of frames, such as that of colour Doppler: at least two sides that meet in a corner.

    A single line is none: the transducer's face is one, along the image's upper edge.
    """
    joined = cv2.morphologyEx(sides.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    corners = [_box(row) for row in stats[1:] if min(row[cv2.CC_STAT_WIDTH], row[cv2.CC_STAT_HEIGHT]) >= _FRAME]
    return merged(corners, 4 * _FRAME)


def body_marks(strokes: np.ndarray) -> list[Box]:
    """Boxes of drawn outlines (a circle with its beam), on a map of what was drawn: large, thin, nearly empty."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    found = []
    for number in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[number])
        if min(width, height) < 14 or max(width, height) < 24 or area > 0.25 * width * height:
            continue
        part = (labels[top : top + height, left : left + width] == number).astype(np.uint8)
        depth = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, 3)
        if np.quantile(depth[depth > 0], 0.9) <= 1.5 and not _is_straight(part) and not _is_upright(part):
            found.append((left, top, width, height))
    return merged(found, 12)


def arrows(levels: np.ndarray, areas: np.ndarray) -> list[Box]:
    """Boxes of arrows: a shaft whose one end widens and then narrows to a tip, with a sharp edge all around.

    Args:
        levels: the image, (H, W), uint8.
        areas: map of what was drawn and of echoes of the same level, (H, W), bool.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(areas.astype(np.uint8), connectivity=8)
    found = []
    for number in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[number])
        if 14 <= max(width, height) <= 160 and area >= 30:
            part = labels[top : top + height, left : left + width] == number
            if _is_arrow(part) and _is_sharp(levels, labels == number):
                found.append((left, top, width, height))
    return found


def around(boxes: list[Box]) -> Box:
    """Smallest box that holds all of `boxes`."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def overlaps(first: Box, second: Box, margin: int = 0) -> bool:
    """Whether two boxes share a pixel when either is widened by `margin`."""
    return (
        first[0] - margin < second[0] + second[2]
        and second[0] - margin < first[0] + first[2]
        and first[1] - margin < second[1] + second[3]
        and second[1] - margin < first[1] + first[3]
    )


def merged(boxes: list[Box], margin: int) -> list[Box]:
    """Boxes that come within `margin` of each other, united."""
    kept: list[Box] = []
    for box in boxes:
        near = [other for other in kept if overlaps(box, other, margin)]
        kept = [other for other in kept if other not in near] + [around([box, *near])]
    return kept


def _characters(strokes: np.ndarray, heights: tuple[int, int]) -> list[Box]:
    _, _, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    return sorted(
        _box(row)
        for row in stats[1:]
        if heights[0] <= row[cv2.CC_STAT_HEIGHT] <= heights[1]
        and row[cv2.CC_STAT_AREA] >= 8
        and row[cv2.CC_STAT_WIDTH] <= 3 * row[cv2.CC_STAT_HEIGHT]  # letters may touch
    )


def _rows(characters: list[Box], continues: Callable[[Box, Box], bool]) -> list[list[Box]]:
    lines: list[list[Box]] = []
    for box in characters:
        line = next((line for line in lines if continues(line[-1], box)), None)
        if line is None:
            lines.append([box])
        else:
            line.append(box)
    return lines


def _continues_exactly(last: Box, box: Box) -> bool:
    """Same height and baseline within two pixels, at most two characters' width to the right."""
    return (
        abs(last[1] - box[1]) <= 2
        and abs(last[1] + last[3] - box[1] - box[3]) <= 2
        and 0 <= box[0] - (last[0] + last[2]) <= 1.2 * last[3]
    )


def _continues(last: Box, box: Box) -> bool:
    """Same baseline or same top, of a height that capitals and small letters have, a word's gap to the right."""
    tall = max(last[3], box[3])
    slack = max(1, round(0.1 * tall))
    aligned = abs(last[1] + last[3] - box[1] - box[3]) <= slack or abs(last[1] - box[1]) <= slack
    return aligned and min(last[3], box[3]) >= 0.6 * tall and -2 <= box[0] - (last[0] + last[2]) <= 1.1 * tall


def _is_character(strokes: np.ndarray, box: Box) -> bool:
    left, top, width, height = box
    fill = strokes[top : top + height, left : left + width].mean()
    return fill >= 0.25 and width >= 2


def _is_even(levels: np.ndarray, labels: np.ndarray, number: int, box: Box) -> bool:
    """Whether the brighter half of a component is of one level, and darker pixels surround it everywhere."""
    left, top, width, height = box
    rows = slice(max(0, top - 3), top + height + 3)
    columns = slice(max(0, left - 3), left + width + 3)
    part, patch = (labels[rows, columns] == number).astype(np.uint8), levels[rows, columns]
    values = np.sort(patch[part > 0])
    core = values[len(values) // 2 :]
    near = cv2.dilate(part, np.ones((3, 3), np.uint8))
    ring = (cv2.dilate(part, np.ones((5, 5), np.uint8)) > 0) & (near == 0)
    return bool(core.std() <= 14 and (patch[ring] < core.mean() - 50).mean() > 0.9)


def _is_straight(part: np.ndarray) -> bool:
    """Whether all pixels lie close to one line."""
    rows, columns = np.nonzero(part)
    points = np.stack([columns, rows], axis=1).astype(float)
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    return bool(spread[1] < 3.0)


def _is_sharp(levels: np.ndarray, part: np.ndarray) -> bool:
    """Whether the image falls by a drawn edge's step almost everywhere two pixels outside of `part`."""
    near = cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8))
    ring = (cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & (near == 0)
    return bool(ring.any() and (levels[ring] <= np.median(levels[part]) - 40).mean() >= 0.85)


def _is_upright(part: np.ndarray) -> bool:
    """Whether most pixels lie in runs along the axes, as in the rest of a frame."""
    runs = np.zeros(part.shape, np.uint8)
    for size in ((1, 10), (10, 1)):
        runs = np.maximum(runs, cv2.morphologyEx(part, cv2.MORPH_OPEN, np.ones(size, np.uint8)))
    return bool(runs.sum() > 0.6 * part.sum())


def _is_arrow(part: np.ndarray) -> bool:
    rows, columns = np.nonzero(part)
    points = np.stack([columns, rows], axis=1).astype(float)
    centred = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    along, across = centred @ axes[0], centred @ axes[1]
    length = np.ptp(along) + 1
    if length < 14 or np.ptp(across) > 0.9 * length:
        return False
    bins = np.minimum(((along - along.min()) / length * 12).astype(int), 11)
    low, high = np.full(12, np.inf), np.full(12, -np.inf)
    np.minimum.at(low, bins, across)
    np.maximum.at(high, bins, across)
    if not np.isfinite(low).all():  # broken: no shaft
        return False
    extents, middles = high - low + 1, (high + low) / 2
    if extents[:6].max() > extents[6:].max():
        extents, middles = extents[::-1], middles[::-1]
    peak = int(extents.argmax())
    shaft = extents[1 : max(2, peak - 1)]
    return bool(
        5 <= peak <= 10
        and shaft.max() <= 0.5 * extents[peak]
        and np.ptp(shaft) <= max(1.6, 0.5 * np.median(shaft))
        and extents[11] <= 0.55 * extents[peak]
        and np.all(np.diff(extents[peak:]) <= 1.0)
        and np.ptp(middles) <= 0.35 * extents[peak]
        and extents[peak] >= 6
    )


def _apart(boxes: list[Box]) -> list[Box]:
    kept: list[Box] = []
    for box in boxes:
        if all(abs(box[0] - other[0]) > 10 or abs(box[1] - other[1]) > 10 for other in kept):
            kept.append(box)
    return kept


def _box(row: np.ndarray) -> Box:
    """Box of a row of connected-component statistics."""
    left, top, width, height = (int(value) for value in row[:4])
    return left, top, width, height


def _best_match(patch: np.ndarray, template: np.ndarray) -> tuple[float, tuple[int, int]]:
    _, value, _, place = cv2.minMaxLoc(cv2.matchTemplate(patch, template, cv2.TM_CCOEFF_NORMED))
    return float(value), (int(place[0]), int(place[1]))


def _cross_parts(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, diagonal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Means over the four arms of crosses at places, and over the four fields between the arms: (4, N) each."""
    straight, tilted = ((1, 0), (0, 1), (-1, 0), (0, -1)), ((1, 1), (1, -1), (-1, -1), (-1, 1))
    along, between = (tilted, straight) if diagonal else (straight, tilted)
    padded = np.pad(values, _ARM).astype(np.float32)
    reach, away = (_ARM - 1, 4) if diagonal else (_ARM, 3)
    offsets = np.arange(1, reach + 1)
    around_it = np.mgrid[-1:2, -1:2].reshape(2, -1)
    arms = [_mean_at(padded, rows, columns, offsets * down, offsets * right) for down, right in along]
    fields = [
        _mean_at(padded, rows, columns, around_it[0] + away * down, around_it[1] + away * right)
        for down, right in between
    ]
    return np.array(arms), np.array(fields)


def _mean_at(
    padded: np.ndarray, rows: np.ndarray, columns: np.ndarray, down: np.ndarray, right: np.ndarray
) -> np.ndarray:
    return padded[rows[:, None] + down + _ARM, columns[:, None] + right + _ARM].mean(axis=1)


def _centred(column: int, row: int, side: int) -> Box:
    return max(0, column - side // 2), max(0, row - side // 2), side, side


def _cross(side: int, arm: int, width: int, diagonal: bool) -> np.ndarray:
    template = np.zeros((side, side), np.uint8)
    centre, reach = side // 2, arm
    ends = ((-reach, -reach, reach, reach), (-reach, reach, reach, -reach)) if diagonal else (
        (-reach, 0, reach, 0), (0, -reach, 0, reach))  # fmt: skip
    for x0, y0, x1, y1 in ends:
        cv2.line(template, (centre + x0, centre + y0), (centre + x1, centre + y1), 255, width)
    return template


_CROSSES = [
    (_cross(side, arm, width, diagonal), diagonal)
    for side, arm in ((13, 4), (17, 6))
    for width in (1, 2)
    for diagonal in (False, True)
]
