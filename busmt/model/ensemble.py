"""Several finished networks as one: their logits are averaged, and refined once."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from busmt.config import IMAGE_INPUT, LABEL_LOGITS_OUTPUT, MASK_LOGITS_OUTPUT
from busmt.model.outputs import REFINEMENT_LAYER, finish


def average(networks: Sequence[keras.Model], refinement: str) -> keras.Model:
    """A network whose logits are the means of those of its members.

    Each weight of the last layer (see `busmt.model.outputs.REFINEMENT_LAYER`), learned or fitted, is the mean of the
    members', so that mask and class agree as they do in a single network.

    Args:
        networks: two or more, of one input size, with the same tasks and kind of refinement.
        refinement: that kind; see `busmt.config.NetworkConfig`.

    Returns:
        A model with the inputs and outputs of its members.
    """
    image = keras.Input(networks[0].input_shape[1:], name=IMAGE_INPUT)
    names = [name for name in (MASK_LOGITS_OUTPUT, LABEL_LOGITS_OUTPUT) if name in networks[0].output]
    members = [
        keras.Model(network.input, [network.output[name] for name in names], name=f"member{number}")(image)
        for number, network in enumerate(networks)
    ]
    means = [
        layers.Average(name=f"mean_{name}")(parts)
        for name, parts in zip(names, zip(*members, strict=True), strict=True)
    ]
    logits = dict(zip(names, means, strict=True))
    model = finish(image, logits.get(MASK_LOGITS_OUTPUT), logits.get(LABEL_LOGITS_OUTPUT), refinement)
    last = [network.get_layer(REFINEMENT_LAYER).get_weights() for network in networks]
    model.get_layer(REFINEMENT_LAYER).set_weights([np.mean(values, axis=0) for values in zip(*last, strict=True)])
    return model
