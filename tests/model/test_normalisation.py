"""BatchNormalization against the layer of Keras that it stands for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from busmt.model.normalisation import BatchNormalization


def both(shape, **keywords):
    """Our layer and Keras', with the same weights; inputs and an upstream gradient."""
    draw = np.random.default_rng(0)
    inputs = tf.constant(draw.normal(3.0, 2.0, shape), tf.float32)
    pair = [
        layer(momentum=0.9, epsilon=1e-3, **keywords) for layer in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for layer in pair:
        layer.build(shape)
        layer.set_weights([np.linspace(low, high, shape[-1]) for low, high in ((0.5, 2), (-1, 1), (-2, 2), (0.5, 3))])
    return pair, inputs, tf.constant(draw.normal(size=shape), tf.float32)


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (1, 2, 2, 8), (2, 4, 4, 4, 3)])
def test_outputs_gradients_and_averages_are_those_of_keras(shape):
    pair, inputs, upstream = both(shape)
    found = []
    for layer in pair:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs, training=True)
        gradients = tape.gradient(output, [inputs, layer.gamma, layer.beta], output_gradients=upstream)
        found.append([output, *gradients, *layer.get_weights()])
    for own, other in zip(*found, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("trainable", [True, False])
def test_inference_is_that_of_keras_to_the_bit(trainable):
    pair, inputs, _ = both((4, 6, 5, 3), trainable=trainable)
    own, other = (np.asarray(layer(inputs, training=not trainable)) for layer in pair)
    np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(*(layer.moving_mean for layer in pair))


def test_a_batch_of_one_cell_keeps_its_averages_finite():
    layer = BatchNormalization()
    layer(np.ones((1, 1, 1, 2), np.float32), training=True)
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


def test_it_is_read_back_from_a_file(tmp_path):
    image = keras.Input((4, 4, 3))
    keras.Model(image, BatchNormalization()(image)).save(tmp_path / "model.keras")
    assert type(keras.models.load_model(tmp_path / "model.keras").layers[1]) is BatchNormalization
