"""A classifier on the encoder of our network: what the class task reaches by itself.

No publication of its own: encoder, global average pooling, dropout, one dense layer, as image classifiers end
(Lin et al., Network in Network, ICLR 2014, section 3.2, with a dense layer behind it). The encoder is the one of
`network.encoder`, with its ImageNet weights where our network has them.
"""

from __future__ import annotations

import keras
from keras import layers

from busmt.config import IMAGE_INPUT, NetworkConfig
from busmt.model.encoders import encode
from busmt.model.outputs import finish, label_head


def build(config: NetworkConfig) -> keras.Model:
    """Build it; raises DataError where the ImageNet weights are not installed."""
    image = keras.Input((config.input_size, config.input_size, 1), name=IMAGE_INPUT)
    features = layers.GlobalAveragePooling2D(name="class_mean")(encode(image, config)[-1])
    if config.dropout:
        features = layers.Dropout(config.dropout, name="class_dropout")(features)
    return finish(image, label_logits=label_head(features))
