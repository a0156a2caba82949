"""Encoders: the plain U-Net's, and EfficientNet-Lite0 with ImageNet weights.

An encoder maps an input tensor to a list of features, finest first; each level has half the resolution of
the one before. The last one is the bottleneck.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from busmt.config import NetworkConfig
from busmt.errors import DataError
from busmt.model import pretrained
from busmt.model.normalisation import BatchNormalization

EFFICIENTNET_LITE0_BLOCKS: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, kernel, first stride, expansion and filters of each stage (Tan & Le, ICML 2019, table 1)."""
_SKIP_BLOCKS = (0, 2, 4, 10, 15)


def encode(image: Any, config: NetworkConfig) -> list[Any]:
    """Features of the encoder that a configuration asks for, finest first.

    Raises:
        DataError: the ImageNet weights are damaged, or their package is not installed.
    """
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


def unet_encoder(inputs: Any, width: int, depth: int) -> list[Any]:
    """Plain U-Net encoder (Ronneberger et al., MICCAI 2015) with batch normalisation.

    Args:
        inputs: (B, S, S, C).
        width: filters of the finest level, doubled at each level below.
        depth: number of poolings; S must be divisible by 2 ** depth.

    Returns:
        depth + 1 feature tensors at S, S/2, ...
    """
    features, tensor = [], inputs
    for level in range(depth + 1):
        if level:
            tensor = layers.MaxPooling2D(2, name=f"encoder{level}_pool")(tensor)
        tensor = convolve_twice(tensor, width * 2**level, f"encoder{level}")
        features.append(tensor)
    return features


def efficientnet_lite0(inputs: Any, weights: Mapping[str, np.ndarray] | None = None) -> list[Any]:
    """EfficientNet-Lite0: ReLU6 and no squeeze-and-excitation, made for TFLite.

    Args:
        inputs: (B, S, S, 1) or (B, S, S, 3) in [0, 1]; S a multiple of 32. For grey input the kernels
            of the first layer are summed over RGB, which equals repeating the grey image three times.
        weights: tensors by their torch names (`busmt.model.pretrained`), or None for a random start.

    Returns:
        Features at S/2 (16 channels), S/4 (24), S/8 (40), S/16 (112) and S/32 (320).
    """
    tensor = layers.Rescaling(255.0 / 128.0, offset=-127.0 / 128.0, name="encoder_scale")(inputs)
    tensor = _normed(tensor, layers.Conv2D(32, 3, 2, "same", use_bias=False, name="encoder_stem"), relu=True)
    features, index = [], 0
    for repeats, kernel, stride, expansion, filters in EFFICIENTNET_LITE0_BLOCKS:
        for repeat in range(repeats):
            tensor = _inverted_residual(tensor, index, kernel, 1 if repeat else stride, expansion, filters)
            if index in _SKIP_BLOCKS:
                features.append(tensor)
            index += 1
    if weights is not None:
        _load_lite0(keras.Model(inputs, tensor), weights)
    return features


def convolve_twice(tensor: Any, filters: int, name: str) -> Any:
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""
    for step in (1, 2):
        tensor = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{step}")(tensor)
        tensor = BatchNormalization(momentum=0.9, name=f"{name}_norm{step}")(tensor)
        tensor = layers.ReLU(name=f"{name}_relu{step}")(tensor)
    return tensor


def _inverted_residual(tensor: Any, index: int, kernel: int, stride: int, expansion: int, filters: int) -> Any:
    shortcut, name = tensor, f"encoder_block{index}"
    channels = tensor.shape[-1]
    if expansion > 1:
        expand = layers.Conv2D(channels * expansion, 1, use_bias=False, name=f"{name}_expand")
        tensor = _normed(tensor, expand, relu=True)
    depthwise = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")
    tensor = _normed(tensor, depthwise, relu=True)
    tensor = _normed(tensor, layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project"), relu=False)
    if stride == 1 and channels == filters:
        tensor = layers.Add(name=f"{name}_add")([shortcut, tensor])
    return tensor


def _normed(tensor: Any, convolution: Any, relu: bool) -> Any:
    tensor = convolution(tensor)
    tensor = BatchNormalization(momentum=0.97, epsilon=1e-3, name=f"{convolution.name}_norm")(tensor)
    return layers.ReLU(6.0, name=f"{convolution.name}_relu")(tensor) if relu else tensor


def _load_lite0(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    _set(model, "encoder_stem", weights["_conv_stem.weight"], weights, "_bn0")
    for index in range(sum(stage[0] for stage in EFFICIENTNET_LITE0_BLOCKS)):
        source, target = f"_blocks.{index}", f"encoder_block{index}"
        for norm, part in enumerate(("expand", "depthwise", "project")):
            key = f"{source}._{part}_conv.weight"
            if key in weights:
                _set(model, f"{target}_{part}", weights[key], weights, f"{source}._bn{norm}")


def _set(model: keras.Model, name: str, kernel: np.ndarray, weights: Mapping[str, np.ndarray], norm: str) -> None:
    layer = model.get_layer(name)
    # torch: (out, in, h, w); keras: (h, w, in, out), depthwise (h, w, channels, 1)
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    if name == "encoder_stem" and layer.kernel.shape[2] == 1:
        kernel = kernel.sum(axis=2, keepdims=True)
    layer.set_weights([kernel])
    model.get_layer(f"{name}_norm").set_weights(
        [weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    )
