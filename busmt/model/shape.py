"""LesionShape: how large the predicted lesion is, which way it lies, and how sharp its outline is."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

FEATURES: int = 4
"""Size, orientation, compactness and margin."""
_SMALL = 1e-3
"""Added to shares of the image before a logarithm: a mask of nothing has a finite size."""
_TYPICAL = 0.05
"""Share of the image that counts as size 0."""


@keras.saving.register_keras_serializable(package="busmt")
class LesionShape(layers.Layer):
    """Four numbers that do not depend on grey levels, from the predicted mask, for the class head.

    With p the lesion probability of a pixel, S the side, and `(x, y)` the standard deviations of the positions
    weighted with p^2, in shares of S:

    1. size: `log((mean(p) + 0.001) / 0.05)`;
    2. orientation: `log((y + 0.01) / (x + 0.01))`, positive for a lesion that is taller than wide;
    3. compactness: half of `log((L^2 + 0.001) / (mean(p) + 0.001)) - log(4 pi)` with L the outline's length along the
       grid (total variation of p), in sides: about 0.24 for a disk, more for a lobed or frayed lesion;
    4. margin: `mean(p (1 - p)) / (mean(p) + 0.001)`, small for a sharp outline.

    These are the descriptors of BI-RADS (size, orientation, shape, margin) that a mask can tell, meant to hold where
    grey levels of another scanner mislead. Gradients do not flow into the mask: the class loss must not bend the
    outline.

    Input shape:
        mask logits (B, S, S, 1).

    Output shape:
        (B, 4).

    Example:
        >>> LesionShape()(ops.zeros((2, 16, 16, 1))).shape
        TensorShape([2, 4])
    """

    def call(self, logits: Any) -> Any:
        mask = ops.sigmoid(ops.stop_gradient(logits))
        height, width = logits.shape[1], logits.shape[2]
        area = ops.mean(mask, axis=(1, 2))
        tall, wide = (
            _spread(ops.mean(ops.square(mask), axis=other), side) for other, side in ((2, height), (1, width))
        )
        length = ops.mean(ops.abs(mask[:, 1:] - mask[:, :-1]), axis=(1, 2)) * (height - 1.0)
        length += ops.mean(ops.abs(mask[:, :, 1:] - mask[:, :, :-1]), axis=(1, 2)) * (width - 1.0)
        fuzzy = ops.mean(mask * (1.0 - mask), axis=(1, 2))
        return ops.concatenate(
            [
                ops.log((area + _SMALL) / _TYPICAL),
                ops.log((tall + 0.01) / (wide + 0.01)),
                0.5 * ops.log((ops.square(length) + _SMALL) / (area + _SMALL) / (4.0 * math.pi)),
                fuzzy / (area + _SMALL),
            ],
            axis=-1,
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0], FEATURES


def _spread(weights: Any, side: int) -> Any:
    """Standard deviation of the positions 0 to 1, weighted with (B, side, 1); (B, 1)."""
    places = (ops.arange(side, dtype=weights.dtype)[None, :, None] + 0.5) / side
    total = ops.sum(weights, axis=1) + 1e-6
    centre = ops.sum(weights * places, axis=1) / total
    return ops.sqrt(ops.sum(weights * ops.square(places - centre[:, None]), axis=1) / total + 1e-8)
