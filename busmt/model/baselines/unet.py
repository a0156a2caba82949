"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015, figure 1): segmentation alone.

Five levels of two 3x3 convolutions, doubled filters at each level, up-convolutions and concatenated skips; 31.0 M
parameters at width 64. Chosen here: same padding instead of cropped borders, as nearly all later work has it;
batch normalisation after each convolution; bilinear upsampling and a 2x2 convolution for the up-convolution.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import mask_head, up_convolve
from busmt.model.encoders import convolve_twice, unet_encoder
from busmt.model.outputs import finish


def build(config: NetworkConfig) -> keras.Model:
    """Build it with `network.width` filters at the finest level and `network.depth` poolings."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    *skips, tensor = unet_encoder(image, config.width, config.depth)
    if config.dropout:
        tensor = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(tensor)
    for level in reversed(range(config.depth)):
        tensor = _decode(tensor, skips[level], config.width * 2**level, f"decoder{level}")
    return finish(image, mask_head(tensor))


def _decode(tensor: Any, skip: Any, filters: int, name: str) -> Any:
    tensor = layers.Concatenate(name=f"{name}_concat")([skip, up_convolve(tensor, filters, name)])
    return convolve_twice(tensor, filters, name)
