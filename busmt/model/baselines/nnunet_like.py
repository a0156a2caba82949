"""A strong plain U-Net after nnU-Net (Isensee et al., Nature Methods 2021, figure 2, supplement): segmentation alone.

nnU-Net configures itself from the data; this is its two-dimensional recipe with the choices made: strided 3x3
convolutions to halve the resolution, at most 16 times the filters of the finest level (512 of 32), down to four
pixels, instance normalisation, leaky ReLU (0.01), deep supervision on all decoder levels but the two coarsest, each
with half the weight of the finer one, and heavy augmentation. Chosen here: the optimiser, losses and epochs of
the other systems, so that the network and its augmentation are what is compared; bilinear upsampling and a 2x2
convolution for the transposed one; no ensemble of folds, no flips in inference.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import convolve, mask_head, twice, up_convolve, upsample
from busmt.model.outputs import DEEP_OUTPUT, finish

_WIDEST = 16  # times the filters of the finest level
_STYLE: dict[str, Any] = {"norm": "instance", "slope": 0.01}


def build(config: NetworkConfig) -> keras.Model:
    """Build it with `network.width` filters at the finest level; the number of levels follows from the input size."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    filters = [config.width * min(2**level, _WIDEST) for level in range(_halvings(config.input_size) + 1)]
    features = [twice(image, filters[0], "encoder0", **_STYLE)]
    for level, count in enumerate(filters[1:], start=1):
        tensor = convolve(features[-1], count, f"encoder{level}_1", stride=2, **_STYLE)
        features.append(convolve(tensor, count, f"encoder{level}_2", **_STYLE))
    tensor, decoded = features[-1], {}
    for level in reversed(range(len(features) - 1)):
        name = f"decoder{level}"
        tensor = layers.Concatenate(name=f"{name}_concat")([features[level], up_convolve(tensor, filters[level], name)])
        tensor = twice(tensor, filters[level], name, **_STYLE)
        decoded[level] = tensor
    deep = {}
    for level in range(1, len(decoded) - 2):
        name = f"{DEEP_OUTPUT}{level}"
        deep[name] = upsample(mask_head(decoded[level], f"mask_head{level}"), 2**level, f"mask_deep{level}")
    return finish(image, mask_head(decoded[0]), auxiliary=deep)


def _halvings(side: int) -> int:
    """How often a side can be halved to no less than four pixels."""
    count = 0
    while side % 2 == 0 and side >= 8:
        side, count = side // 2, count + 1
    return count
