"""After the hybrid receptive field U-Net for breast ultrasound (Feng, Liu, Xue): segmentation alone.

Little beyond title and abstract is public, so this is built after it, not of it: a U-Net whose blocks mix receptive
fields. Everything below that is chosen here: a block has four parallel branches with a quarter of the filters each,
a 3x3 convolution, two of them (5x5), and 3x3 convolutions with dilations 2 and 4 (5x5 and 9x9); a 1x1 convolution
mixes them, and a 1x1 projection of the input is added before the last ReLU. Skips and decoder are U-Net's.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import convolve, mask_head, pool, up_convolve
from busmt.model.normalisation import BatchNormalization
from busmt.model.outputs import finish


def build(config: NetworkConfig) -> keras.Model:
    """Build it with `network.width` filters at the finest level and `network.depth` poolings."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    skips, tensor = [], image
    for level in range(config.depth + 1):
        if level:
            tensor = pool(tensor, f"encoder{level}")
        tensor = _block(tensor, config.width * 2**level, f"encoder{level}")
        skips.append(tensor)
    if config.dropout:
        tensor = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(tensor)
    for level in reversed(range(config.depth)):
        name, filters = f"decoder{level}", config.width * 2**level
        tensor = layers.Concatenate(name=f"{name}_concat")([skips[level], up_convolve(tensor, filters, name)])
        tensor = _block(tensor, filters, name)
    return finish(image, mask_head(tensor))


def _block(tensor: Any, filters: int, name: str) -> Any:
    quarter = max(1, filters // 4)
    fields = [
        convolve(tensor, quarter, f"{name}_near"),
        convolve(convolve(tensor, quarter, f"{name}_middle1"), quarter, f"{name}_middle2"),
        convolve(tensor, quarter, f"{name}_wide2", dilation=2),
        convolve(tensor, quarter, f"{name}_wide4", dilation=4),
    ]
    mixed = layers.Concatenate(name=f"{name}_fields")(fields)
    mixed = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_mix")(mixed)
    mixed = BatchNormalization(momentum=0.9, name=f"{name}_mix_norm")(mixed)
    shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(tensor)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([mixed, shortcut]))
