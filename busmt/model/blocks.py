"""Building blocks that several baselines share, in two and three dimensions."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from busmt.model.normalisation import BatchNormalization

_CONVOLUTIONS = {2: layers.Conv2D, 3: layers.Conv3D}
_POOLINGS = {2: layers.MaxPooling2D, 3: layers.MaxPooling3D}


@keras.saving.register_keras_serializable(package="busmt")
class InstanceNormalization(layers.Layer):
    """Each channel of each sample to mean 0 and variance 1, then scaled and shifted (Ulyanov et al., 2016).

    Keras' GroupNormalization does the same with one channel a group, through five axes, which TFLite runs slowly.

    Args:
        epsilon: added to the variance.

    Input shape:
        (B, ..., C).

    Output shape:
        As the input.

    Example:
        >>> InstanceNormalization()(ops.ones((2, 8, 8, 3))).shape
        (2, 8, 8, 3)
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")
        self.built = True

    def call(self, inputs: Any) -> Any:
        space = tuple(range(1, len(inputs.shape) - 1))
        centred = inputs - ops.mean(inputs, axis=space, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=space, keepdims=True)
        return centred * (self.gamma * ops.rsqrt(variance + self.epsilon)) + self.beta

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)

    def get_config(self) -> Any:
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="busmt")
class MaskedImage(layers.Layer):
    """The image under the predicted mask: each pixel times its lesion probability.

    Gradients do not flow into the mask: the class loss must not bend the outline.

    Input shape:
        A list `[image, mask_logits]`: (B, S, S, C) and (B, S, S, 1).

    Output shape:
        That of the image.

    Example:
        >>> float(MaskedImage()([ops.ones((1, 2, 2, 1)), ops.zeros((1, 2, 2, 1))])[0, 0, 0, 0])
        0.5
    """

    def call(self, inputs: Any) -> Any:
        image, logits = inputs
        return image * ops.sigmoid(ops.stop_gradient(logits))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0])


def convolve(
    tensor: Any,
    filters: int,
    name: str,
    *,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    norm: str = "batch",
    slope: float = 0.0,
) -> Any:
    """Convolution, normalisation ("batch" or "instance") and ReLU (leaky with a slope), same padding."""
    layer = _CONVOLUTIONS[len(tensor.shape) - 2]
    keywords = {"padding": "same", "use_bias": False, "dilation_rate": dilation, "name": f"{name}_conv"}
    tensor = layer(filters, kernel, stride, **keywords)(tensor)
    if norm == "instance":
        tensor = InstanceNormalization(name=f"{name}_norm")(tensor)
    else:
        tensor = BatchNormalization(momentum=0.9, name=f"{name}_norm")(tensor)
    return layers.LeakyReLU(slope, name=f"{name}_relu")(tensor) if slope else layers.ReLU(name=f"{name}_relu")(tensor)


def twice(tensor: Any, filters: int, name: str, **keywords: Any) -> Any:
    """`convolve` twice."""
    for step in (1, 2):
        tensor = convolve(tensor, filters, f"{name}_{step}", **keywords)
    return tensor


def pool(tensor: Any, name: str) -> Any:
    """Half the resolution, by the maximum."""
    return _POOLINGS[len(tensor.shape) - 2](2, name=f"{name}_pool")(tensor)


def upsample(tensor: Any, factor: int, name: str) -> Any:
    """`factor` times the resolution: bilinear; nearest neighbours in three dimensions, where Keras has no other."""
    if factor == 1:
        return tensor
    if len(tensor.shape) == 5:
        return layers.UpSampling3D(factor, name=f"{name}_upsample")(tensor)
    return layers.UpSampling2D(factor, interpolation="bilinear", name=f"{name}_upsample")(tensor)


def up_convolve(tensor: Any, filters: int, name: str, kernel: int = 2) -> Any:
    """Twice the resolution, then a convolution: what U-Net's authors call up-convolution.

    Bilinear upsampling and a convolution instead of a transposed one, with the same number of weights: it has no
    checkerboard (Odena et al., Distill 2016), and int8 keeps it better.
    """
    tensor = upsample(tensor, 2, name)
    return _CONVOLUTIONS[len(tensor.shape) - 2](filters, kernel, padding="same", name=f"{name}_up")(tensor)


def mask_head(tensor: Any, name: str = "mask_head") -> Any:
    """One channel of logits."""
    return _CONVOLUTIONS[len(tensor.shape) - 2](1, 1, name=name)(tensor)
