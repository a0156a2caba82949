"""What a network costs: parameters, operations, and the time of its .tflite files on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from busmt.config import IMAGE_INPUT, NetworkConfig, tasks_of
from busmt.data.phantom import MIN_SIZE, make_phantom
from busmt.deployment.latency import Contender, measure
from busmt.deployment.quantise import Quantiser
from busmt.deployment.tflite import convert
from busmt.errors import ExportError
from busmt.model.network import build_network
from busmt.prediction import interpret

TIMED: tuple[str, ...] = ("float32", "int8")
_CALIBRATION = 6  # phantoms: ranges decide how well int8 answers, not how fast


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: number of weights.
        giga_operations: floating-point operations for one image, 1e9; a multiplication with an addition is two.
        milliseconds: median time for one image by variant of `TIMED`, one thread; None where none was asked for.
    """

    parameters: int
    giga_operations: float
    milliseconds: dict[str, float | None]


def measure_costs(
    networks: Mapping[str, NetworkConfig], rounds: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, Cost]:
    """Costs of networks by name; none depends on what they were trained to, so they are built anew.

    All .tflite files are timed in turn, as `busmt.deployment.latency` does it, so that the times can be compared. The
    int8 files have all of the network but its heads in int8; `busmt export` may leave more in float where a trained
    network loses too much otherwise. Where its quantiser refuses a network, TensorFlow's converter makes the file.

    Args:
        networks: configurations of one input size.
        rounds: calls of each file that are counted; 0: no times.
        say: called with a line of text at each stage, and where the quantiser refuses a network.
    """
    facts, contenders = {}, []
    for name, config in networks.items():
        network = build_network(dataclasses.replace(config, pretrained=False))
        facts[name] = (network.count_params(), giga_operations(network))
        if rounds:
            say(f"{name}: converting to TFLite")
            contenders += _contenders(name, network, say)
    times = {}
    if contenders:
        say(f"timing {len(contenders)} .tflite files, {rounds} rounds")
        size = next(iter(networks.values())).input_size
        times = {row.name: row.median for row in measure(contenders, _picture(0, size)[None], rounds)}
    return {
        name: Cost(*fact, {variant: times.get(f"{name} {variant}") for variant in TIMED})
        for name, fact in facts.items()
    }


def giga_operations(network: Any) -> float:
    """Floating-point operations of a network for one image, 1e9, counted by TensorFlow's profiler."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    from tensorflow.python.profiler.model_analyzer import profile
    from tensorflow.python.profiler.option_builder import ProfileOptionBuilder

    @tf.function(input_signature=[tf.TensorSpec((1, *network.input_shape[1:]), tf.float32, name=IMAGE_INPUT)])
    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(image, training=False)
        return {name: outputs[name] for name in tasks_of(outputs)}

    graph = convert_variables_to_constants_v2(answer.get_concrete_function()).graph
    options = ProfileOptionBuilder(ProfileOptionBuilder.float_operation()).with_empty_output().build()
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # it would say that the profiler is an old one; there is no newer
    try:
        return float(profile(graph, options=options).total_float_ops) / 1e9
    finally:
        logger.setLevel(level)


def _contenders(name: str, network: Any, say: Callable[[str], None]) -> list[Contender]:
    content = convert(network)
    made = [Contender(f"{name} float32", 1, interpret(content, 1)[0])]
    pictures = [_picture(seed, int(network.input_shape[1])) for seed in range(_CALIBRATION)]
    try:
        quantised = Quantiser(content, pictures).quantise("int8")
    except ExportError as error:  # weights of a convolution above 32 MiB, say; kernels and times are the same
        say(f"{name}: int8 by TensorFlow's converter ({error})")
        quantised = convert(network, calibration=pictures)
    return [*made, Contender(f"{name} int8", 1, interpret(quantised, 1)[0])]


def _picture(seed: int, size: int) -> np.ndarray:
    """A phantom, cut to the size where that is smaller than a phantom can be."""
    side = max(size, MIN_SIZE)
    image = make_phantom("benign", seed, (side, side)).image[:size, :size, None]
    return image.astype(np.float32) / 255
