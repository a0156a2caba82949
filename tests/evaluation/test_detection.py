"""Matching of lesions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from busmt.evaluation.detection import component_iou, detect


def picture(*blocks):
    mask = np.zeros((40, 60), dtype=bool)
    for top, left, height, width in blocks:
        mask[top : top + height, left : left + width] = True
    return mask


EMPTY = picture()


def counts(truth, predicted, threshold):
    result = detect(truth, predicted, (threshold,))[threshold]
    return result.lesions, result.found, result.false_positives


def test_empty_masks():
    assert counts(EMPTY, EMPTY, 0.5) == (0, 0, 0)
    assert counts(picture((2, 2, 5, 5)), EMPTY, 0.5) == (1, 0, 0)
    assert counts(EMPTY, picture((2, 2, 5, 5), (20, 20, 3, 3)), 0.5) == (0, 0, 2)


def test_two_lesions_one_found_one_elsewhere():
    truth = picture((2, 2, 10, 10), (25, 40, 10, 10))
    predicted = picture((2, 2, 10, 8), (25, 5, 6, 6))
    assert counts(truth, predicted, 0.5) == (2, 1, 1)


def test_the_threshold_is_inclusive():
    truth, predicted = picture((0, 0, 10, 10)), picture((0, 0, 10, 5))
    assert component_iou(truth, predicted).tolist() == [[0.5]]
    assert counts(truth, predicted, 0.5) == (1, 1, 0)
    assert counts(truth, predicted, 0.51) == (1, 0, 1)


def test_one_mark_over_two_lesions_finds_one():
    truth = picture((0, 0, 10, 10), (0, 12, 10, 8))
    assert counts(truth, picture((0, 0, 10, 20)), 0.3) == (2, 1, 0)


def test_as_many_matches_as_possible():
    """Greedy by overlap would give lesion 1 the mark that lesion 2 needs."""
    truth = picture((0, 0, 10, 10), (0, 11, 10, 10))
    predicted = picture((0, 4, 10, 13))  # one component over both
    assert counts(truth, predicted, 0.3)[1] == 1
    assert counts(truth, predicted | picture((20, 0, 3, 3)), 0.3) == (2, 1, 1)


def test_diagonal_pixels_are_one_lesion():
    mask = np.eye(8, dtype=bool)
    assert counts(mask, mask, 0.5) == (1, 1, 0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="in \\(0, 1\\]"):
        detect(EMPTY, EMPTY, (0.0,))
    with pytest.raises(ValueError, match="one shape"):
        detect(EMPTY, EMPTY[1:])


@given(st.integers(0, 2**32 - 1))
def test_overlaps_equal_a_pixel_count(seed):
    generator = np.random.default_rng(seed)
    truth, predicted = (ndimage.gaussian_filter(generator.normal(size=(30, 30)), 2) > 0.1 for _ in range(2))
    overlaps = component_iou(truth, predicted)
    true_parts, lesions = ndimage.label(truth, np.ones((3, 3)))
    marked, marks = ndimage.label(predicted, np.ones((3, 3)))
    assert overlaps.shape == (lesions, marks)
    for row in range(lesions):
        for column in range(marks):
            one, other = true_parts == row + 1, marked == column + 1
            assert overlaps[row, column] == pytest.approx((one & other).sum() / (one | other).sum())
