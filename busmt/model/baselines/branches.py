"""Where should the class branch sit? Multi-task networks after Vilaça, Torres, Morais et al. (2026).

They compare ways to share between a segmentation network (SegResNet) and a classifier (EfficientNet): a class branch
fed by the encoded features, by the decoded ones, by both, and the classification of the masked image. Here all four
have the encoder, decoder and losses of our own network, without its pooling under the mask and its refinement, so
that nothing but the place of the branch differs. Chosen here: the branch is global average pooling, a dense layer of
64 with ReLU, dropout and the last dense layer; the classifier of the masked image has an encoder of its own, of the
same kind, and sees the image times the lesion probability, without gradients into the mask.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.blocks import MaskedImage
from busmt.model.decoder import decode, segment
from busmt.model.encoders import encode
from busmt.model.outputs import finish, label_head


def build(config: NetworkConfig) -> keras.Model:
    """Build the variant of `network.architecture`; raises DataError where the ImageNet weights are not installed."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    *skips, bottleneck = encode(image, config)
    if config.dropout:
        bottleneck = layers.SpatialDropout2D(config.dropout, name="bottleneck_dropout")(bottleneck)
    decoded = decode(skips, bottleneck, config)
    mask_logits = segment(decoded[-1], config)
    features = {
        "branch-bottleneck": [bottleneck],
        "branch-decoder": [decoded[-1]],
        "branch-both": [bottleneck, decoded[-1]],
    }.get(config.architecture)
    if features is None:
        features = [_encode_again(MaskedImage(name="class_input")([image, mask_logits]), config)]
    return finish(image, mask_logits, _branch(features, config), config.refinement)


def _encode_again(picture: Any, config: NetworkConfig) -> Any:
    """Bottleneck of a second encoder: a model within the model, for its layers have the names of the first."""
    inner = keras.Input(picture.shape[1:], name="picture")
    return keras.Model(inner, encode(inner, config)[-1], name="class_encoder")(picture)


def _branch(features: list[Any], config: NetworkConfig) -> Any:
    names = ["class_mean", "class_mean_decoder"]
    pooled = [layers.GlobalAveragePooling2D(name=name)(one) for name, one in zip(names, features, strict=False)]
    tensor = layers.Concatenate(name="class_features")(pooled) if len(pooled) > 1 else pooled[0]
    tensor = layers.Dense(64, activation="relu", name="class_hidden")(tensor)
    if config.dropout:
        tensor = layers.Dropout(config.dropout, name="class_dropout")(tensor)
    return label_head(tensor)
