"""ConsistencyRefinement: class normal exactly if the thresholded mask is empty, in every format, for every input."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from busmt.deployment.savedmodel import write_saved_model
from busmt.deployment.tflite import write_tflite
from busmt.evaluation.calibration import TEMPERATURES
from busmt.model.refinement import LIMIT, ConsistencyRefinement
from busmt.prediction import Predictor, load_network
from busmt.trust import tflite_operations

SIZE = 32
WEIGHTS = {
    "as it starts": {},
    "sharp and lowered": {"temperature": TEMPERATURES[0], "mask_offset": -1.4, "mask_to_class": 3.0, "bias": -2.0},
    "soft and raised": {"temperature": TEMPERATURES[1], "mask_offset": 1.4, "class_to_mask": 2.0, "bias": 3.0},
    "one way only": {"mask_to_class": -30.0, "class_to_mask": -30.0, "temperature": 1.7, "mask_offset": 0.4},
}
"""Values of the layer's weights, learned and fitted ones alike; softplus(-30) is 0."""


def build_layer(weights: str = "as it starts", **arguments) -> ConsistencyRefinement:
    layer = ConsistencyRefinement(**arguments)
    layer.build([(None, SIZE, SIZE, 1), (None, 3)])
    for name, value in WEIGHTS[weights].items():
        if hasattr(layer, name):
            getattr(layer, name).assign(value)
    return layer


def agrees(mask, label) -> np.ndarray:
    """Per image: class normal <=> mask above 0.5 nowhere; and nothing is NaN or out of range."""
    mask, label = np.asarray(mask), np.asarray(label)
    assert np.isfinite(mask).all()
    assert np.isfinite(label).all()
    assert mask.min() >= 0
    assert mask.max() <= 1
    np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-5)
    return (label.argmax(axis=1) == 0) == ~(mask > 0.5).any(axis=(1, 2, 3))


def corner(inside: float, outside: float) -> np.ndarray:
    mask = np.full((SIZE, SIZE), outside)
    mask[-1, -1] = inside
    return mask


def hard_masks() -> list[np.ndarray]:
    """Constant, extreme, nearly undecided, single-pixel, random and checkered mask logits."""
    generator = np.random.default_rng(3)
    constants = [0.0, 1e-7, -1e-7, 0.08, -0.08, 0.0799999, 3.0, -3.0, 50.0, -50.0, 1e4, -1e4]
    masks = [np.full((SIZE, SIZE), value) for value in constants]
    masks += [corner(*pair) for pair in ((50, -50), (-50, 50), (0.01, -50), (0.01, -0.01), (1e-6, -1e-6))]
    masks += [generator.normal(0, scale, (SIZE, SIZE)) for scale in (0.01, 1, 20, 200)]
    masks.append(np.where(np.indices((SIZE, SIZE)).sum(axis=0) % 2, 50.0, -50.0))
    return masks


def hard_labels() -> list[np.ndarray]:
    """All combinations of extreme class logits, ties and near ties, and random ones."""
    labels = [np.array(row) for row in itertools.product((-50.0, 0.0, 50.0), repeat=3)]
    labels += [np.array(row) for row in ((0, 1e-6, 0), (1e-6, 0, 0), (7.3, 7.3, -9), (-2.5, 0, 0), (1e4, -1e4, 0))]
    return labels + list(np.random.default_rng(4).normal(0, 4, (8, 3)))


