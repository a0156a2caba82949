"""After BAMT-Net (Liu, He, Xu): boundary-aware multi-task learning, in two and in three dimensions.

BAMT-Net segments and classifies tumours in three-dimensional automated breast ultrasound. Little beyond title and
abstract is public, so this is built after it, not of it. Everything below that is chosen here: a U-Net with a second
head at the decoder's end that draws the lesion's outline; the outline's probability is fed back to the mask head and
to the class branch, which pools the bottleneck and the decoder's features along the outline; the outline's loss is
Dice and cross-entropy against the band of two pixels along the edge of the true mask (`losses.outline`).

`build` is the two-dimensional system of the comparison. `build_volumes` is the same network in three dimensions, for
labs with volumes; `busmt.training.volumes` trains it on synthetic ones.
"""

from __future__ import annotations

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import mask_head, pool, twice, up_convolve
from busmt.model.outputs import BOUNDARY_OUTPUT, finish, label_head

_MEANS = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}
_DROPOUTS = {2: layers.SpatialDropout2D, 3: layers.SpatialDropout3D}


def build(config: NetworkConfig) -> keras.Model:
    """Build the two-dimensional network with `network.width` filters at the finest level."""
    return _build((config.input_size, config.input_size, 1), config)


def build_volumes(side: int, width: int = 8, depth: int = 3, dropout: float = 0.1) -> keras.Model:
    """Build the three-dimensional network.

    Input `image` (B, S, S, S, 1), float32, in [0, 1]; outputs as in two dimensions, `mask` (B, S, S, S, 1).

    Args:
        side: S; divisible by 2 ** depth.
        width: filters of the finest level, doubled at each level below.
        depth: number of poolings.
        dropout: rate at the bottleneck and in the class branch.
    """
    config = NetworkConfig(width=width, depth=depth, dropout=dropout, refinement="none")
    return _build((side, side, side, 1), config)


def _build(shape: tuple[int, ...], config: NetworkConfig) -> keras.Model:
    image = keras.Input(shape, name=IMAGE_INPUT)
    ndim = len(shape) - 1
    skips, tensor = [], image
    for level in range(config.depth + 1):
        if level:
            tensor = pool(tensor, f"encoder{level}")
        tensor = twice(tensor, config.width * 2**level, f"encoder{level}")
        skips.append(tensor)
    bottleneck = tensor
    if config.dropout:
        tensor = bottleneck = _DROPOUTS[ndim](config.dropout, name="bottleneck_dropout")(bottleneck)
    for level in reversed(range(config.depth)):
        name, filters = f"decoder{level}", config.width * 2**level
        tensor = layers.Concatenate(name=f"{name}_concat")([skips[level], up_convolve(tensor, filters, name)])
        tensor = twice(tensor, filters, name)
    boundary = mask_head(tensor, "mask_boundary")
    band = layers.Activation("sigmoid", name="mask_band")(boundary)
    mask_logits = mask_head(layers.Concatenate(name="mask_features")([tensor, band]))
    along = layers.Multiply(name="class_along")([tensor, band])
    features = [_MEANS[ndim](name="class_mean")(bottleneck), _MEANS[ndim](name="class_mean_band")(along)]
    hidden = layers.Dense(64, activation="relu", name="class_hidden")(
        layers.Concatenate(name="class_features")(features)
    )
    if config.dropout:
        hidden = layers.Dropout(config.dropout, name="class_dropout")(hidden)
    return finish(image, mask_logits, label_head(hidden), config.refinement, {BOUNDARY_OUTPUT: boundary})
