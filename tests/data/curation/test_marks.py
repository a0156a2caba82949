"""Burnt-in marks: found where they were drawn, and not on plain scans."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from busmt.data import images
from busmt.data.cohorts import read_cohort
from busmt.data.curation.marks import examine, find_marks
from busmt.data.curation.rules import axilla_list


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


def drawn(scan, seed: int, *strokes) -> np.ndarray:
    """A dim scan with marks in one level below saturation, as a scanner's software draws them."""
    image = scan(seed, (400, 500)) // 3
    for draw in strokes:
        draw(image)
    return coloured(image)


def kinds(image: np.ndarray) -> list[str]:
    return [mark.kind for mark in find_marks(image)]


def test_two_letters_are_text_and_no_caliper(scan):
    image = drawn(scan, 1, lambda i: cv2.putText(i, "LT", (60, 340), cv2.FONT_HERSHEY_DUPLEX, 0.7, 226, 2))
    assert kinds(image) == ["text"]


@pytest.mark.parametrize("turned", [0, 1, 2, 3])
def test_an_arrow_is_told_from_text_in_every_direction(scan, turned):
    def arrow(image):
        ends = [((200, 200), (250, 200)), ((200, 200), (200, 250)), ((250, 200), (200, 200)), ((240, 240), (205, 205))]
        start, tip = (np.array(end) for end in ends[turned])
        along = (tip - start) / np.linalg.norm(tip - start)
        across = np.array([-along[1], along[0]])
        neck = tip - 14 * along
        cv2.line(image, start.tolist(), np.round(neck).astype(int).tolist(), 226, 3)
        head = np.round([tip, neck + 8 * across, neck - 8 * across]).astype(np.int32)
        cv2.fillPoly(image, [head], 226)

    (mark,) = find_marks(drawn(scan, 2, arrow))
    assert mark.kind == "arrow"
    assert abs(mark.left - 200) < 12
    assert abs(mark.top - 200) < 16


def test_a_body_mark_is_its_own_kind(scan):
    def body(image):
        cv2.circle(image, (430, 330), 40, 226, 1)
        cv2.line(image, (430, 290), (430, 370), 226, 1)
        cv2.line(image, (390, 330), (470, 330), 226, 1)

    (mark,) = find_marks(drawn(scan, 3, body))
    assert (mark.kind, mark.left, mark.top) == ("body-mark", 390, 290)


def test_a_frame_is_an_overlay_and_the_calipers_in_it_stay_calipers(scan):
    def frame(image):
        cv2.rectangle(image, (100, 100), (300, 250), 226, 1)
        for place in ((150, 170), (240, 180)):
            cv2.drawMarker(image, place, 226, cv2.MARKER_CROSS, 15, 2)

    assert sorted(kinds(drawn(scan, 4, frame))) == ["caliper", "caliper", "overlay"]


@pytest.mark.parametrize(
    "word, read", [("RT AXILLA", True), ("lt axilla", True), ("LEFT BREAST", False), ("LT LOQ", False)]
)
def test_the_word_axilla_is_read_and_no_other(scan, word, read):
    """Drawn by Pillow, because OpenCV's letters differ from version to version."""
    font = ImageFont.load_default(20)
    picture = Image.fromarray(drawn(scan, 5))
    ImageDraw.Draw(picture).text((60, 322), word, fill=(226, 226, 226), font=font)
    image = np.asarray(picture)
    found = [mark for mark in find_marks(image) if mark.kind == "axilla"]
    assert len(found) == read
    for mark in found:
        assert mark.left > 75
        assert mark.top < 335 < mark.top + mark.height + 6


def test_clutter_is_the_same_in_a_resized_copy(scan):
    image = drawn(
        scan, 6, *(lambda i, p=p: cv2.drawMarker(i, p, 226, cv2.MARKER_CROSS, 15, 2) for p in ((90, 80), (300, 200)))
    )
    small = cv2.resize(image, None, fx=0.85, fy=0.85, interpolation=cv2.INTER_AREA)
    assert examine(image)[1] == examine(small)[1] == 2


@pytest.mark.real_data
def test_busi_axilla_is_read_from_the_pixels(busi_dir):
    cohort = read_cohort(busi_dir)
    listed = sorted(axilla_list())
    others = [name for name in cohort.ids if name not in axilla_list()][::12]
    read = {
        sample.image_id
        for sample in cohort.select([*listed, *others])
        if any(mark.kind == "axilla" for mark in find_marks(images.read_colour(sample.image)))
    }
    assert len(read & set(listed)) >= 25
    assert not read - set(listed)
