"""Stateless augmentation of image and mask together: a pure function of its seed.

Graph code. The geometric part is one projective transform, so that image and mask are interpolated once.
"""

from __future__ import annotations

import math

import tensorflow as tf

from busmt.config import AugmentConfig

_DRAWS = 10


def augment(image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, config: AugmentConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Augment one sample.

    Args:
        image: (S, S, 1), float32, in [0, 1], zero where letterboxed.
        mask: (S, S, 1), float32, values {0, 1}.
        seed: (2,), int32 or int64; the same seed gives the same result.
        config: strengths.

    Returns:
        Image and mask of the same shapes, types and ranges.
    """
    draws = tf.unstack(_uniform(seed, _DRAWS))
    transform = _transform(draws, config, tf.cast(tf.shape(image)[0], tf.float32))
    image = _warp(image, transform)
    mask = tf.cast(_warp(mask, transform) >= 0.5, tf.float32)
    image = tf.pow(image, tf.exp(config.gamma * draws[7]))
    image = image * (1.0 + config.contrast * draws[8])
    image = tf.where(image > 0, image + config.brightness * draws[9], 0.0)
    return tf.clip_by_value(_speckle(image, seed, config.noise), 0.0, 1.0), mask


def _uniform(seed: tf.Tensor, count: int) -> tf.Tensor:
    """(count,), float32, in [-1, 1)."""
    return tf.random.stateless_uniform((count,), seed, -1.0, 1.0, alg="philox")


def _transform(draws: list[tf.Tensor], config: AugmentConfig, side: tf.Tensor) -> tf.Tensor:
    """Output-to-input projective transform (8,) about the image centre."""
    angle = draws[0] * (config.rotation * math.pi / 180.0)
    zoom = tf.exp(-draws[1] * math.log1p(config.scale))
    stretch = tf.exp(0.5 * draws[2] * math.log1p(config.stretch))
    mirror = tf.where(tf.logical_and(config.flip, draws[3] < 0.0), -1.0, 1.0)
    a, b = mirror * zoom * stretch * tf.cos(angle), -mirror * zoom * stretch * tf.sin(angle)
    c, d = zoom / stretch * tf.sin(angle), zoom / stretch * tf.cos(angle)
    centre = (side - 1.0) / 2.0
    shift_x = centre + config.shift * side * draws[4] - a * centre - b * centre
    shift_y = centre + config.shift * side * draws[5] - c * centre - d * centre
    zero = tf.zeros(())
    return tf.stack([a, b, shift_x, c, d, shift_y, zero, zero])


def _warp(image: tf.Tensor, transform: tf.Tensor) -> tf.Tensor:
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(warped[0], image.shape)


def _speckle(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Multiplicative noise whose strength is drawn too."""
    level = strength * tf.random.stateless_uniform((), seed + 1, alg="philox")
    return image * (1.0 + level * tf.random.stateless_normal(tf.shape(image), seed + 2, alg="philox"))
