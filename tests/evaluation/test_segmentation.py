"""Overlap and surface measures against hand-computed cases and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import hausdorff_distance

from busmt.evaluation import segmentation as s


def block(shape, rows, columns):
    mask = np.zeros(shape, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


EMPTY = np.zeros((20, 30), dtype=bool)
SQUARE = block((20, 30), (5, 9), (5, 9))


@pytest.mark.parametrize(
    "predicted, dice, iou, sensitivity, precision",
    [
        (SQUARE, 1, 1, 1, 1),
        (block((20, 30), (5, 9), (7, 11)), 0.5, 1 / 3, 0.5, 0.5),  # half of each: 8 of 16 pixels
        (block((20, 30), (5, 9), (5, 13)), 2 / 3, 0.5, 1, 0.5),  # twice as wide
        (block((20, 30), (5, 7), (5, 7)), 0.4, 0.25, 0.25, 1),  # a quarter
        (block((20, 30), (12, 16), (20, 24)), 0, 0, 0, 0),  # elsewhere
    ],
)
def test_overlap_by_hand(predicted, dice, iou, sensitivity, precision):
    assert s.dice(SQUARE, predicted) == pytest.approx(dice)
    assert s.iou(SQUARE, predicted) == pytest.approx(iou)
    assert s.sensitivity(SQUARE, predicted) == pytest.approx(sensitivity)
    assert s.precision(SQUARE, predicted) == pytest.approx(precision)


@pytest.mark.parametrize(
    "truth, predicted, expected",
    [
        (EMPTY, EMPTY, {"dice": 1, "iou": 1, "sensitivity": None, "precision": None, "surface_dice": 1, "hd95_px": 0}),
        (SQUARE, EMPTY, {"dice": 0, "iou": 0, "sensitivity": 0, "precision": None, "surface_dice": 0, "hd95_px": None}),
        (EMPTY, SQUARE, {"dice": 0, "iou": 0, "sensitivity": None, "precision": 0, "surface_dice": 0, "hd95_px": None}),
    ],
)
def test_empty_masks(truth, predicted, expected):
    scores = s.score_mask(truth, predicted)
    for name, value in expected.items():
        assert np.isnan(scores[name]) if value is None else scores[name] == value, name
    assert np.array_equal(scores["asd_px"], scores["hd95_px"], equal_nan=True)
    assert np.isnan(scores["hd95_mm"])


def test_a_shift_moves_every_distance_by_hand():
    """A one-pixel-wide column shifted by 3: every surface pixel is 3 away."""
    truth, predicted = block((40, 40), (5, 35), (10, 11)), block((40, 40), (5, 35), (13, 14))
    assert s.hd95(truth, predicted) == 3
    assert s.average_surface_distance(truth, predicted) == 3
    assert s.surface_dice(truth, predicted, tolerance=2.9) == 0
    assert s.surface_dice(truth, predicted, tolerance=3.0) == 1


def test_spacing_is_rows_then_columns():
    truth, right = block((40, 40), (5, 35), (10, 11)), block((40, 40), (5, 35), (13, 14))
    assert s.hd95(truth, right, spacing=(0.1, 0.5)) == pytest.approx(1.5)
    assert s.hd95(truth.T, right.T, spacing=(0.1, 0.5)) == pytest.approx(0.3)
    scores = s.score_mask(truth, right, spacing_mm=(0.5, 0.5))
    assert scores["hd95_mm"] == pytest.approx(1.5)
    assert scores["asd_mm"] == pytest.approx(1.5)
    assert scores["surface_dice_mm"] == 0
    assert s.score_mask(truth, right, spacing_mm=(0.3, 0.3))["surface_dice_mm"] == 1


def test_percentile_ignores_one_far_pixel_and_the_maximum_does_not():
    truth = block((100, 100), (10, 60), (10, 60))
    predicted = truth.copy()
    predicted[95, 95] = True
    assert s.hd95(truth, predicted) == 0
    assert s.surface_distances(truth, predicted).percentile(100) == pytest.approx(np.hypot(36, 36))


def test_surface_of_a_mask_that_touches_the_edge_includes_the_edge():
    full = np.ones((4, 5), dtype=bool)
    assert len(s.surface_pixels(full)) == 4 * 5 - 2 * 3
    assert s.surface_pixels(block((9, 9), (4, 5), (6, 7))).tolist() == [[4, 6]]


def test_surface_of_a_ring_has_both_sides():
    ring = block((20, 20), (2, 18), (2, 18)) & ~block((20, 20), (6, 14), (6, 14))
    inner, outer = 4 * 8, 4 * 15  # four sides of the hole (diagonal neighbours do not count), outer frame
    assert len(s.surface_pixels(ring)) == inner + outer


def test_shapes_and_spacing_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        s.dice(EMPTY, EMPTY[:-1])
    with pytest.raises(ValueError, match="two positive numbers"):
        s.hd95(SQUARE, SQUARE, spacing=(1.0, 0.0))


blobs = st.integers(0, 2**32 - 1).map(
    lambda seed: ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(48, 40)), 4) > 0.02
)


@given(truth=blobs, predicted=blobs, spacing=st.tuples(st.floats(0.05, 3), st.floats(0.05, 3)))
def test_surface_measures_equal_distance_transforms(truth, predicted, spacing):
    """Another road to the same numbers: exact Euclidean distance transforms instead of k-d trees."""
    if not truth.any() or not predicted.any():
        return
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, predicted)]
    to_truth, to_predicted = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges)
    forth, back = to_predicted[edges[0]], to_truth[edges[1]]
    assert s.hd95(truth, predicted, spacing) == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
    both = np.concatenate((forth, back))
    assert s.average_surface_distance(truth, predicted, spacing) == pytest.approx(both.mean())
    tolerance = 1.7 + 1e-7  # off the grid of distances, where rounding decides
    assert s.surface_dice(truth, predicted, tolerance, spacing) == pytest.approx((both <= tolerance).mean())


@given(truth=blobs, predicted=blobs)
def test_the_maximum_equals_scikit_image(truth, predicted):
    if not truth.any() or not predicted.any():
        return
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, predicted)]
    assert s.surface_distances(truth, predicted).percentile(100) == pytest.approx(hausdorff_distance(*edges))


@given(truth=blobs, predicted=blobs)
def test_identities(truth, predicted):
    scores = s.score_mask(truth, predicted)
    swapped = s.score_mask(predicted, truth)
    assert scores["dice"] == pytest.approx(2 * scores["iou"] / (1 + scores["iou"]))
    for name in ("dice", "iou", "hd95_px", "asd_px", "surface_dice"):
        assert scores[name] == pytest.approx(swapped[name], nan_ok=True)
    if truth.any() and predicted.any():
        assert scores["sensitivity"] == pytest.approx(swapped["precision"])
        assert scores["asd_px"] <= s.surface_distances(truth, predicted).percentile(100)


@pytest.mark.real_data
def test_real_lesions_equal_distance_transforms(busi_dir):
    """Real outlines against themselves shifted, shrunk and grown, at the images' own size."""
    from busmt.data.cohorts import read_busi

    catalog = read_busi(busi_dir)
    lesions = [sample for sample in catalog if sample.label != "normal"]
    for number, sample in enumerate(lesions[::40]):
        truth = sample.read_mask()
        changed = (np.roll(truth, 9, axis=1), ndimage.binary_erosion(truth, iterations=4), truth & False)[number % 3]
        scores = s.score_mask(truth, changed)
        if not changed.any():
            assert (scores["dice"], scores["surface_dice"]) == (0, 0)
            continue
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, changed)]
        to_truth, to_changed = (ndimage.distance_transform_edt(~edge) for edge in edges)
        forth, back = to_changed[edges[0]], to_truth[edges[1]]
        assert scores["hd95_px"] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
        assert scores["asd_px"] == pytest.approx(np.concatenate((forth, back)).mean())
