"""Losses against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.model.losses import (
    MASK_LOSSES,
    dice_bce,
    focal_tversky,
    label_cross_entropy,
    label_focal,
    logits_of,
    outline,
    squared_dice,
)


def images(*rows):
    """2x2 images."""
    return np.array(rows, np.float32).reshape(-1, 2, 2, 1)


def logit(p):
    return math.log(p / (1 - p))


TRUTH = images([1, 1, 0, 0])
LOGITS = images([logit(0.9), logit(0.6), logit(0.2), logit(0.5)])
CROSS_ENTROPY = -(math.log(0.9) + math.log(0.6) + math.log(0.8) + math.log(0.5)) / 4


def test_dice_plus_cross_entropy_by_hand():
    dice = 1 - (2 * (0.9 + 0.6) + 1) / (2 + 0.9 + 0.6 + 0.2 + 0.5 + 1)
    assert float(dice_bce(TRUTH, LOGITS)[0]) == pytest.approx(dice + CROSS_ENTROPY, rel=1e-5)


def test_focal_tversky_by_hand():
    """alpha 0.7 for what is missed, beta 0.3 for what is too much, exponent 3/4."""
    index = (1.5 + 1) / (1.5 + 0.7 * (0.1 + 0.4) + 0.3 * (0.2 + 0.5) + 1)
    assert float(focal_tversky(TRUTH, LOGITS)[0]) == pytest.approx((1 - index) ** 0.75, rel=1e-5)


def test_squared_dice_by_hand():
    value = 1 - (2 * (0.9 + 0.6) + 1) / (2 + 0.81 + 0.36 + 0.04 + 0.25 + 1)
    assert float(squared_dice(TRUTH, LOGITS)[0]) == pytest.approx(value, rel=1e-5)
    empty = 1 - 1 / (0.81 + 0.36 + 0.04 + 0.25 + 1)
    assert float(squared_dice(0 * TRUTH, LOGITS)[0]) == pytest.approx(empty, rel=1e-5)


def test_focal_loss_by_hand():
    probabilities, truth = np.array([[0.2, 0.5, 0.3]], np.float32), np.array([[0, 1, 0]], np.float32)
    assert float(label_focal(truth, probabilities)[0]) == pytest.approx(-0.25 * math.log(0.5), rel=1e-5)


def test_the_outline_is_the_band_along_the_edge():
    truth = np.zeros((1, 9, 9, 1), np.float32)
    truth[0, 2:7, 2:7] = 1
    band = np.asarray(outline(truth))[0, ..., 0]
    expected = np.zeros((9, 9))
    expected[1:8, 1:8] = 1
    expected[3:6, 3:6] = 0
    assert np.array_equal(band, expected)
    assert not np.asarray(outline(0 * truth)).any()
    cube = np.zeros((1, 8, 8, 8, 1), np.float32)
    cube[0, 2:6, 2:6, 2:6] = 1
    assert np.asarray(outline(cube)).sum() == 6**3 - 2**3


@pytest.mark.parametrize("loss", [dice_bce, focal_tversky])
def test_an_empty_truth_is_scored_by_cross_entropy_alone(loss):
    value = loss(images([0, 0, 0, 0]), LOGITS)
    expected = -(math.log(0.1) + math.log(0.4) + math.log(0.8) + math.log(0.5)) / 4
    assert float(value[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", MASK_LOSSES.values(), ids=list(MASK_LOSSES))
def test_a_perfect_mask_costs_nothing_and_an_inverted_one_much(loss):
    truth = images([1, 1, 0, 0], [0, 0, 0, 0])
    right, wrong = loss(truth, 100 * truth - 50), loss(truth, 50 - 100 * truth)
    assert np.abs(right).max() < 1e-3
    assert (np.asarray(wrong) > 0.5).all()


@pytest.mark.parametrize("loss", MASK_LOSSES.values(), ids=list(MASK_LOSSES))
def test_each_image_has_its_own_value(loss):
    truth, logits = np.concatenate([TRUTH, 0 * TRUTH, 1 - TRUTH]), np.concatenate([LOGITS, LOGITS, 2 * LOGITS])
    together = loss(truth, logits)
    assert together.shape == (3,)
    alone = [float(loss(truth[i : i + 1], logits[i : i + 1])[0]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("loss", MASK_LOSSES.values(), ids=list(MASK_LOSSES))
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 50), share=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_values_and_gradients_are_finite_and_point_to_the_truth(loss, seed, scale, share):
    generator = np.random.default_rng(seed)
    truth = (generator.random((2, 4, 4, 1)) < share).astype(np.float32)
    logits = tf.constant(np.clip(generator.normal(0, scale, (2, 4, 4, 1)), -50, 50).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(truth, logits)
    gradient = tape.gradient(value, logits).numpy()
    assert np.isfinite(value).all()
    assert (np.asarray(value) >= -1e-6).all()
    assert np.isfinite(gradient).all()
    assert (gradient[truth == 1] <= 1e-6).all()
    assert (gradient[truth == 0] >= -1e-6).all()


def test_class_cross_entropy_by_hand():
    probabilities = np.array([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]], np.float32)
    truth = np.eye(3, dtype=np.float32)[[1, 0]]
    np.testing.assert_allclose(label_cross_entropy(truth, probabilities), [-math.log(0.5), -math.log(0.7)], rtol=1e-6)
    smoothed = label_cross_entropy(truth, probabilities, 0.3)
    by_hand = -(0.8 * math.log(0.5) + 0.1 * math.log(0.2) + 0.1 * math.log(0.3))
    assert float(smoothed[0]) == pytest.approx(by_hand, rel=1e-6)


def test_a_class_probability_of_zero_costs_much_but_stays_finite():
    value = label_cross_entropy(np.array([[1.0, 0, 0]], np.float32), np.array([[0.0, 1, 0]], np.float32))
    assert float(value[0]) == pytest.approx(-math.log(1e-6), rel=1e-4)


def test_logits_of_inverts_the_sigmoid_and_stays_finite():
    logits = np.linspace(-12, 12, 49).astype(np.float32)
    np.testing.assert_allclose(logits_of(1 / (1 + np.exp(-logits))), logits, atol=0.05)
    assert np.isfinite(logits_of(np.array([0.0, 1.0], np.float32))).all()
