"""The two hard rules, and the last layer of networks with one task."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.model.probability import TaskProbability
from busmt.model.rules import RuleRefinement


def answer(mask, label, **keywords):
    mask = np.full((1, 4, 4, 1), mask, np.float32) if np.isscalar(mask) else mask
    outputs = RuleRefinement()([mask, np.array([label], np.float32)], **keywords)
    mask, label = (np.asarray(output) for output in outputs)
    return bool((mask > 0.5).any()), int(label.argmax()), mask, label


@pytest.mark.parametrize(
    ("mask", "label", "marked", "chosen"),
    [
        (3.0, [0, 5, 1], True, 1),  # both say lesion: nothing changes
        (3.0, [5, 0, 1], False, 0),  # class normal empties the mask
        (-3.0, [0, 1, 5], False, 0),  # an empty mask makes the class normal
        (-3.0, [5, 0, 1], False, 0),
    ],
)
def test_each_rule_looks_at_the_other_task_as_it_was(mask, label, marked, chosen):
    assert answer(mask, label)[:2] == (marked, chosen)


def test_what_agrees_already_is_left_alone():
    _, _, mask, label = answer(3.0, [0.0, 5.0, 1.0])
    np.testing.assert_allclose(mask, 1 / (1 + np.exp(-3.0)), rtol=1e-6)
    np.testing.assert_allclose(label, keras.ops.softmax(np.array([[0.0, 5.0, 1.0]], np.float32)), rtol=1e-5)


def test_a_rule_moves_a_class_just_across_and_keeps_the_order_of_the_lesions():
    *_, label = answer(-3.0, [0.0, 1.0, 5.0])
    assert label[0, 0] > label[0, 2] > label[0, 1]
    assert label[0, 0] - label[0, 2] < 0.05


def test_nothing_is_refined_in_training():
    marked, chosen, *_ = answer(3.0, [5, 0, 1], training=True)
    assert (marked, chosen) == (True, 0)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 0.1, 1.0, 100.0]))
@settings(max_examples=40, deadline=None)
def test_the_class_is_normal_exactly_if_the_mask_is_empty(seed, scale):
    generator = np.random.default_rng(seed)
    layer = RuleRefinement()
    inputs = [scale * generator.normal(size=(8, 4, 4, 1)), scale * generator.normal(size=(8, 3))]
    layer.build([(None, 4, 4, 1), (None, 3)])
    layer.mask_offset.assign(generator.normal())
    layer.temperature.assign(generator.uniform(0.4, 3))
    mask, label = (np.asarray(value) for value in layer([value.astype(np.float32) for value in inputs]))
    assert np.isfinite(mask).all()
    np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(label.argmax(axis=1) == 0, ~(mask > 0.5).any(axis=(1, 2, 3)))


def test_one_task_has_its_own_fitted_weight():
    mask = TaskProbability("mask")
    logits = np.linspace(-3, 3, 16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(mask(logits), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    mask.mask_offset.assign(2.0)
    np.testing.assert_allclose(mask(logits), 1 / (1 + np.exp(-logits - 2)), rtol=1e-5)
    label = TaskProbability("label")
    label(np.zeros((1, 3), np.float32))
    label.temperature.assign(2.0)
    odds = np.asarray(label(np.array([[0.0, 2.0, 0.0]], np.float32)))[0]
    assert odds[1] / odds[0] == pytest.approx(np.e, rel=1e-5)
    assert not mask.trainable_variables
    assert not label.trainable_variables
    with pytest.raises(ValueError, match="task must be one of mask, label"):
        TaskProbability("both")
