"""The whole network: shapes, names, saving, learning, and what is left out on request."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import busmt.model
from busmt.config import Config, NetworkConfig
from busmt.errors import DataError
from busmt.model import pretrained
from busmt.model.network import REFINEMENT_LAYER, attention_model, available_encoder, build_network
from busmt.prediction import load_network
from busmt.training.trainer import compile_trainer

SMALLEST = NetworkConfig(input_size=32, width=4, depth=2, dropout=0.1)
VARIANTS = {
    "smallest": SMALLEST,
    "deep": NetworkConfig(input_size=64, width=4, depth=5, dropout=0.0),
    "no attention": NetworkConfig(input_size=32, width=4, depth=2, attention=False),
    "no refinement": NetworkConfig(input_size=32, width=4, depth=2, refinement="none"),
    "efficientnet": NetworkConfig(encoder="efficientnet_lite0", pretrained=False, input_size=64, decoder_width=8),
}


def pictures(config: NetworkConfig, count=2, seed=0):
    shape = (count, config.input_size, config.input_size, 1)
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.fixture(scope="module", params=VARIANTS, ids=list(VARIANTS))
def variant(request):
    keras.utils.set_random_seed(0)
    return VARIANTS[request.param], build_network(VARIANTS[request.param])


def test_names_shapes_and_ranges(variant):
    config, network = variant
    side = config.input_size
    assert network.input_shape == (None, side, side, 1)
    assert network.input.name == "image"
    outputs = {name: np.asarray(value) for name, value in network(pictures(config)).items()}
    assert {name: value.shape for name, value in outputs.items()} == {
        "mask": (2, side, side, 1),
        "label": (2, 3),
        "mask_logits": (2, side, side, 1),
        "label_logits": (2, 3),
    }
    assert all(value.dtype == np.float32 for value in outputs.values())
    assert outputs["mask"].min() >= 0
    assert outputs["mask"].max() <= 1
    np.testing.assert_allclose(outputs["label"].sum(axis=1), 1, atol=1e-5)


def test_it_comes_back_from_its_file_with_safe_mode_on(variant, tmp_path):
    config, network = variant
    network.save(tmp_path / "model.keras")
    loaded = load_network(tmp_path / "model.keras")
    before, after = (net(pictures(config), training=False) for net in (network, loaded))
    for name in before:
        assert np.array_equal(before[name], after[name])


def test_a_fresh_process_loads_it_with_the_model_package_alone(tmp_path, python):
    network = build_network(SMALLEST)
    network.save(tmp_path / "model.keras")
    np.save(tmp_path / "pictures.npy", pictures(SMALLEST))
    code = """
import json, sys
import keras, numpy as np
import busmt.model.network
network = keras.saving.load_model(sys.argv[1] + "/model.keras", safe_mode=True, compile=False)
label = network(np.load(sys.argv[1] + "/pictures.npy"), training=False)["label"]
print(json.dumps(np.asarray(label).tolist()))
"""
    expected = network(pictures(SMALLEST), training=False)["label"]
    np.testing.assert_allclose(json.loads(python(code, tmp_path).stdout), expected, atol=1e-6)


def test_there_is_no_python_code_in_the_file(variant):
    _, network = variant
    assert not [layer.name for layer in network.layers if isinstance(layer, keras.layers.Lambda)]
    assert "lambda" not in json.dumps(network.get_config()).lower()


def test_parts_can_be_left_out():
    gates = attention_model(build_network(SMALLEST))
    coefficients = gates(pictures(SMALLEST))
    assert [tuple(value.shape) for value in coefficients.values()] == [(2, 16, 16, 1), (2, 32, 32, 1)]
    assert all(float(np.min(value)) > 0 and float(np.max(value)) < 1 for value in coefficients.values())
    assert attention_model(build_network(VARIANTS["no attention"])) is None
    plain = build_network(VARIANTS["no refinement"])
    outputs = plain(pictures(SMALLEST), training=False)
    np.testing.assert_allclose(outputs["mask"], keras.ops.sigmoid(outputs["mask_logits"]), atol=1e-6)
    np.testing.assert_allclose(outputs["label"], keras.ops.softmax(outputs["label_logits"]), atol=1e-6)
    assert not plain.get_layer(REFINEMENT_LAYER).trainable_variables
    without_dropout = build_network(NetworkConfig(input_size=32, width=4, depth=2, dropout=0.0))
    assert not [layer for layer in without_dropout.layers if "dropout" in layer.name]


def test_the_refinement_holds_in_the_whole_network(variant):
    config, network = variant
    for level in (-50.0, -1.0, 0.0, 1.0, 50.0):
        network.get_layer("label_logits").bias.assign([level, 0.0, 0.0])
        outputs = {name: np.asarray(value) for name, value in network(pictures(config, 7), training=False).items()}
        normal, empty = outputs["label"].argmax(axis=1) == 0, ~(outputs["mask"] > 0.5).any(axis=(1, 2, 3))
        if config.refinement == "ours":
            assert np.array_equal(normal, empty)
        assert normal.all() or level < 50


def test_seeds_decide_the_start():
    weights = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        weights.append(np.concatenate([w.ravel() for w in build_network(SMALLEST).get_weights()]))
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def lesions(count, side, seed=0):
    """Noise with a dark disc (benign), a bright disc (malignant) or none."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images = 0.5 + 0.05 * generator.normal(size=(count, side, side, 1))
    masks, labels = np.zeros_like(images), np.arange(count) % 3
    for image, mask, label in zip(images, masks, labels, strict=True):
        if label:
            row, column = generator.integers(8, side - 8, 2)
            mask[..., 0] = (y - row) ** 2 + (x - column) ** 2 <= 36
            image += (0.4 if label == 2 else -0.4) * mask
    truth = {"mask": masks.astype(np.float32), "label": np.eye(3, dtype=np.float32)[labels]}
    return np.clip(images, 0, 1).astype(np.float32), truth