def hard_cases() -> tuple[np.ndarray, np.ndarray]:
    pairs = list(itertools.product(hard_masks(), hard_labels()))
    masks = np.stack([mask for mask, _ in pairs])[..., None].astype(np.float32)
    return masks, np.stack([label for _, label in pairs]).astype(np.float32)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_mask_and_class_agree_for_extreme_logits(weights):
    assert agrees(*build_layer(weights)(list(hard_cases()))).all()


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 7]),
    st.floats(-60, 60),
    st.floats(0, 60),
    st.floats(0, 60),
    st.fixed_dictionaries(
        {
            "temperature": st.floats(*TEMPERATURES),
            "mask_offset": st.floats(-4, 4),
            "mask_to_class": st.floats(-20, 20),
            "class_to_mask": st.floats(-20, 20),
            "bias": st.floats(-20, 20),
        }
    ),
)
@settings(max_examples=150, deadline=None)
def test_mask_and_class_agree_for_any_logits_and_weights(seed, batch, level, spread, label_spread, weights):
    layer = build_layer()
    for name, value in weights.items():
        getattr(layer, name).assign(value)
    generator = np.random.default_rng(seed)
    mask = generator.normal(level, spread, (batch, SIZE, SIZE, 1)).astype(np.float32)
    label = generator.normal(0, label_spread, (batch, 3)).astype(np.float32)
    assert agrees(*layer([mask, label])).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (10, 33), (64, 16)])
def test_any_mask_size_will_do(shape):
    layer = ConsistencyRefinement()
    generator = np.random.default_rng(0)
    mask = generator.normal(0, 5, (40, *shape, 1)).astype(np.float32)
    assert agrees(*layer([mask, generator.normal(0, 5, (40, 3)).astype(np.float32)])).all()


def test_infinite_logits_count_as_the_limit():
    layer = build_layer()
    mask = np.full((2, SIZE, SIZE, 1), np.inf, np.float32)
    mask[1] *= -1
    label = np.array([[np.inf, 0, 0], [-np.inf, 0, 0]], np.float32)
    assert agrees(*layer([mask, label])).all()
    limited = layer([np.clip(mask, -LIMIT, LIMIT), np.clip(label, -LIMIT, LIMIT)])
    for one, other in zip(layer([mask, label]), limited, strict=True):
        assert np.array_equal(one, other)


def test_an_image_is_refined_alone_whatever_else_is_in_the_batch():
    layer = build_layer("soft and raised")
    masks, labels = hard_cases()
    together = layer([masks[::40], labels[::40]])
    for row, (mask, label) in enumerate(zip(masks[::40], labels[::40], strict=True)):
        alone = layer([mask[None], label[None]])
        np.testing.assert_allclose(alone[0][0], together[0][row], atol=1e-6)
        np.testing.assert_allclose(alone[1][0], together[1][row], atol=1e-6)


def controllable_network(layer: ConsistencyRefinement) -> keras.Model:
    """A network whose logits are pixels of its input: all formats can be fed with any logits."""
    image = keras.Input((2 * SIZE, 2 * SIZE, 1), name="image")
    mask_logits = layers.Cropping2D(((0, SIZE), (0, SIZE)), name="mask_logits")(image)
    row = layers.Cropping2D(((2 * SIZE - 1, 0), (0, 2 * SIZE - 3)), name="row")(image)
    label_logits = layers.Reshape((3,), name="label_logits")(row)
    mask, label = layer([mask_logits, label_logits])
    outputs = {"mask": mask, "label": label, "mask_logits": mask_logits, "label_logits": label_logits}
    return keras.Model(image, outputs)


