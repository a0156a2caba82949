"""AttentionGate: which skip features pass, decided by the coarser decoder signal."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="busmt")
class AttentionGate(layers.Layer):
    """Additive attention gate (Oktay et al., Attention U-Net, MIDL 2018, eqs. 1-2).

    With skip features x and a gating signal g of half the resolution:
    `q = psi(relu(W_x x + W_g g + b_g)) + b_psi`, `alpha = sigmoid(upsample(q))`, result `alpha * x`.
    W_x has stride 2, so that the coefficients are computed on the gate's grid, as in the paper.

    Args:
        filters: intermediate channels.

    Input shape:
        A list `[skip, gate]`: (B, 2H, 2W, C) and (B, H, W, G).

    Output shape:
        A tuple: gated skip features (B, 2H, 2W, C) and the coefficients (B, 2H, 2W, 1) in (0, 1).

    Example:
        >>> gated, alpha = AttentionGate(8)([ops.ones((1, 16, 16, 4)), ops.ones((1, 8, 8, 6))])
        >>> gated.shape, alpha.shape
        ((1, 16, 16, 4), (1, 16, 16, 1))
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.project_skip = layers.Conv2D(filters, 2, strides=2, use_bias=False, name="project_skip")
        self.project_gate = layers.Conv2D(filters, 1, name="project_gate")
        self.psi = layers.Conv2D(1, 1, name="psi")
        self.upsample = layers.UpSampling2D(2, interpolation="bilinear", name="upsample")

    def build(self, input_shape: Any) -> None:
        skip, gate = input_shape
        self.project_skip.build(skip)
        self.project_gate.build(gate)
        self.psi.build((*gate[:-1], self.filters))
        self.built = True

    def call(self, inputs: Any) -> Any:
        skip, gate = inputs
        mixed = ops.relu(self.project_skip(skip) + self.project_gate(gate))
        coefficients = ops.sigmoid(self.upsample(self.psi(mixed)))
        return skip * coefficients, coefficients

    def compute_output_shape(self, input_shape: Any) -> Any:
        skip = tuple(input_shape[0])
        return skip, (*skip[:-1], 1)

    def get_config(self) -> Any:
        return {**super().get_config(), "filters": self.filters}
