"""LesionPooling: what the features look like inside the predicted lesion and at its rim."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="busmt")
class LesionPooling(layers.Layer):
    """Mean features under the predicted mask and under the rim around it.

    The mask is averaged down to the features' grid; the rim is its dilation less the mask. Gradients do
    not flow into the mask: the class loss must not bend the outline.

    Args:
        rim: width of the rim, cells of the features' grid.

    Input shape:
        A list `[features, mask_logits]`: (B, H, W, C) and (B, kH, kW, 1) with a whole number k.

    Output shape:
        (B, 2 C + 2): features inside, features at the rim, the mask's area share and its largest value.

    Example:
        >>> LesionPooling()([ops.ones((2, 8, 8, 3)), ops.zeros((2, 16, 16, 1))]).shape
        (2, 8)
    """

    def __init__(self, rim: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rim = rim

    def call(self, inputs: Any) -> Any:
        features, logits = inputs
        mask = ops.sigmoid(ops.stop_gradient(logits))
        factor = logits.shape[1] // features.shape[1]
        if factor > 1:
            mask = ops.average_pool(mask, factor, strides=factor)  # without strides, Keras 3.15 fails on JAX
        spread = ops.max_pool(mask, 2 * self.rim + 1, strides=1, padding="same")
        area = ops.mean(mask, axis=(1, 2))
        peak = ops.max(mask, axis=(1, 2))
        return ops.concatenate([_mean(features, mask), _mean(features, spread - mask), area, peak], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0][0], 2 * input_shape[0][-1] + 2

    def get_config(self) -> Any:
        return {**super().get_config(), "rim": self.rim}


def _mean(features: Any, weights: Any) -> Any:
    return ops.sum(features * weights, axis=(1, 2)) / (ops.sum(weights, axis=(1, 2)) + 1.0)
