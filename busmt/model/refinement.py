"""ConsistencyRefinement: mask and class exchange evidence and end in agreement."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

LIMIT = 50.0
"""Logits are clipped to +-LIMIT, so that no later sum loses the margin to rounding."""
MARGIN = 0.08
"""Distance of a decision from its threshold in logits: 0.02 in probability, more than int8 rounds away."""


@keras.saving.register_keras_serializable(package="busmt")
class ConsistencyRefinement(layers.Layer):
    """Fuse "is there a lesion" from both tasks, update both outputs, and make them agree.

    Let m be the mask logits and l the class logits (normal, benign, malignant).

    1. The mask's evidence is e = max over windows of the mean of m in the window: the strongest patch,
       not the strongest pixel. The class's own margin is d0 = max(l_benign, l_malignant) - l_normal.
    2. The fused margin is d = d0 + a * clip(e) + b; the normal logit is moved so that the class
       margin is d. Benign against malignant stays as the class head says.
    3. The mask is moved by what the class adds: m + c * tanh(d / 4).
    4. In inference the sign of d decides, once, for both outputs. d > 0 (a lesion): a mask that is nowhere
       above the threshold is raised until its strongest patch is. d <= 0 (normal): the mask is lowered
       until no pixel is above the threshold. d is kept MARGIN away from 0.

    So, in inference, for every input: the class is normal <=> the mask thresholded at 0.5 is empty. a, b
    and c are learned; a and c stay positive. In training steps 1-3 alone apply, which are differentiable.

    Two non-trainable weights hold what is fitted on validation data: `mask_offset`, added to the mask
    logits (a threshold t becomes 0.5 with offset -logit(t)), and `temperature`, which divides the fused class logits
    (Guo et al., ICML 2017).

    Args:
        exchange: False leaves out steps 1-4: plain sigmoid and softmax, for ablations.
        window: side of the window, pixels.

    Input shape:
        A list `[mask_logits, label_logits]`: (B, S, S, 1) and (B, 3).

    Output shape:
        A tuple: lesion probability (B, S, S, 1) and class probabilities (B, 3).

    Example:
        >>> mask, label = ConsistencyRefinement()([-9 * ops.ones((1, 32, 32, 1)), ops.array([[0.0, 9.0, 0.0]])])
        >>> bool(ops.any(mask > 0.5)) == bool(ops.argmax(label[0]) != 0)
        True
    """

    def __init__(self, exchange: bool = True, window: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.exchange = exchange
        self.window = window

    def build(self, input_shape: Any) -> None:
        self.mask_offset = self.add_weight(name="mask_offset", initializer="zeros", trainable=False)
        self.temperature = self.add_weight(name="temperature", initializer="ones", trainable=False)
        if self.exchange:
            start = keras.initializers.Constant(-1.0)  # softplus(-1) = 0.31
            self.mask_to_class = self.add_weight(name="mask_to_class", initializer=start)
            self.bias = self.add_weight(name="bias", initializer="zeros")
            self.class_to_mask = self.add_weight(name="class_to_mask", initializer=start)
        self.built = True

    def call(self, inputs: Any, training: Any = False) -> Any:
        mask, label = (ops.clip(tensor, -LIMIT, LIMIT) for tensor in inputs)
        if self.exchange:
            margin = ops.max(label[:, 1:], axis=-1, keepdims=True) - label[:, :1] + self._evidence(mask)
            mask = mask + self.mask_offset + ops.softplus(self.class_to_mask) * ops.tanh(margin / 4.0)[:, :, None, None]
            margin, lesions = margin / self.temperature, label[:, 1:] / self.temperature
            if not training:
                margin, mask = self._decide(margin, mask)
            normal = ops.max(lesions, axis=-1, keepdims=True) - margin
            label = ops.concatenate([normal, lesions], axis=-1)
        else:
            mask, label = mask + self.mask_offset, label / self.temperature
        return ops.sigmoid(mask), ops.softmax(label, axis=-1)

    def _evidence(self, mask: Any) -> Any:
        strongest = ops.max(self._patches(mask), axis=(1, 2))
        return ops.softplus(self.mask_to_class) * ops.clip(strongest, -8.0, 8.0) + self.bias

    def _decide(self, margin: Any, mask: Any) -> Any:
        present = ops.cast(margin > 0.0, mask.dtype)
        margin = present * ops.maximum(margin, MARGIN) + (1.0 - present) * ops.minimum(margin, -MARGIN)
        patch = ops.max(self._patches(mask), axis=(1, 2), keepdims=True)
        pixel = ops.max(mask, axis=(1, 2), keepdims=True)
        # a patch's mean is at most its largest pixel, so raising the mean raises a pixel; the pixel
        # itself is used where the mean, through rounding, would not do
        lift = ops.relu(MARGIN - ops.minimum(patch, pixel)) * ops.cast(pixel < MARGIN, mask.dtype)
        drop = ops.relu(pixel + MARGIN)
        gate = present[:, :, None, None]
        return margin, mask + gate * lift - (1.0 - gate) * drop

    def _patches(self, mask: Any) -> Any:
        side = min(self.window, mask.shape[1], mask.shape[2])
        return ops.average_pool(mask, side, strides=max(1, side // 2), padding="valid")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0]), tuple(input_shape[1])

    def get_config(self) -> Any:
        return {**super().get_config(), "exchange": self.exchange, "window": self.window}
