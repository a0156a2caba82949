"""Attention U-Net (Oktay et al., MIDL 2018, figures 1 and 2, equations 1 and 2): segmentation alone.

U-Net with an additive gate on each skip, told what to pass by the coarser decoder signal. About 34.9 M parameters
are commonly reported at width 64. Chosen here: two dimensions, as for ultrasound images (the paper's are three);
gates on all levels (the paper leaves out the finest); up-convolutions of 3x3 with batch normalisation, as in the
implementation that the 34.9 M come from; no deep supervision.
"""

from __future__ import annotations

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.attention import AttentionGate
from busmt.model.blocks import convolve, mask_head, upsample
from busmt.model.encoders import convolve_twice, unet_encoder
from busmt.model.outputs import finish


def build(config: NetworkConfig) -> keras.Model:
    """Build it with `network.width` filters at the finest level and `network.depth` poolings."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    *skips, tensor = unet_encoder(image, config.width, config.depth)
    if config.dropout:
        tensor = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(tensor)
    for level in reversed(range(config.depth)):
        name, filters = f"decoder{level}", config.width * 2**level
        skip, _ = AttentionGate(max(1, filters // 2), name=f"attention{level}")([skips[level], tensor])
        tensor = convolve(upsample(tensor, 2, name), filters, f"{name}_up")
        tensor = layers.Concatenate(name=f"{name}_concat")([skip, tensor])
        tensor = convolve_twice(tensor, filters, name)
    return finish(image, mask_head(tensor))
