"""AttentionGate against the paper's equations in numpy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from busmt.model.attention import AttentionGate


def upsampled(coarse):
    """Bilinear by 2 with half-pixel centres, edges repeated: weights 3/4 and 1/4."""
    for axis in (1, 2):
        before = np.concatenate([coarse.take([0], axis), coarse], axis).take(range(coarse.shape[axis]), axis)
        after = np.concatenate([coarse, coarse.take([-1], axis)], axis).take(range(1, coarse.shape[axis] + 1), axis)
        pair = np.stack([0.25 * before + 0.75 * coarse, 0.75 * coarse + 0.25 * after], axis + 1)
        shape = list(coarse.shape)
        shape[axis] *= 2
        coarse = pair.reshape(shape)
    return coarse


def by_hand(gate, skip, signal):
    """q = psi(relu(W_x x + W_g g + b_g)) + b_psi; alpha = sigmoid(upsample(q)); alpha * x."""
    kernel_x, kernel_g, bias_g, kernel_psi, bias_psi = gate.get_weights()
    batch, height, width, channels = skip.shape
    blocks = skip.reshape(batch, height // 2, 2, width // 2, 2, channels)
    projected = np.einsum("nhiwjc,ijcf->nhwf", blocks, kernel_x) + signal @ kernel_g[0, 0] + bias_g
    q = np.maximum(projected, 0) @ kernel_psi[0, 0] + bias_psi
    alpha = 1 / (1 + np.exp(-upsampled(q)))
    return skip * alpha, alpha


@pytest.mark.parametrize(("shape", "filters"), [((4, 6), 8), ((1, 1), 3), ((5, 2), 1)])
def test_it_computes_the_papers_equations(shape, filters):
    generator = np.random.default_rng(0)
    skip = generator.normal(size=(2, 2 * shape[0], 2 * shape[1], 5)).astype(np.float32)
    signal = generator.normal(size=(2, *shape, 7)).astype(np.float32)
    gate = AttentionGate(filters)
    gate([skip, signal])
    gate.set_weights([generator.normal(size=weight.shape) for weight in gate.get_weights()])
    gated, alpha = gate([skip, signal])
    expected, expected_alpha = by_hand(gate, skip, signal)
    np.testing.assert_allclose(alpha, expected_alpha, atol=1e-5)
    np.testing.assert_allclose(gated, expected, atol=1e-5)


def test_coefficients_are_shared_by_all_channels_and_lie_between_0_and_1():
    generator = np.random.default_rng(1)
    skip = generator.normal(0, 9, (1, 8, 8, 4)).astype(np.float32)
    gated, alpha = AttentionGate(6)([skip, generator.normal(0, 9, (1, 4, 4, 3)).astype(np.float32)])
    assert (np.asarray(alpha) > 0).all()
    assert (np.asarray(alpha) <= 1).all()  # may round to it
    np.testing.assert_allclose(np.asarray(gated) / skip, np.broadcast_to(alpha, skip.shape), rtol=1e-4)


def test_a_closed_and_an_open_gate():
    skip, signal = np.ones((1, 4, 4, 2), np.float32), np.ones((1, 2, 2, 2), np.float32)
    gate = AttentionGate(2)
    gate([skip, signal])
    for bias, passed in ((-40.0, 0.0), (40.0, 1.0)):
        gate.set_weights([np.zeros(weight.shape) for weight in gate.get_weights()[:-1]] + [np.array([bias])])
        np.testing.assert_allclose(gate([skip, signal])[0], passed * skip, atol=1e-6)


def test_config_round_trip_and_symbolic_shapes():
    gate = AttentionGate(6, name="gate3")
    again = AttentionGate.from_config(gate.get_config())
    assert again.get_config() == gate.get_config()
    gated, alpha = gate([keras.KerasTensor((None, 16, 12, 4)), keras.KerasTensor((None, 8, 6, 9))])
    assert gated.shape == (None, 16, 12, 4)
    assert alpha.shape == (None, 16, 12, 1)
