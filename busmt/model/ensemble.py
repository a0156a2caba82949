"""Several finished networks as one network: their answers averaged, or their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from busmt.config import IMAGE_INPUT, LABEL_LOGITS_OUTPUT, MASK_LOGITS_OUTPUT
from busmt.model.outputs import REFINEMENT_LAYER, finish


@keras.saving.register_keras_serializable(package="busmt")
class Mirror(layers.Layer):
    """An image or map with left and right exchanged.

    Input shape:
        (B, H, W, C).

    Output shape:
        As the input.

    Example:
        >>> Mirror()(ops.reshape(ops.arange(3), (1, 1, 3, 1)))[0, 0, :, 0].numpy().tolist()
        [2, 1, 0]
    """

    def call(self, inputs: Any) -> Any:
        return ops.flip(inputs, axis=2)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="busmt")
class Resize(layers.Layer):
    """An image or map at another size, bilinear without antialiasing.

    Args:
        size: side of the result, pixels.

    Input shape:
        (B, H, W, C).

    Output shape:
        (B, size, size, C).

    Example:
        >>> tuple(Resize(4)(ops.ones((1, 8, 8, 1))).shape)
        (1, 4, 4, 1)
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, inputs: Any) -> Any:
        return ops.image.resize(inputs, (self.size, self.size), interpolation="bilinear", data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self) -> Any:
        return {**super().get_config(), "size": self.size}


def average(networks: Sequence[keras.Model], refinement: str, mirror: bool = False) -> keras.Model:
    """A network whose logits are the means of those of its members.

    Each weight of the last layer (see `busmt.model.outputs.REFINEMENT_LAYER`), learned or fitted, is the mean of the
    members', so that mask and class agree as they do in a single network.

    Args:
        networks: with the same tasks and kind of refinement; two or more, or one with `mirror`. Those with a smaller
            input than the largest get the image scaled down, and their masks are scaled up.
        refinement: that kind; see `busmt.config.NetworkConfig`.
        mirror: average over the image and its mirror image as well (test-time augmentation); twice the time.

    Returns:
        A model with the inputs and outputs of its members, at the largest input size among them.
    """
    largest = max(networks, key=lambda network: network.input_shape[1])
    image = keras.Input(largest.input_shape[1:], name=IMAGE_INPUT)
    names = [name for name in (MASK_LOGITS_OUTPUT, LABEL_LOGITS_OUTPUT) if name in networks[0].output]
    answers = []
    for number, network in enumerate(networks):
        member = _at_size(network, names, largest.input_shape[1], number)
        answers.append(member(image))
        if mirror:
            turned = zip(names, member(Mirror(name=f"mirror{number}")(image)), strict=True)
            answers.append([_back(name, value, number) for name, value in turned])
    means = [
        layers.Average(name=f"mean_{name}")(parts)
        for name, parts in zip(names, zip(*answers, strict=True), strict=True)
    ]
    logits = dict(zip(names, means, strict=True))
    model = finish(image, logits.get(MASK_LOGITS_OUTPUT), logits.get(LABEL_LOGITS_OUTPUT), refinement)
    _set_means(model.get_layer(REFINEMENT_LAYER), [network.get_layer(REFINEMENT_LAYER) for network in networks])
    return model


def _at_size(network: keras.Model, names: Sequence[str], size: int, number: int) -> keras.Model:
    """A model from an image (B, size, size, 1) to those logits of a network, masks of that size."""
    logits = keras.Model(network.input, [network.output[name] for name in names], name=f"member{number}")
    own = network.input_shape[1]
    if own == size:
        return logits
    image = keras.Input((size, size, network.input_shape[-1]))
    found = dict(zip(names, logits(Resize(own, name=f"shrink{number}")(image)), strict=True))
    if MASK_LOGITS_OUTPUT in found:
        found[MASK_LOGITS_OUTPUT] = Resize(size, name=f"grow{number}")(found[MASK_LOGITS_OUTPUT])
    return keras.Model(image, list(found.values()), name=f"resized{number}")


def soup(networks: Sequence[keras.Model], batches: Iterable[Any]) -> keras.Model:
    """A network of the size of one member, whose weights are the means of the members' (Wortsman et al., ICML 2022).

    This works for networks that set out from the same weights and have not gone far apart: between them, their mean
    is as good as the average of their answers, at the cost of one. The statistics of batch normalisation are no such
    mean, because they belong to the features of each member; they are taken anew, over all batches alike.

    Args:
        networks: two or more of one architecture. The first one is changed and returned.
        batches: network inputs (B, S, S, 1) as in training, some dozens of batches.

    Raises:
        ValueError: no batch.
    """
    model = networks[0]
    _set_means(model, networks)
    norms = list(_norms(model))
    momenta, count = [layer.momentum for layer in norms], 0
    for count, batch in enumerate(batches, start=1):
        for layer in norms:
            layer.momentum = (count - 1) / count  # of equal weight for all batches
        model(batch, training=True)
    if not count:
        raise ValueError("no batch to take the statistics of batch normalisation from")
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model


def _norms(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _norms(layer)
        elif isinstance(layer, layers.BatchNormalization):
            yield layer


def _set_means(target: Any, sources: Sequence[Any]) -> None:
    """Give a layer or model the mean of each weight of others like it."""
    weights = [source.get_weights() for source in sources]
    target.set_weights([np.mean(values, axis=0) for values in zip(*weights, strict=True)])


def _back(name: str, value: Any, number: int) -> Any:
    """What a network says of the mirror image, for the image itself."""
    return Mirror(name=f"mirror_back{number}")(value) if name == MASK_LOGITS_OUTPUT else value
