"""The multi-task network: U-Net with attention gates, class head and refinement."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import (
    CLASSES,
    IMAGE_INPUT,
    LABEL_LOGITS_OUTPUT,
    LABEL_OUTPUT,
    MASK_LOGITS_OUTPUT,
    MASK_OUTPUT,
    NetworkConfig,
)
from busmt.errors import DataError
from busmt.model import pretrained
from busmt.model.attention import AttentionGate
from busmt.model.encoders import convolve_twice, efficientnet_lite0, unet_encoder
from busmt.model.pooling import LesionPooling
from busmt.model.refinement import ConsistencyRefinement

REFINEMENT_LAYER = "refinement"
_GATE_PREFIX = "attention"


def build_network(config: NetworkConfig) -> keras.Model:
    """Build the functional multi-output model.

    Input `image`: (B, S, S, 1), float32, in [0, 1]. Outputs, by name:

    - `mask` (B, S, S, 1): lesion probability after refinement;
    - `label` (B, 3): class probabilities after refinement, in the order of `busmt.config.CLASSES`;
    - `mask_logits` (B, S, S, 1) and `label_logits` (B, 3): before refinement.

    Args:
        config: encoder, sizes, dropout and the parts to leave out. `encoder: efficientnet_lite0` with
            `pretrained` needs the package named in `busmt.model.pretrained`; see `available_encoder`.

    Raises:
        DataError: the weight file is damaged, or its package is not installed.
    """
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    skips = _encode(image, config)
    *skips, bottleneck = skips
    if config.dropout:
        bottleneck = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(bottleneck)
    decoded = _decode(skips, bottleneck, config)
    logits = layers.Conv2D(1, 1, name="mask_head")(decoded[-1])
    if config.encoder != "unet":  # the decoder ends at half resolution
        logits = layers.UpSampling2D(2, interpolation="bilinear", name="mask_upsample")(logits)
    mask_logits = layers.Identity(name=MASK_LOGITS_OUTPUT)(logits)
    label_logits = _classify(bottleneck, decoded, mask_logits, config)
    refinement = ConsistencyRefinement(exchange=config.refinement, name=REFINEMENT_LAYER)
    mask, label = refinement([mask_logits, label_logits])
    outputs = {
        MASK_OUTPUT: layers.Identity(name=MASK_OUTPUT)(mask),
        LABEL_OUTPUT: layers.Identity(name=LABEL_OUTPUT)(label),
        MASK_LOGITS_OUTPUT: mask_logits,
        LABEL_LOGITS_OUTPUT: label_logits,
    }
    return keras.Model(image, outputs, name="busmt")


def attention_model(network: keras.Model) -> keras.Model | None:
    """A model that returns the attention coefficients of `network` by gate name, finest gate last.

    Each is (B, H, W, 1) in (0, 1) on the grid of its skip connection. None where the network has no gates.
    """
    gates = [layer for layer in network.layers if isinstance(layer, AttentionGate)]
    if not gates:
        return None
    return keras.Model(network.input, {gate.name: gate.output[1] for gate in gates})


def available_encoder(config: NetworkConfig) -> str:
    """The encoder that can be built here: the plain one where the pretrained weights are not installed."""
    if config.encoder == "efficientnet_lite0" and config.pretrained and pretrained.weights_path() is None:
        return "unet"
    return config.encoder


def _encode(image: Any, config: NetworkConfig) -> list[Any]:
    if config.encoder == "unet":
        return unet_encoder(image, config.width, config.depth)
    if not config.pretrained:
        return efficientnet_lite0(image)
    path = pretrained.weights_path()
    if path is None:
        raise DataError(
            f"{config.encoder}: its ImageNet weights are not installed ({pretrained.EXTRA}); "
            "set network.pretrained: false to start without them"
        )
    return efficientnet_lite0(image, pretrained.read_legacy_torch(path))


def _decode(skips: list[Any], bottleneck: Any, config: NetworkConfig) -> list[Any]:
    """Decoder features, coarsest first."""
    decoded, tensor = [], bottleneck
    for level in reversed(range(len(skips))):
        skip, filters = skips[level], _decoder_filters(level, config)
        if config.attention:
            gate = AttentionGate(max(8, filters // 2), name=f"{_GATE_PREFIX}{level}")
            skip, _ = gate([skip, tensor])
        tensor = layers.UpSampling2D(2, interpolation="bilinear", name=f"decoder{level}_upsample")(tensor)
        tensor = layers.Concatenate(name=f"decoder{level}_concat")([tensor, skip])
        tensor = convolve_twice(tensor, filters, f"decoder{level}")
        decoded.append(tensor)
    return decoded


def _decoder_filters(level: int, config: NetworkConfig) -> int:
    if config.encoder == "unet":
        return config.width * 2**level
    return config.decoder_width * (level + 1)


def _classify(bottleneck: Any, decoded: list[Any], mask_logits: Any, config: NetworkConfig) -> Any:
    """Class logits from the shared bottleneck and from what lies under the predicted mask."""
    parts = [
        layers.GlobalAveragePooling2D(name="class_mean")(bottleneck),
        layers.GlobalMaxPooling2D(name="class_max")(bottleneck),
        LesionPooling(name="class_lesion_coarse")([decoded[0], mask_logits]),
        LesionPooling(name="class_lesion_fine")([decoded[-2], mask_logits]),
    ]
    tensor = layers.Concatenate(name="class_features")(parts)
    tensor = layers.Dense(64, activation="relu", name="class_hidden")(tensor)
    if config.dropout:
        tensor = layers.Dropout(config.dropout, name="class_dropout")(tensor)
    return layers.Dense(len(CLASSES), name=LABEL_LOGITS_OUTPUT)(tensor)
