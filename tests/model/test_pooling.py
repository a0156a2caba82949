"""LesionPooling against sums in numpy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from busmt.model.pooling import LesionPooling


def test_features_inside_and_at_the_rim():
    """A certain 8x8 square on a 16x16 grid is a 4x4 square among 8x8 cells; its rim is one cell wide."""
    features = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
    logits = np.full((1, 16, 16, 1), -60.0, np.float32)
    logits[:, 4:12, 4:12] = 60.0
    inside, rim, area, peak = np.asarray(LesionPooling()([features, logits]))[0]
    square, grown = features[0, 2:6, 2:6, 0], features[0, 1:7, 1:7, 0]
    assert inside == pytest.approx(square.sum() / (16 + 1), rel=1e-5)
    assert rim == pytest.approx((grown.sum() - square.sum()) / (20 + 1), rel=1e-5)
    assert area == pytest.approx(16 / 64)
    assert peak == pytest.approx(1.0)


def test_an_empty_mask_gives_nothing_and_no_division_by_zero():
    pooled = np.asarray(LesionPooling()([np.ones((2, 4, 4, 3), np.float32), np.full((2, 8, 8, 1), -1e4, np.float32)]))
    np.testing.assert_allclose(pooled, 0, atol=1e-6)


def test_the_class_loss_does_not_bend_the_outline():
    features, logits = tf.ones((1, 4, 4, 3)), tf.zeros((1, 8, 8, 1))
    with tf.GradientTape() as tape:
        tape.watch([features, logits])
        value = tf.reduce_sum(LesionPooling()([features, logits]))
    into_features, into_logits = tape.gradient(value, [features, logits])
    assert np.abs(into_features).max() > 0
    assert into_logits is None or not np.abs(into_logits).any()


def test_config_round_trip_and_shapes():
    layer = LesionPooling(rim=2)
    assert LesionPooling.from_config(layer.get_config()).rim == 2
    pooled = layer([keras.KerasTensor((None, 8, 8, 5)), keras.KerasTensor((None, 32, 32, 1))])
    assert pooled.shape == (None, 12)
    assert layer([np.ones((3, 8, 8, 5), np.float32), np.ones((3, 8, 8, 1), np.float32)]).shape == (3, 12)