def as_images(masks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    images = np.zeros((len(masks), 2 * SIZE, 2 * SIZE, 1), np.float32)
    images[:, :SIZE, :SIZE] = masks
    images[:, -1, :3, 0] = labels
    return images


@pytest.fixture(scope="module", params=["as it starts", "sharp and lowered", "soft and raised"])
def exported(request, tmp_path_factory):
    """The same network in every format, and its outputs for the hard cases straight from the layer."""
    folder = tmp_path_factory.mktemp("exported")
    layer = build_layer(request.param)
    network = controllable_network(layer)
    network.save(folder / "model.keras")
    write_saved_model(network, folder / "1")
    write_tflite(network, folder / "model.tflite")
    return folder, [np.asarray(output) for output in layer(list(hard_cases()))]


@pytest.mark.parametrize("name", ["model.keras", "1", "model.tflite"])
def test_mask_and_class_agree_in_every_exported_format(exported, name):
    folder, (mask, label) = exported
    predictor = Predictor.load(folder / name)
    images = as_images(*hard_cases())
    batches = [images[:1]] + [images[start : start + 7] for start in range(1, len(images), 7)]
    # past the check of pictures: these inputs are logits of either sign
    outputs = [predictor._forward(batch) for batch in batches]
    masks, labels = (np.concatenate([output[key] for output in outputs]) for key in ("mask", "label"))
    assert agrees(masks, labels).all()
    np.testing.assert_allclose(masks, mask, atol=1e-4)
    np.testing.assert_allclose(labels, label, atol=1e-4)
    assert np.array_equal(labels.argmax(axis=1) == 0, label.argmax(axis=1) == 0)


def test_the_exported_layer_needs_no_tensorflow_operation_on_the_tablet(exported):
    assert not [
        name for name in tflite_operations((exported[0] / "model.tflite").read_bytes()) if name.startswith("Flex")
    ]


def test_fitted_values_survive_saving(tmp_path):
    network = controllable_network(build_layer("sharp and lowered"))
    network.save(tmp_path / "model.keras")
    loaded = load_network(tmp_path / "model.keras")
    (layer,) = (item for item in loaded.layers if isinstance(item, ConsistencyRefinement))
    for name, value in WEIGHTS["sharp and lowered"].items():
        assert float(getattr(layer, name)) == pytest.approx(value)


def test_both_tasks_get_evidence_from_the_other():
    layer = build_layer()
    mask, label = np.full((1, SIZE, SIZE, 1), -2.0, np.float32), np.array([[0.5, 0.0, -1.0]], np.float32)
    blob = mask.copy()
    blob[:, 8:24, 8:24] = 6.0
    quiet, seen = (layer([m, label], training=True)[1] for m in (mask, blob))
    assert float(seen[0, 0]) < float(quiet[0, 0])
    assert float(seen[0, 1] / seen[0, 2]) == pytest.approx(float(quiet[0, 1] / quiet[0, 2]), rel=1e-4)
    certain = label + np.array([[0.0, 6.0, 0.0]], np.float32)
    doubtful_map, certain_map = (layer([mask, values], training=True)[0] for values in (label, certain))
    assert (np.asarray(certain_map) > np.asarray(doubtful_map)).all()


def test_a_lone_pixel_is_weaker_evidence_than_a_patch():
    layer = build_layer()
    label = np.zeros((2, 3), np.float32)
    masks = np.full((2, SIZE, SIZE, 1), -6.0, np.float32)
    masks[0, 16, 16] = 6.0
    masks[1, 12:20, 12:20] = 6.0
    refined = np.asarray(layer([masks, label], training=True)[1])
    assert refined[0, 0] > refined[1, 0]


def test_it_equals_its_formula_in_training():
    """Steps 1 to 3 of the docstring, in numpy."""
    layer = build_layer("soft and raised")
    generator = np.random.default_rng(8)
    mask = generator.normal(0, 3, (3, SIZE, SIZE, 1)).astype(np.float32)
    label = generator.normal(0, 2, (3, 3)).astype(np.float32)
    windows = [mask[:, r : r + 8, c : c + 8, 0].mean(axis=(1, 2)) for r in range(0, 25, 4) for c in range(0, 25, 4)]
    softplus = {name: np.log1p(np.exp(float(getattr(layer, name)))) for name in ("mask_to_class", "class_to_mask")}
    evidence = softplus["mask_to_class"] * np.clip(np.max(windows, axis=0), -8, 8) + 3.0
    margin = label[:, 1:].max(axis=1) - label[:, 0] + evidence
    moved = mask + 1.4 + softplus["class_to_mask"] * np.tanh(margin / 4)[:, None, None, None]
    lesions = label[:, 1:] / TEMPERATURES[1]
    logits = np.concatenate([lesions.max(axis=1, keepdims=True) - margin[:, None] / TEMPERATURES[1], lesions], axis=1)
    classes = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    refined_mask, refined_label = layer([mask, label], training=True)
    np.testing.assert_allclose(refined_mask, 1 / (1 + np.exp(-moved)), atol=1e-5)
    np.testing.assert_allclose(refined_label, classes, atol=1e-5)


def test_where_both_agree_already_inference_changes_nothing():
    layer = build_layer()
    masks, labels = np.full((2, SIZE, SIZE, 1), -5.0, np.float32), np.array([[4, 0, 0], [0, 4, 0]], np.float32)
    masks[1, 8:24, 8:24] = 5.0
    for one, other in zip(layer([masks, labels], training=True), layer([masks, labels]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_gradients_into_both_inputs_and_all_learned_weights_are_finite(weights):
    layer = build_layer(weights)
    masks, labels = (tf.constant(array) for array in hard_cases())
    with tf.GradientTape() as tape:
        tape.watch([masks, labels])
        mask, label = layer([masks, labels], training=True)
        loss = tf.reduce_sum(mask) + tf.reduce_sum(tf.math.log(label + 1e-6) * [1.0, 2.0, 3.0])
    gradients = tape.gradient(loss, [masks, labels, *(variable.value for variable in layer.trainable_variables)])
    assert all(gradient is not None and np.isfinite(gradient.numpy()).all() for gradient in gradients)


def test_gradients_cross_between_the_tasks():
    layer = build_layer()
    generator = np.random.default_rng(0)
    mask = tf.constant(generator.normal(0, 2, (2, SIZE, SIZE, 1)).astype(np.float32))
    label = tf.constant(generator.normal(0, 2, (2, 3)).astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([mask, label])
        refined_mask, refined_label = layer([mask, label], training=True)
        area, normal = tf.reduce_sum(refined_mask), tf.reduce_sum(refined_label[:, 0])
    assert np.abs(tape.gradient(area, label)).max() > 0
    assert np.abs(tape.gradient(normal, mask)).max() > 0


def test_without_exchange_it_is_plain_sigmoid_and_softmax():
    layer = build_layer(exchange=False)
    generator = np.random.default_rng(1)
    mask, label = generator.normal(0, 3, (2, SIZE, SIZE, 1)), generator.normal(0, 3, (2, 3))
    for training in (True, False):
        refined_mask, refined_label = layer([mask.astype(np.float32), label.astype(np.float32)], training=training)
        np.testing.assert_allclose(refined_mask, 1 / (1 + np.exp(-mask)), atol=1e-6)
        exponentials = np.exp(label)
        np.testing.assert_allclose(refined_label, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-6)
    assert not layer.trainable_variables


def test_without_exchange_offset_and_temperature_still_count():
    layer = build_layer("sharp and lowered", exchange=False)
    mask, label = np.zeros((1, SIZE, SIZE, 1), np.float32), np.array([[0.1, 0.0, -0.1]], np.float32)
    refined_mask, refined_label = layer([mask, label])
    np.testing.assert_allclose(refined_mask, 1 / (1 + np.exp(1.4)), atol=1e-6)
    expected = np.exp(label / TEMPERATURES[0])
    np.testing.assert_allclose(refined_label, expected / expected.sum(), atol=1e-5)


def test_only_evidence_weights_are_learned():
    layer = build_layer()
    assert {variable.name for variable in layer.trainable_variables} == {"mask_to_class", "bias", "class_to_mask"}
    assert {variable.name for variable in layer.non_trainable_variables} == {"mask_offset", "temperature"}


@pytest.mark.parametrize("arguments", [{}, {"exchange": False, "window": 5, "name": "fused"}])
def test_config_round_trip_and_symbolic_shapes(arguments):
    layer = ConsistencyRefinement(**arguments)
    again = ConsistencyRefinement.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    mask, label = layer([keras.KerasTensor((None, SIZE, SIZE, 1)), keras.KerasTensor((None, 3))])
    assert mask.shape == (None, SIZE, SIZE, 1)
    assert label.shape == (None, 3)
