"""LesionShape against what scikit-image measures, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import regionprops

from busmt.model.shape import LesionShape

SIDE = 64


def ellipse(tall: float, wide: float, x: float = 31.5, y: float = 31.5) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 <= 1


def shape_of(mask: np.ndarray, certainty: float = 60.0) -> np.ndarray:
    logits = np.where(mask, certainty, -60.0).astype(np.float32)
    return np.asarray(LesionShape()(logits[None, ..., None]))[0]


@given(tall=st.floats(4, 28), wide=st.floats(4, 28))
def test_size_and_orientation_are_those_of_the_region(tall, wide):
    mask = ellipse(tall, wide)
    (region,) = regionprops(mask.astype(int))
    size, orientation, _, _ = shape_of(mask)
    assert size == pytest.approx(np.log((region.area / SIDE**2 + 1e-3) / 0.05), abs=1e-4)
    rows, columns = region.coords.std(axis=0) / SIDE
    assert orientation == pytest.approx(np.log((rows + 0.01) / (columns + 0.01)), abs=1e-3)


def test_a_frayed_lesion_is_less_compact_than_a_round_one_of_the_same_area():
    disk = ellipse(14, 14)
    frayed = disk.copy()
    frayed[::2, ::2] ^= ellipse(18, 18)[::2, ::2] & ~ellipse(10, 10)[::2, ::2]
    round_one, other = shape_of(disk)[2], shape_of(frayed)[2]
    assert round_one == pytest.approx(0.24, abs=0.05)
    assert other > round_one + 0.3


def test_a_doubtful_outline_is_a_wide_margin():
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = 15 - np.hypot(rows - 31.5, columns - 31.5)
    sharp, blurred = (
        np.asarray(LesionShape()((slope * distance).astype(np.float32)[None, ..., None]))[0, 3] for slope in (4.0, 0.3)
    )
    assert 0 < sharp < blurred < 1


def test_where_the_lesion_lies_does_not_matter():
    np.testing.assert_allclose(shape_of(ellipse(9, 14, 20, 22)), shape_of(ellipse(9, 14, 38, 36)), atol=1e-3)


@pytest.mark.parametrize("logit", [-1e4, -60.0, 0.0, 60.0, 1e4])
def test_masks_of_nothing_and_of_everything_have_finite_shapes(logit):
    shape = np.asarray(LesionShape()(np.full((2, SIDE, SIDE, 1), logit, np.float32)))
    assert np.isfinite(shape).all()
    assert np.abs(shape).max() < 10


def test_the_class_loss_does_not_bend_the_outline():
    logits = tf.random.stateless_normal((1, 16, 16, 1), (0, 1))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = tf.reduce_sum(LesionShape()(logits))
    into_logits = tape.gradient(value, logits)
    assert into_logits is None or not np.abs(into_logits).any()
