"""Every system to compare with: shapes, size, a training step, saving, and a .tflite file that tablets run."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
from test_network import lesions

from busmt.config import ARCHITECTURES, CLASSES, OURS, Config, NetworkConfig, tasks_of
from busmt.deployment.tflite import convert
from busmt.errors import ConfigError
from busmt.model.baselines import BASELINES, check_tasks, recipe
from busmt.model.baselines.boundary_aware import build_volumes
from busmt.model.network import REFINEMENT_LAYER, build_network
from busmt.prediction import interpret, load_network
from busmt.training.trainer import compile_trainer
from busmt.trust import TFLITE_OPS, tflite_operations

SIDES = {"aumente-nnunet": 64}
"""Its five poolings leave one pixel of 32, which instance normalisation makes 0."""
CONVERTED = ("unet", "classifier", "branch-both", "boundary-aware")
"""Each kind of task and of output once; the other conversions take a minute together."""
TASKS_OF = {"both": ("mask", "label"), "mask": ("mask",), "label": ("label",)}


def settings(name: str, **network) -> Config:
    side = SIDES.get(name, 32)
    own = {"input_size": side, "width": 4, "depth": 2, "dropout": 0.1, **recipe(name)["network"], **network}
    return Config.preset("tiny", {**recipe(name), "network": own, "training": {"warmup_epochs": 0}})


def pictures(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).random((count, side, side, 1)).astype(np.float32)


@pytest.fixture(scope="module", params=BASELINES)
def system(request):
    keras.utils.set_random_seed(0)
    config = settings(request.param)
    return config, build_network(config.network)


def test_the_registry_and_the_configuration_name_the_same_systems():
    assert set(ARCHITECTURES) == {OURS, *BASELINES}
    for name in BASELINES:
        assert settings(name).network.architecture == name
    assert recipe(OURS) == {}


def test_outputs_are_those_of_our_network(system):
    config, network = system
    side, tasks = config.network.input_size, TASKS_OF[config.network.tasks]
    assert network.input_shape == (None, side, side, 1)
    assert tasks_of(network.output) == tasks
    shapes = {"mask": (2, side, side, 1), "label": (2, len(CLASSES))}
    outputs = {name: np.asarray(value) for name, value in network(pictures(side), training=False).items()}
    for task in tasks:
        for name in (task, f"{task}_logits"):
            assert outputs[name].shape == shapes[task]
            assert outputs[name].dtype == np.float32
        assert outputs[task].min() >= 0
        assert outputs[task].max() <= 1
    others = {name for name in outputs if name.removesuffix("_logits") not in tasks}
    assert all(name.startswith(("mask_logits_deep", "boundary_logits")) for name in others)
    assert all(outputs[name].shape == shapes["mask"] for name in others)
    fitted = {variable.name for variable in network.get_layer(REFINEMENT_LAYER).non_trainable_variables}
    assert fitted == {{"mask": "mask_offset", "label": "temperature"}[task] for task in tasks}


def test_a_training_step_changes_every_weight_and_lowers_the_loss(system):
    config, network = system
    keras.utils.set_random_seed(1)
    trainer = compile_trainer(network, config, steps=20)
    trainer.run_eagerly = True
    images, truth = lesions(6, config.network.input_size)
    before = [np.asarray(variable).copy() for variable in network.trainable_variables]
    losses = [float(trainer.train_on_batch(images, truth, return_dict=True)["loss"]) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0]
    unchanged = [
        variable.path
        for variable, value in zip(network.trainable_variables, before, strict=True)
        if np.array_equal(np.asarray(variable), value)
    ]
    assert not unchanged


def test_it_comes_back_from_its_file_with_safe_mode_on(system, tmp_path):
    config, network = system
    network.save(tmp_path / "model.keras")
    loaded = load_network(tmp_path / "model.keras")
    before, after = (net(pictures(config.network.input_size), training=False) for net in (network, loaded))
    assert before.keys() == after.keys()
    for name in before:
        assert np.array_equal(before[name], after[name])


@pytest.mark.parametrize(
    "system",
    [pytest.param(name, marks=[] if name in CONVERTED else pytest.mark.slow) for name in BASELINES],
    indirect=True,
    scope="module",
)
def test_its_tflite_file_needs_nothing_that_tablets_lack_and_answers_the_same(system):
    config, network = system
    content = convert(network)
    assert tflite_operations(content) <= TFLITE_OPS
    picture = pictures(config.network.input_size, 1)
    answer, expected = interpret(content)[0](picture), network(picture, training=False)
    assert set(answer) == set(TASKS_OF[config.network.tasks])
    for name, value in answer.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"),
    [
        ("unet", 31.03, 0.002),  # Ronneberger's, counted
        ("attention-unet", 34.88, 0.03),
        ("aau-net", 42.7, 0.01),
    ],
)
def test_parameters_are_near_the_published_count(name, millions, tolerance):
    """One small build tells the count of the large one: an axis of a weight is channels, which grow with the width, or
    a kernel's side or a single channel, which do not."""
    width = 16  # half of it, in the gates, is still more than any kernel's side
    factor = BASELINES[name].published_width // width
    network = build_network(settings(name, width=width, depth=4).network)
    counts = [math.prod(axis * factor if axis >= width // 2 else axis for axis in w.shape) for w in network.weights]
    assert sum(counts) / 1e6 == pytest.approx(millions, rel=tolerance)


def test_a_system_refuses_tasks_that_it_does_not_have():
    with pytest.raises(ConfigError, match=r"network\.tasks must be mask for network\.architecture unet, got both"):
        build_network(NetworkConfig(architecture="unet"))
    check_tasks(NetworkConfig(tasks="label"))  # ours has each alone


def test_the_rules_come_with_the_framework_they_are_from():
    config = settings("aumente-unetpp")
    assert config.network.refinement == "rules"
    assert config.balance.mode == "round"
    assert (config.loss.mask, config.loss.mask_weight) == ("dice", 0.35)
    assert (config.loss.label, config.loss.label_weight) == ("focal", 0.65)


def test_branches_differ_in_nothing_but_the_place():
    sizes = {}
    for name in ("branch-bottleneck", "branch-decoder", "branch-both"):
        network = build_network(settings(name).network)
        sizes[name] = {layer.name: layer.count_params() for layer in network.layers}
    shared = [{k: v for k, v in size.items() if not k.startswith("class_")} for size in sizes.values()]
    assert shared[0] == shared[1] == shared[2]


def test_the_masked_image_keeps_class_gradients_out_of_the_mask():
    import tensorflow as tf

    network = build_network(settings("sequential").network)
    images = pictures(32)
    with tf.GradientTape() as tape:
        label = network(images, training=True)["label_logits"][:, 0]
    assert tape.gradient(label, network.get_layer("mask_head").kernel.value) is None


def test_a_boundary_loss_reaches_the_boundary_head_alone_of_the_heads():
    config = settings("boundary-aware")
    network = build_network(config.network)
    trainer = compile_trainer(network, config, steps=1)
    images, truth = lesions(3, 32)
    outputs = dict(trainer(images, training=False))
    loss = float(trainer.task_losses(truth, outputs)["mask"])
    outputs["boundary_logits"] = outputs["boundary_logits"] * 0 + 20  # an outline everywhere
    assert float(trainer.task_losses(truth, outputs)["mask"]) > loss


def test_deep_supervision_weighs_each_level_half():
    config = settings("aumente-nnunet")
    trainer = compile_trainer(build_network(config.network), config, steps=1)
    _, truth = lesions(3, 64)
    right, wrong = (sign * (100 * truth["mask"] - 50) for sign in (1, -1))
    probability = 1 / (1 + np.exp(-right))
    outputs = {"mask": probability, "mask_logits": right, "label": truth["label"], "label_logits": 9 * truth["label"]}
    outputs |= {f"mask_logits_deep{level}": right for level in (1, 2, 3)}
    assert float(trainer.task_losses(truth, outputs)["mask"]) < 1e-3
    costs = [float(trainer.task_losses(truth, outputs | {f"mask_logits_deep{k}": wrong})["mask"]) for k in (1, 2, 3)]
    assert costs[0] == pytest.approx(2 * costs[1], rel=1e-3)
    assert costs[1] == pytest.approx(2 * costs[2], rel=1e-3)


@pytest.mark.parametrize("tasks", ["mask", "label"])
def test_our_network_can_have_one_task(tasks, tmp_path):
    config = NetworkConfig(input_size=32, width=4, depth=2, tasks=tasks)
    network = build_network(config)
    assert set(network.output) == {tasks, f"{tasks}_logits"}
    both = build_network(dataclasses.replace(config, tasks="both"))
    assert {layer.name for layer in network.layers} <= {layer.name for layer in both.layers}
    network.save(tmp_path / "model.keras")
    answer = load_network(tmp_path / "model.keras")(pictures(32), training=False)[tasks]
    assert np.array_equal(answer, network(pictures(32), training=False)[tasks])


def test_three_dimensions():
    network = build_volumes(side=16, width=2, depth=2)
    outputs = network(np.zeros((1, 16, 16, 16, 1), np.float32), training=False)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "mask": (1, 16, 16, 16, 1), "mask_logits": (1, 16, 16, 16, 1), "boundary_logits": (1, 16, 16, 16, 1),
        "label": (1, 3), "label_logits": (1, 3),
    }  # fmt: skip
