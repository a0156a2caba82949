"""The multi-task framework of Aumente-Maestro, Díez, Remeseiro (CMPB 2025, doi 10.1016/j.cmpb.2024.108540).

Two segmentation networks with a class branch: UNet++ (Zhou et al., DLMIA 2018; nodes X^{i,j} of figure 1) and an
nnU-Net-style U-Net. The branch sees the coarsest encoder level, the bottleneck and the coarsest decoder level, brought
to one grid. Written anew from the publication; the authors' code (Apache-2.0) was read for widths and details.

What else makes up the framework is configuration, and comes with the name unless told otherwise: each class repeated
round(1 / its share) times (`balance.mode: round`), mirrored and freely rotated images, 0.35 Dice and 0.65 focal
loss (`loss`), the two hard rules in inference (`network.refinement: rules`). Their batches of 2, Adam with 1e-4 and
200 epochs are not part of it: a comparison gives every system the same budget; docs/baselines.md has their protocol.

Chosen here: bilinear upsampling and a 2x2 convolution for transposed convolutions; deep supervision on, each coarser
output with half the weight of the finer one (theirs: 1, 1/2, 1/3, 1/4); the decoder's features of the class branch
at the grid of the bottleneck (UNet++) or of the coarsest decoder level (nnU-Net style), as in their code.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import convolve, mask_head, pool, twice, up_convolve, upsample
from busmt.model.outputs import DEEP_OUTPUT, finish, label_head

_NESTED: dict[str, Any] = {"norm": "instance", "slope": 0.1}
_PLAIN: dict[str, Any] = {"norm": "instance", "slope": 0.01}


def build(config: NetworkConfig) -> keras.Model:
    """Build the variant of `network.architecture` with `network.width` filters at the finest level.

    The nnU-Net style has five poolings: give it 64 pixels or more, for instance normalisation leaves nothing of one.
    """
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    make = _unetpp if config.architecture == "aumente-unetpp" else _nnunet
    masks, features, style = make(image, config.width)
    label_logits = _branch(features, config.width, twice if make is _unetpp else convolve, style)
    deep = {f"{DEEP_OUTPUT}{number}": logits for number, logits in enumerate(masks[1:], start=1)}
    return finish(image, masks[0], label_logits, config.refinement, deep)


def _unetpp(image: Any, width: int) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Mask logits, finest first; features of the class branch on one grid; style of its convolutions."""
    levels = 5
    nodes: dict[tuple[int, int], Any] = {}
    for level in range(levels):
        below = pool(nodes[level - 1, 0], f"encoder{level}") if level else image
        nodes[level, 0] = twice(below, width * 2**level, f"encoder{level}", **_NESTED)
    for column in range(1, levels):
        for level in range(levels - column):
            name, filters = f"decoder{column}{level}", width * 2**level
            before = [nodes[level, earlier] for earlier in range(column)]
            # at the finest level the upsampled features keep their channels, as in the authors' code
            risen = up_convolve(nodes[level + 1, column - 1], filters * (1 if level else 2), name)
            tensor = layers.Concatenate(name=f"{name}_concat")([*before, risen])
            nodes[level, column] = twice(tensor, filters, name, **_NESTED)
    masks = [mask_head(nodes[0, column], f"mask_head{column}") for column in reversed(range(1, levels))]
    sides = _shared_down([nodes[levels - 2, 0], nodes[levels - 2, 1]], width * 2 ** (levels - 1))
    return masks, [*sides, nodes[levels - 1, 0]], _NESTED


def _shared_down(tensors: list[Any], filters: int) -> list[Any]:
    """Pooling and two convolutions whose weights are shared by the tensors: a model that is called twice."""
    inner = keras.Input(tensors[0].shape[1:], name="features")
    shared = keras.Model(inner, twice(pool(inner, "class_side"), filters, "class_side", **_NESTED), name="class_down")
    return [shared(tensor) for tensor in tensors]


def _nnunet(image: Any, width: int) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """As `_unetpp`: five encoder levels, at most ten times the filters of the finest, and a bottleneck."""
    filters = [width, 2 * width, 4 * width, 8 * width, 10 * width]
    skips, tensor = [], image
    for level, count in enumerate(filters):
        skips.append(twice(tensor, count, f"encoder{level}", **_PLAIN))
        tensor = pool(skips[-1], f"encoder{level + 1}")
    tensor = twice(tensor, filters[-1], f"encoder{len(filters)}", **_PLAIN)
    features = [convolve(skips[-1], filters[-1], "class_encoder", **_PLAIN)]
    masks: list[Any] = []
    for level in reversed(range(len(filters))):
        name, count = f"decoder{level}", filters[max(level - 1, 0)]
        risen = up_convolve(tensor, filters[level], name)
        tensor = layers.Concatenate(name=f"{name}_concat")([skips[level], risen])
        tensor = twice(tensor, count, name, **_PLAIN)
        if level == len(filters) - 1:
            features += [risen, convolve(tensor, filters[-1], "class_decoder", **_PLAIN)]
        else:
            masks.insert(0, upsample(mask_head(tensor, f"mask_head{level}"), 2**level, f"mask_deep{level}"))
    return masks, features, _PLAIN


def _branch(features: list[Any], width: int, block: Any, style: dict[str, Any]) -> Any:
    """512 filters at the published width, pooled, then dense layers of 256 and the classes."""
    hidden = width * 512 // (24 if block is twice else 32)
    tensor = block(layers.Concatenate(name="class_features")(features), hidden, "class_mix", **style)
    tensor = layers.GlobalAveragePooling2D(name="class_mean")(tensor)
    return label_head(layers.Dense(max(1, hidden // 2), activation="relu", name="class_hidden")(tensor))
