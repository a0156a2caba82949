"""Where a network looked: attention-gate maps, a class activation map, and a check that both mean something.

The class activation map is Grad-CAM (Selvaraju et al., ICCV 2017) on the bottleneck features, which the
class head shares with the decoder. The check is the cascading randomisation of Adebayo et al. (Sanity
Checks for Saliency Maps, NeurIPS 2018): weights are shuffled from the head down; a map that stays the same
shows the image and not what the network has learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from busmt.config import (
    CLASSES,
    LABEL_LOGITS_OUTPUT,
    LABEL_OUTPUT,
    MASK_OUTPUT,
    MASK_THRESHOLD,
    TASKS,
    tasks_of,
)
from busmt.data.images import Letterbox
from busmt.errors import RunError
from busmt.evaluation.cases import outlined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAM = "class activation"
STAGES: tuple[str, ...] = ("trained", "class head shuffled", "and decoder", "and encoder")
"""Stages of the randomisation: each shuffles the weights of its part and keeps those before it shuffled."""

_POOLING = "class_mean"  # pools the bottleneck features for the class head
_HEAD_PREFIX = "class_"
_DECODER_PREFIXES = ("decoder", "attention", "mask_")


@dataclass(frozen=True)
class Explanation:
    """What a network says about one image, and where it looked.

    Attributes:
        probabilities: (3,), float32, refined.
        mask_map: (S, S), float32, refined lesion probability.
        target: index of the class that the class activation map explains.
        maps: name to (S, S), float32, in [0, 1]: the class activation map, scaled to a maximum of 1 (all 0 where
            nothing speaks for the class), and the coefficients of each attention gate, finest gate last.
    """

    probabilities: np.ndarray
    mask_map: np.ndarray
    target: int
    maps: dict[str, np.ndarray]


class Explainer:
    """Explains one image at a time. Needs Keras on TensorFlow, for the gradients.

    Args:
        network: built by `busmt.model.network.build_network`.

    Raises:
        RunError: another backend, or a network without the layers of busmt.
    """

    def __init__(self, network: Any):
        import keras

        from busmt.model.network import attention_model

        if keras.backend.backend() != "tensorflow":
            raise RunError(f"explanations need KERAS_BACKEND=tensorflow, not {keras.backend.backend()}")
        try:
            features = network.get_layer(_POOLING).input
        except ValueError as error:
            raise RunError(f"the network has no layer {_POOLING}; was it made by busmt?") from error
        if tasks_of(network.output) != TASKS:
            raise RunError("explanations need a network with mask and class; this one has one task")
        gates = attention_model(network)
        self.network = network
        self.size = int(network.input_shape[1])
        self._probe = keras.Model(
            network.input,
            {
                "features": features,
                "logits": network.output[LABEL_LOGITS_OUTPUT],
                "label": network.output[LABEL_OUTPUT],
                "mask": network.output[MASK_OUTPUT],
                "gates": gates.output if gates is not None else {},
            },
        )

    def explain(self, picture: np.ndarray, target: int | None = None) -> Explanation:
        """Explain the network's answer to one image.

        Args:
            picture: network input (S, S, 1), float32, in [0, 1].
            target: index of the class to explain; default the answer.
        """
        import tensorflow as tf

        batch = tf.constant(picture[None], tf.float32)
        with tf.GradientTape() as tape:
            outputs = self._probe(batch, training=False)
            label = int(np.argmax(outputs["label"][0])) if target is None else target
            others = [index for index in range(len(CLASSES)) if index != label]
            logits = outputs["logits"][0]
            # softmax sees differences of logits only, so the class is explained against the others
            evidence = logits[label] - tf.reduce_logsumexp(tf.gather(logits, others))
        gradient = tape.gradient(evidence, outputs["features"])
        maps = {CAM: self._upscale(grad_cam(outputs["features"][0].numpy(), gradient[0].numpy()))}
        for name, coefficients in outputs["gates"].items():
            maps[name] = self._upscale(coefficients[0, ..., 0].numpy())
        return Explanation(outputs["label"][0].numpy(), outputs["mask"][0, ..., 0].numpy(), label, maps)

    def randomised(self, picture: np.ndarray, seed: int = 0) -> dict[str, Explanation]:
        """Explanations of the same class at each stage of `STAGES`. The network is left as it was."""
        trained = self.explain(picture)
        results = {STAGES[0]: trained}
        with _restored(self.network):
            generator = np.random.default_rng(seed)
            for stage, part in zip(STAGES[1:], _parts(self.network), strict=True):
                for layer in part:
                    layer.set_weights([_shuffled(weight, generator) for weight in layer.get_weights()])
                results[stage] = self.explain(picture, trained.target)
        return results

    def _upscale(self, small: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.resize(small.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_LINEAR)


def grad_cam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """relu(sum_k a_k F_k) with a_k the mean gradient of channel k, divided by its maximum.

    Args:
        features, gradient: (h, w, K).

    Returns:
        (h, w), float, in [0, 1]; all 0 where nothing speaks for the class.
    """
    weights = gradient.mean(axis=(0, 1))
    raw = np.maximum(features @ weights, 0)
    peak = raw.max()
    return raw / peak if peak > 0 else raw


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, -1 to 1; 0 where one of them is constant."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def sanity_scores(results: dict[str, Explanation]) -> dict[str, dict[str, float]]:
    """Similarity of each map to the trained network's, by stage and map."""
    trained = results[STAGES[0]].maps
    return {
        stage: {name: similarity(trained[name], values) for name, values in result.maps.items()}
        for stage, result in results.items()
    }


