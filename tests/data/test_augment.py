"""Augmentation: a pure function of its seed that moves image and mask together."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.config import AugmentConfig
from busmt.data.augment import augment

SIZE = 64
SEEDS = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
NOTHING = AugmentConfig(flip=False, rotation=0, scale=0, stretch=0, shift=0, gamma=0, contrast=0, brightness=0, noise=0)
GEOMETRY = dataclasses.replace(AugmentConfig(), gamma=0, contrast=0, brightness=0, noise=0)
STRONGEST = AugmentConfig(
    rotation=180, scale=0.9, stretch=0.5, shift=0.5, gamma=2, contrast=0.9, brightness=0.9, noise=1
)


@functools.cache
def compiled(config: AugmentConfig):
    return tf.function(lambda image, mask, seed: augment(image, mask, seed, config))


def apply(image, mask, seed, config):
    image, mask = compiled(config)(
        tf.constant(image, tf.float32), tf.constant(mask, tf.float32), tf.constant(seed, tf.int32)
    )
    return image.numpy(), mask.numpy()


def disc(row=32, column=32, radius=12):
    y, x = np.mgrid[:SIZE, :SIZE]
    return ((y - row) ** 2 + (x - column) ** 2 <= radius**2).astype(np.float32)[..., None]


def tissue(seed=0):
    """Grey levels in [0, 1] with zero rows above and below, as in a letterboxed image."""
    image = np.random.default_rng(seed).random((SIZE, SIZE, 1)).astype(np.float32)
    image[:10] = image[-10:] = 0
    return image


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_same_seed_gives_the_same_result(seed):
    first, second = (apply(tissue(), disc(), seed, AugmentConfig()) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_the_result_is_the_same_outside_a_graph_and_for_64_bit_seeds():
    image, mask = apply(tissue(), disc(), (3, -4), AugmentConfig())
    eager, eager_mask = augment(
        tf.constant(tissue()), tf.constant(disc()), tf.constant((3, -4), tf.int64), AugmentConfig()
    )
    np.testing.assert_allclose(eager.numpy(), image, atol=1e-6)
    assert np.array_equal(eager_mask.numpy(), mask)


def test_other_seeds_give_other_results():
    results = [apply(tissue(), disc(), (seed, 0), AugmentConfig())[0].tobytes() for seed in range(40)]
    assert len(set(results)) == 40


@given(SEEDS, st.integers(20, 44), st.integers(20, 44), st.integers(4, 16))
@settings(max_examples=60, deadline=None)
def test_image_and_mask_move_together(seed, row, column, radius):
    """The mask itself, drawn as a bright disc, lies in the image where the mask lies."""
    lesion = disc(row, column, radius)
    image, mask = apply(0.9 * lesion, lesion, seed, GEOMETRY)
    bright = image > 0.45
    total = bright.sum() + mask.sum()
    assert total == 0 or 2 * (bright * mask).sum() / total > 0.98
    assert mask.sum() > 0 or radius < 12


@given(SEEDS, st.sampled_from([AugmentConfig(), STRONGEST]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_ranges_shapes_and_types_are_kept(seed, config, number):
    image, mask = apply(tissue(number), disc(), seed, config)
    assert image.shape == mask.shape == (SIZE, SIZE, 1)
    assert image.dtype == mask.dtype == np.float32
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert set(np.unique(mask)) <= {0.0, 1.0}


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_without_any_strength_nothing_changes(seed):
    image, mask = apply(tissue(), disc(), seed, NOTHING)
    np.testing.assert_allclose(image, tissue(), atol=1e-6)
    assert np.array_equal(mask, disc())


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_an_empty_mask_stays_empty_and_grey_levels_do_not_move_the_mask(seed):
    grey_only = dataclasses.replace(NOTHING, gamma=0.5, contrast=0.3, brightness=0.3, noise=0.3)
    assert not apply(tissue(), np.zeros((SIZE, SIZE, 1)), seed, AugmentConfig())[1].any()
    assert np.array_equal(apply(tissue(), disc(), seed, grey_only)[1], disc())


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_padding_stays_black(seed):
    grey_only = dataclasses.replace(NOTHING, gamma=0.5, contrast=0.3, brightness=0.3, noise=0.3)
    image, _ = apply(tissue(), disc(), seed, grey_only)
    assert not image[:10].any()
    assert not image[-10:].any()


def test_a_flip_mirrors_left_and_right_exactly_in_about_half_of_the_cases():
    only_flip = dataclasses.replace(NOTHING, flip=True)
    lesion, mirrored = disc(30, 20, 7), 0
    for seed in range(200):
        image, mask = apply(tissue(), lesion, (seed, 1), only_flip)
        if not np.array_equal(mask, lesion):
            mirrored += 1
            np.testing.assert_allclose(image, tissue()[:, ::-1], atol=1e-6)
            assert np.array_equal(mask, lesion[:, ::-1])
    assert 75 <= mirrored <= 125


@pytest.mark.parametrize("config", [GEOMETRY, dataclasses.replace(GEOMETRY, scale=0.0, shift=0.0)])
def test_the_geometry_stays_within_its_limits(config):
    """Area within the squared scale, centre within the shift (of a centred disc, which rotation does not move)."""
    lesion, areas, shifts = disc(radius=10), [], []
    for seed in range(80):
        mask = apply(lesion, lesion, (seed, 2), config)[1][..., 0]
        areas.append(mask.sum() / lesion.sum())
        shifts.append(np.abs(np.argwhere(mask).mean(axis=0) - 31.75).max())
    limit = (1 + config.scale) ** 2
    assert max(areas) <= limit * 1.06
    assert min(areas) >= 0.94 / limit
    assert max(shifts) <= config.shift * SIZE * (1 + config.scale) * (1 + config.stretch) + 1.0
    if config.scale:
        assert max(areas) - min(areas) > 0.3
        assert max(shifts) > 0.5 * config.shift * SIZE


def test_the_rotation_stays_within_its_limit_and_reaches_both_sides():
    only_rotation = dataclasses.replace(NOTHING, rotation=30.0)
    arm, angles = disc(32, 54, 4), []
    for seed in range(60):
        row, column = np.argwhere(apply(arm, arm, (seed, 3), only_rotation)[1][..., 0]).mean(axis=0) - 31.5
        angles.append(np.degrees(np.arctan2(row, column)) - np.degrees(np.arctan2(0.5, 22.5)))
    assert max(angles) <= 31
    assert min(angles) >= -31
    assert max(angles) > 15
    assert min(angles) < -15
