"""BatchNormalization that trains fast on CPUs."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable(package="busmt")
class BatchNormalization(layers.BatchNormalization):
    """Keras' layer, with TensorFlow's fused kernel in training.

    Keras 3 builds the training step of this layer from elementwise operations, each of which reads and writes the
    whole tensor; the kernel that is made for it takes a fifth of the time, and a training step of our network three
    quarters (`benchmarks/batch_norm_cost.py`). Results are the same up to rounding; inference, saved weights and
    exports are those of the parent class. On other backends, whose compilers fuse by themselves, and for volumes, the
    parent class does it all.

    Input shape:
        (B, H, W, C), or (B, D, H, W, C).

    Output shape:
        As the input.

    Example:
        >>> BatchNormalization()(keras.ops.ones((1, 4, 4, 2)), training=True).shape
        TensorShape([1, 4, 4, 2])
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if not (training and self.trainable and mask is None and fusible(inputs)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        output, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        variance *= (count - 1.0) / count  # the kernel returns the unbiased one; Keras keeps the other
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return output


def fusible(inputs: Any) -> bool:
    """Whether TensorFlow's kernel does what the layer would."""
    return keras.backend.backend() == "tensorflow" and len(inputs.shape) == 4 and inputs.dtype == "float32"