def draw_explanation(image: np.ndarray, letterbox: Letterbox, explanation: Explanation, title: str = "") -> Figure:
    """The image with its outline, then each map over it.

    Args:
        image: (H, W, 3), uint8, RGB.
        letterbox: where it lies in the network's square.
        explanation: of it.
        title: above the figure.
    """
    figure, panels = _grid(1, 1 + len(explanation.maps), title)
    mask = letterbox.restore_mask(explanation.mask_map, MASK_THRESHOLD)
    answer = CLASSES[int(explanation.probabilities.argmax())]
    _show(panels[0][0], outlined(image, None, mask), f"{answer}, {100 * explanation.probabilities.max():.0f} %")
    for panel, (name, values) in zip(panels[0][1:], explanation.maps.items(), strict=True):
        heading = f"{CAM}: {CLASSES[explanation.target]}" if name == CAM else _gate_name(name, values)
        _show(panel, overlaid(image, letterbox.restore(values)), heading)
    return figure


def draw_sanity(image: np.ndarray, letterbox: Letterbox, results: dict[str, Explanation]) -> Figure:
    """Each map (columns) at each stage of the randomisation (rows), with its similarity to the trained one."""
    names, scores = list(results[STAGES[0]].maps), sanity_scores(results)
    title = "Maps must change when weights are shuffled (rank correlation with the trained network's)"
    figure, panels = _grid(len(results), len(names), title)
    for row, (stage, result) in zip(panels, results.items(), strict=True):
        for panel, name in zip(row, names, strict=True):
            heading = f"{stage}: {name}" + ("" if stage == STAGES[0] else f" ({scores[stage][name]:.2f})")
            _show(panel, overlaid(image, letterbox.restore(result.maps[name])), heading)
    return figure


def overlaid(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map over an image, the more opaque the higher its value.

    Args:
        image: (H, W, 3), uint8, RGB.
        values: (H, W), float, in [0, 1].

    Returns:
        (H, W, 3), uint8, RGB; colours of viridis, which colour-blind readers can order.
    """
    import matplotlib

    values = np.clip(values, 0, 1)[..., None]
    colours = matplotlib.colormaps["viridis"](values[..., 0])[..., :3] * 255
    return np.round(image * (1 - 0.6 * values) + colours * 0.6 * values).astype(np.uint8)


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, list[list[Any]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * columns, 2.7 * rows + (0.3 if title else 0)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes.tolist()


def _show(panel: Any, picture: np.ndarray, heading: str) -> None:
    panel.imshow(picture)
    panel.set_title(heading, fontsize=8)
    panel.set_axis_off()


def _gate_name(name: str, values: np.ndarray) -> str:
    return f"{name}: {values.min():.2f} to {values.max():.2f}"


@contextmanager
def _restored(network: Any) -> Iterator[None]:
    weights = network.get_weights()
    try:
        yield
    finally:
        network.set_weights(weights)


def _parts(network: Any) -> list[list[Any]]:
    """Layers with weights of the class head, the decoder and the encoder; the refinement stays as it is."""
    from busmt.model.network import REFINEMENT_LAYER

    head, decoder, encoder = [], [], []
    for layer in network.layers:
        if not layer.weights or layer.name == REFINEMENT_LAYER:
            continue
        if layer.name == LABEL_LOGITS_OUTPUT or layer.name.startswith(_HEAD_PREFIX):
            head.append(layer)
        elif layer.name.startswith(_DECODER_PREFIXES):
            decoder.append(layer)
        else:
            encoder.append(layer)
    return [head, decoder, encoder]


def _shuffled(weight: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same values in another order: what was learned is gone, the scale of the activations stays."""
    return generator.permutation(weight.ravel()).reshape(weight.shape)
