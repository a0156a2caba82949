"""Quantised files: heads and decisions in float, biases that survive, parts that can be left out."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from busmt.config import NORMAL, Config
from busmt.data.phantom import make_phantom
from busmt.deployment import quantise
from busmt.deployment.quantise import Quantiser, calibration_positions, half
from busmt.deployment.tflite import convert
from busmt.model.network import build_network
from busmt.prediction import interpret
from busmt.training.run import Run
from busmt.trust import tflite_operations

SIZE = 64
FLOAT32, INT8 = 0, 9  # types of tensors in the file


def network(seed: int = 0):
    import keras

    keras.utils.set_random_seed(seed)
    return build_network(Config.preset("tiny", {}).network)


def phantoms(count: int) -> list[np.ndarray]:
    kinds = ("normal", "benign", "malignant")
    return [
        make_phantom(kinds[seed % 3], seed, (SIZE, SIZE)).image[..., None].astype(np.float32) / 255
        for seed in range(count)
    ]


def adversaries() -> list[np.ndarray]:
    """Noise, constants, gradients, dots and stripes: nothing that the network was made for."""
    generator, found = np.random.default_rng(0), []
    rows, columns = np.mgrid[:SIZE, :SIZE] / (SIZE - 1)
    found += [np.full((SIZE, SIZE), level) for level in (0.0, 0.5, 1.0)]
    found += [rows, 1 - columns, (rows * 32 % 1 > 0.5) * 1.0, ((rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.002) * 1.0]
    found += [generator.random((SIZE, SIZE)) ** power for power in (0.2, 1.0, 5.0) for _ in range(6)]
    return [picture[..., None].astype(np.float32) for picture in found] + phantoms(15)


@pytest.fixture(scope="module")
def borderline() -> bytes:
    """A network whose every answer is close to a decision."""
    made = network()
    for name in ("mask_head", "label_logits"):
        layer = made.get_layer(name)
        layer.kernel.assign(np.asarray(layer.kernel) * 0.05)
    outputs, refinement = made.predict_on_batch(np.stack(adversaries())), made.get_layer("refinement")
    label = outputs["label_logits"]
    margins = label[:, 1:].max(axis=1) - label[:, 0] + np.asarray(refinement._evidence(outputs["mask_logits"]))[:, 0]
    refinement.bias.assign(-np.median(margins))
    return convert(made)


@pytest.fixture(scope="module")
def quantiser(borderline) -> Quantiser:
    return Quantiser(borderline, phantoms(12))


@pytest.fixture(scope="module")
def trained(tiny_export) -> bytes:
    return (tiny_export.folder / "model.tflite").read_bytes()


def tensors(content: bytes) -> dict[str, int]:
    """Type of the first output of each operation, by its name."""
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(content)).subgraphs[0]
    made = [graph.tensors[operation.outputs[0]] for operation in graph.operators]
    return {tensor.name.decode(): tensor.type for tensor in made}


def weight_types(content: bytes, part: str) -> set[int]:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    return {
        graph.tensors[operation.inputs[1]].type
        for operation in graph.operators
        if flatbuffer_utils.opcode_to_name(model, operation.opcodeIndex) == "CONV_2D"
        and part in graph.tensors[operation.outputs[0]].name.decode()
    }


def drift(own: bytes, other: bytes, pictures: list[np.ndarray]) -> float:
    first, second = interpret(own)[0], interpret(other)[0]
    return float(np.mean([np.abs(first(p[None])["mask"] - second(p[None])["mask"]).mean() for p in pictures]))


def test_every_block_is_a_part_and_no_head_is(quantiser):
    names = [part.name for part in quantiser.parts]
    assert sorted(names) == [
        *(f"attention{level}" for level in range(3)), *(f"decoder{level}" for level in range(3)),
        *(f"encoder{level}" for level in range(4)),
    ]  # fmt: skip
    assert all(part.weights > 0 for part in quantiser.parts)


@pytest.mark.parametrize("variant", ["float32", "float16", "int8-dynamic", "int8", "int8 in float"])
def test_class_is_normal_exactly_if_the_mask_is_empty(borderline, quantiser, variant):
    """On inputs that are close to the decision in every way."""
    content = {
        "float32": lambda: borderline,
        "float16": lambda: half(borderline),
        "int8-dynamic": lambda: quantiser.quantise("int8-dynamic"),
        "int8": lambda: quantiser.quantise("int8"),
        "int8 in float": lambda: quantiser.quantise("int8", [part.name for part in quantiser.parts]),
    }[variant]()
    forward, seen = interpret(content)[0], set()
    for picture in adversaries():
        answer = forward(picture[None])
        normal = int(answer["label"][0].argmax()) == NORMAL
        assert normal == (not (answer["mask"] > 0.5).any())
        assert abs(np.sort(answer["label"][0])[-1] - answer["label"][0][NORMAL]) < 0.1, "not a borderline case"
        seen.add(normal)
    assert seen == {True, False}


def test_int8_reaches_every_part_but_no_decision(quantiser):
    made = tensors(quantiser.quantise("int8"))
    for part in quantiser.parts:
        assert INT8 in {kind for name, kind in made.items() if f"{part.name}_" in name}, part.name
    heads = {
        name: kind for name, kind in made.items() if any(word in name for word in ("refinement", "class_", "mask_"))
    }
    assert heads
    assert set(heads.values()) & {INT8} == set()


def test_dynamic_files_compute_between_layers_in_float(quantiser):
    content = quantiser.quantise("int8-dynamic")
    assert INT8 not in tensors(content).values()
    assert weight_types(content, "decoder0") == {INT8}
    assert "QUANTIZE" not in tflite_operations(content)


def test_a_part_left_in_float_keeps_float_weights_unless_it_is_large(quantiser, monkeypatch):
    content = quantiser.quantise("int8", ["decoder0"])
    assert INT8 not in {kind for name, kind in tensors(content).items() if "decoder0_" in name and "quant" not in name}
    assert weight_types(content, "decoder0") == {FLOAT32}
    assert weight_types(content, "decoder1") == {INT8}
    monkeypatch.setattr(quantise, "LARGE_PART", 10)
    assert weight_types(quantiser.quantise("int8", ["decoder0"]), "decoder0") == {INT8}


def test_sizes_fall_from_variant_to_variant(borderline, quantiser):
    sizes = [len(borderline), len(half(borderline)), len(quantiser.quantise("int8-dynamic"))]
    assert sizes[0] > 1.6 * sizes[1] > 1.6 * sizes[2]


def test_the_bias_of_a_dead_channel_survives(monkeypatch):
    """Weights of nearly nothing, a bias of 6: in units of the weights' scale the bias does not fit into int32."""
    made = network()
    for level in range(3):
        norm = made.get_layer(f"encoder{level}_norm2")
        for weight, value in ((norm.gamma, 1e-12), (norm.beta, 6.0)):
            values = np.asarray(weight).copy()
            values[: len(values) // 2] = value
            weight.assign(values)
    content, pictures = convert(made), phantoms(9)
    good = drift(content, Quantiser(content, pictures).quantise("int8"), pictures)
    monkeypatch.setattr(quantise, "_LARGEST_BIAS", np.inf)
    assert drift(content, Quantiser(content, pictures).quantise("int8"), pictures) > 5 * good


def test_corrected_biases_bring_the_answers_nearer(trained, monkeypatch):
    pictures = phantoms(24)
    own = Quantiser(trained, pictures)
    with_correction = drift(trained, own.quantise("int8-dynamic"), pictures)
    monkeypatch.setattr(quantise._Graph, "corrected", lambda graph, parts, statistics, ranges: trained)
    assert with_correction < 0.9 * drift(trained, own.quantise("int8-dynamic"), pictures)


def test_the_ranking_starts_with_the_part_that_hurts_most(quantiser, monkeypatch):
    damage = {part.name: position for position, part in enumerate(quantiser.parts)}
    fresh = Quantiser(quantiser._content, phantoms(2))
    monkeypatch.setattr(fresh, "_damage", lambda variant, name: damage[name])
    assert fresh.ranking("int8") == [part.name for part in reversed(fresh.parts)]


def test_calibration_images_are_training_images_of_every_class(tiny_run_folder):
    train = Run.open(tiny_run_folder).part("train")
    positions = calibration_positions(train, 9)
    assert len(set(positions)) == 9
    assert np.bincount(train.labels[positions]).tolist() == [3, 3, 3]
    assert sorted(calibration_positions(train, 10_000)) == list(range(len(train)))
