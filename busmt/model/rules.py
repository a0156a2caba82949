"""RuleRefinement: the two hard rules that make mask and class agree."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from busmt.model.refinement import LIMIT, MARGIN


@keras.saving.register_keras_serializable(package="busmt")
class RuleRefinement(layers.Layer):
    """The prediction refinement of Aumente-Maestro et al. (2025): two hard rules, in inference alone.

    The class normal empties the mask, and an empty mask makes the class normal; each rule looks at the other task
    as it was before refinement. In training both outputs are the plain sigmoid and softmax.

    The paper's rules act on decisions and say nothing about probabilities. Here, what a rule overturns is moved just
    across its threshold (`MARGIN` in logits), which decides as the rule does and keeps what the probabilities say
    about the order of the cases: set to 0 and 1 they would cost the AUROC.

    Weights: as of `busmt.model.refinement.ConsistencyRefinement`, `mask_offset` and `temperature`, not trainable.

    Input shape:
        A list `[mask_logits, label_logits]`: (B, S, S, 1) and (B, 3).

    Output shape:
        A tuple: lesion probability (B, S, S, 1) and class probabilities (B, 3).

    Example:
        >>> mask, label = RuleRefinement()([9 * ops.ones((1, 32, 32, 1)), ops.array([[9.0, 0.0, 0.0]])])
        >>> bool(ops.any(mask > 0.5)), int(ops.argmax(label[0]))
        (False, 0)
    """

    def build(self, input_shape: Any) -> None:
        self.mask_offset = self.add_weight(name="mask_offset", initializer="zeros", trainable=False)
        self.temperature = self.add_weight(name="temperature", initializer="ones", trainable=False)
        self.built = True

    def call(self, inputs: Any, training: Any = False) -> Any:
        mask, label = (ops.clip(tensor, -LIMIT, LIMIT) for tensor in inputs)
        mask, label = mask + self.mask_offset, label / self.temperature
        if not training:
            mask, label = self._apply(mask, label)
        return ops.sigmoid(mask), ops.softmax(label, axis=-1)

    def _apply(self, mask: Any, label: Any) -> Any:
        lesions = label[:, 1:]
        margin = ops.max(lesions, axis=-1, keepdims=True) - label[:, :1]
        pixel = ops.max(mask, axis=(1, 2), keepdims=True)
        present = ops.cast(margin > 0.0, mask.dtype) * ops.cast(pixel[:, 0, 0, :] > 0.0, mask.dtype)
        margin = present * ops.maximum(margin, MARGIN) + (1.0 - present) * ops.minimum(margin, -MARGIN)
        gate = present[:, :, None, None]
        # a kept mask is lifted only where its strongest pixel is within MARGIN of the threshold: rounding in an
        # export must not turn the decision in one output alone
        mask = mask + gate * ops.relu(MARGIN - pixel) - (1.0 - gate) * ops.relu(pixel + MARGIN)
        normal = ops.max(lesions, axis=-1, keepdims=True) - margin
        return mask, ops.concatenate([normal, lesions], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0]), tuple(input_shape[1])