@pytest.mark.parametrize(("mask_loss", "balance"), [("dice_bce", "fixed"), ("focal_tversky", "uncertainty")])
def test_training_steps_lower_both_losses(mask_loss, balance):
    keras.utils.set_random_seed(0)
    config = Config.preset(
        "tiny",
        {
            "network": {"input_size": 32, "width": 4, "depth": 2, "dropout": 0.0},
            "loss": {"mask": mask_loss, "task_balance": balance},
            "training": {"learning_rate": 0.01, "warmup_epochs": 0, "epochs": 40, "weight_decay": 0.0},
        },
    )
    trainer = compile_trainer(build_network(config.network), config, steps=1)
    images, truth = lesions(12, 32)
    history = [trainer.train_on_batch(images, truth, return_dict=True) for _ in range(40)]
    for name in ("mask_loss", "label_loss"):
        values = [float(row[name]) for row in history]
        assert np.isfinite(values).all()
        assert values[-1] < 0.7 * values[0]
    if balance == "uncertainty":
        assert np.abs(np.asarray(trainer.log_variances)).min() > 0


def test_every_weight_is_reached_by_the_gradient(variant):
    import tensorflow as tf

    config, network = variant
    settings = Config.from_dict({"network": {**vars(config)}})
    trainer = compile_trainer(network, settings, steps=1)
    images, truth = lesions(6, config.input_size)
    with tf.GradientTape() as tape:
        loss = trainer.compute_loss(images, truth, trainer(images, training=True))
    gradients = tape.gradient(loss, [variable.value for variable in trainer.trainable_variables])
    missing = [v.path for v, g in zip(trainer.trainable_variables, gradients, strict=True) if g is None]
    assert not missing
    assert all(np.isfinite(gradient.numpy()).all() for gradient in gradients)


def test_without_the_package_the_plain_encoder_is_available(monkeypatch):
    wanted = NetworkConfig(encoder="efficientnet_lite0", input_size=64)
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package_installed")
    assert available_encoder(wanted) == "unet"
    assert available_encoder(NetworkConfig(encoder="efficientnet_lite0", pretrained=False)) == "efficientnet_lite0"
    assert available_encoder(NetworkConfig()) == "unet"
    with pytest.raises(DataError, match="ImageNet weights are not installed"):
        build_network(wanted)


def test_with_the_package_the_encoder_starts_from_imagenet():
    path = pretrained.weights_path()
    if path is None:
        pytest.skip(f"the ImageNet weights are not installed: {pretrained.EXTRA}")
    config = NetworkConfig(encoder="efficientnet_lite0", input_size=64, decoder_width=8)
    assert available_encoder(config) == "efficientnet_lite0"
    kernel = np.asarray(build_network(config).get_layer("encoder_stem").kernel)
    stored = pretrained.read_legacy_torch(path)["_conv_stem.weight"]
    np.testing.assert_allclose(kernel[..., 0, :], stored.sum(axis=1).transpose(1, 2, 0), atol=1e-6)


def test_the_model_package_never_imports_tensorflow_or_data():
    for path in Path(busmt.model.__file__).parent.rglob("*.py"):
        if (
            path.stem == "normalisation"
        ):  # asks Keras which backend there is, and takes TensorFlow's kernel on TensorFlow
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in ("tensorflow", "torch", "jax"), path
                assert not name.startswith(("busmt.data", "busmt.training", "busmt.evaluation", "busmt.cli")), path
