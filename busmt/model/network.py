"""The multi-task network: U-Net with attention gates, class head and refinement."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, LABEL_OUTPUT, MASK_OUTPUT, OURS, NetworkConfig
from busmt.model import baselines, pretrained
from busmt.model import blocks as blocks  # registers its layers, for networks that are loaded
from busmt.model import ensemble as ensemble
from busmt.model.attention import AttentionGate
from busmt.model.decoder import decode, segment
from busmt.model.encoders import encode
from busmt.model.outputs import REFINEMENT_LAYER as REFINEMENT_LAYER
from busmt.model.outputs import finish, label_head
from busmt.model.pooling import LesionPooling
from busmt.model.shape import LesionShape


def build_network(config: NetworkConfig) -> keras.Model:
    """Build the functional multi-output model: ours, or one of `busmt.model.baselines`.

    Input `image`: (B, S, S, 1), float32, in [0, 1]. Outputs, by name:

    - `mask` (B, S, S, 1): lesion probability after refinement;
    - `label` (B, 3): class probabilities after refinement, in the order of `busmt.config.CLASSES`;
    - `mask_logits` (B, S, S, 1) and `label_logits` (B, 3): before refinement.

    A network with one task has the two outputs of that task; `busmt.config.tasks_of` tells. Other outputs serve the
    loss alone.

    Args:
        config: architecture, tasks, encoder, sizes, dropout and the parts to leave out. `encoder:
            efficientnet_lite0` with `pretrained` needs the package named in `busmt.model.pretrained`; see
            `available_encoder`.

    Raises:
        ConfigError: the architecture does not have the tasks that are asked for.
        DataError: the weight file is damaged, or its package is not installed.
    """
    if config.architecture != OURS:
        return baselines.build(config)
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    *skips, bottleneck = encode(image, config)
    if config.dropout:
        bottleneck = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(bottleneck)
    decoded, mask_logits, label_logits = [], None, None
    if config.tasks != LABEL_OUTPUT:
        decoded = decode(skips, bottleneck, config)
        mask_logits = segment(decoded[-1], config)
    if config.tasks != MASK_OUTPUT:
        label_logits = _classify(bottleneck, decoded, mask_logits, config)
    return finish(image, mask_logits, label_logits, config.refinement)


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


def _classify(bottleneck: Any, decoded: list[Any], mask_logits: Any, config: NetworkConfig) -> Any:
    """Class logits from the shared bottleneck and from what lies under the predicted mask, if there is one."""
    parts = [
        layers.GlobalAveragePooling2D(name="class_mean")(bottleneck),
        layers.GlobalMaxPooling2D(name="class_max")(bottleneck),
    ]
    if decoded:
        parts += [
            LesionPooling(name="class_lesion_coarse")([decoded[0], mask_logits]),
            LesionPooling(name="class_lesion_fine")([decoded[-2], mask_logits]),
        ]
    tensor = layers.Concatenate(name="class_features")(parts)
    tensor = layers.Dense(64, activation="relu", name="class_hidden")(tensor)
    if config.dropout:
        tensor = layers.Dropout(config.dropout, name="class_dropout")(tensor)
    if config.lesion_shape and decoded:
        # straight to the logits: four numbers among hundreds of features would be drowned
        shape = LesionShape(name="class_shape")(mask_logits)
        tensor = layers.Concatenate(name="class_hidden_and_shape")([tensor, shape])
    return label_head(tensor)
