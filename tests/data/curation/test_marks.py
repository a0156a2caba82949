"""Burnt-in marks: found where they were drawn, and not on plain scans."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from busmt.data.curation.marks import find_marks


def coloured(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.mark.parametrize("seed", range(6))
def test_a_plain_scan_has_no_marks(scan, seed):
    assert find_marks(coloured(scan(seed, (400, 500)) // 2)) == ()


def test_text_is_found_where_it_stands(scan):
    image = scan(1, (400, 500)) // 2
    cv2.putText(image, "LEFT BREAST", (60, 340), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    (mark,) = find_marks(coloured(image))
    assert mark.kind == "text"
    assert abs(mark.left - 60) < 15
    assert mark.top < 340 < mark.top + mark.height + 6
    assert mark.width > 60


def test_calipers_are_found(scan):
    image = scan(2, (400, 500)) // 3
    for place in ((120, 150), (300, 210)):
        cv2.drawMarker(image, place, 255, cv2.MARKER_CROSS, 13, 1)
    marks = find_marks(coloured(image))
    assert [mark.kind for mark in marks] == ["caliper", "caliper"]
    assert abs(marks[0].left + marks[0].width / 2 - 120) < 4


def test_colour_is_an_overlay_with_boxes_in_pixels_of_a_large_image(scan):
    image = coloured(scan(3, (800, 1000)) // 2)
    image[100:160, 600:700] = (220, 40, 20)
    (mark,) = find_marks(image)
    assert mark.kind == "overlay"
    assert (abs(mark.left - 600) < 8, abs(mark.top - 100) < 8, abs(mark.width - 100) < 16) == (True, True, True)
