"""AAU-net (Chen, Li, Zhang, Dai, IEEE TMI 2022, arXiv 2204.12077): adaptive attention U-Net, segmentation alone.

Each convolution of a U-Net is replaced by the hybrid adaptive attention module (figure 2): parallel convolutions of
different receptive fields, weighed against each other by a channel and then by a spatial attention that are computed
from the features themselves. About 42.7 M parameters.

Chosen here: 32 filters at the finest level, two modules a level and a 1x1 convolution at the end of a module, which
gives 42.3 M and is the only such combination that comes near the published count; 3x3 up-convolutions after bilinear
upsampling; ReLU after each module, which the authors' code leaves out and a stack of linear outputs needs.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import convolve, mask_head, pool, up_convolve
from busmt.model.outputs import finish


def build(config: NetworkConfig) -> keras.Model:
    """Build it with `network.width` filters at the finest level (the paper's 32) and `network.depth` poolings."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    skips, tensor = [], image
    for level in range(config.depth + 1):
        if level:
            tensor = pool(tensor, f"encoder{level}")
        tensor = _modules(tensor, config.width * 2**level, f"encoder{level}")
        skips.append(tensor)
    if config.dropout:
        tensor = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(tensor)
    for level in reversed(range(config.depth)):
        name, filters = f"decoder{level}", config.width * 2**level
        tensor = up_convolve(tensor, filters, name, kernel=3)
        tensor = layers.Concatenate(name=f"{name}_concat")([skips[level], tensor])
        tensor = _modules(tensor, filters, name)
    return finish(image, mask_head(tensor))


def _modules(tensor: Any, filters: int, name: str) -> Any:
    for step in (1, 2):
        own = f"{name}_haam{step}"
        tensor = _spatial(tensor, _channel(tensor, filters, own), filters, own)
    return tensor


def _channel(tensor: Any, filters: int, name: str) -> Any:
    """Channel attention: a dilated 3x3 against a 5x5 convolution, weighed by alpha and 1 - alpha for each channel."""
    wide = convolve(tensor, filters, f"{name}_dilated", dilation=3)
    large = convolve(tensor, filters, f"{name}_large", kernel=5)
    both = layers.Concatenate(name=f"{name}_fields")([wide, large])
    alpha = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(both)
    alpha = convolve(alpha, filters, f"{name}_squeeze", kernel=1)  # dense layers, on one pixel
    alpha = layers.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_alpha")(alpha)
    return convolve(_weigh(wide, large, alpha, f"{name}_channel"), filters, f"{name}_channel", kernel=1)


def _spatial(tensor: Any, channel: Any, filters: int, name: str) -> Any:
    """Spatial attention: the channel attention's output against plain convolutions, weighed for each pixel."""
    plain = convolve(tensor, filters, f"{name}_plain")
    plain = convolve(plain, filters, f"{name}_point", kernel=1)
    beta = layers.ReLU(name=f"{name}_both")(layers.Add(name=f"{name}_sum")([channel, plain]))
    beta = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_beta")(beta)
    return convolve(_weigh(channel, plain, beta, f"{name}_spatial"), filters, f"{name}_spatial", kernel=1)


def _weigh(first: Any, second: Any, share: Any, name: str) -> Any:
    """Concatenation of share * first and (1 - share) * second."""
    rest = layers.Rescaling(-1.0, 1.0, name=f"{name}_rest")(share)
    parts = [
        layers.Multiply(name=f"{name}_first")([first, share]),
        layers.Multiply(name=f"{name}_second")([second, rest]),
    ]
    return layers.Concatenate(name=f"{name}_concat")(parts)
