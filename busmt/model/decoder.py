"""The decoder of our network: bilinear upsampling, attention gates on the skips, two convolutions a level."""

from __future__ import annotations

from typing import Any

from keras import layers

from busmt.config import NetworkConfig
from busmt.model.attention import AttentionGate
from busmt.model.encoders import convolve_twice

_GATE_PREFIX = "attention"


def decode(skips: list[Any], bottleneck: Any, config: NetworkConfig) -> list[Any]:
    """Decoder features, coarsest first; the last ones have the grid of the finest skip."""
    decoded, tensor = [], bottleneck
    for level in reversed(range(len(skips))):
        skip, filters = skips[level], _filters(level, config)
        if config.attention:
            gate = AttentionGate(max(8, filters // 2), name=f"{_GATE_PREFIX}{level}")
            skip, _ = gate([skip, tensor])
        tensor = layers.UpSampling2D(2, interpolation="bilinear", name=f"decoder{level}_upsample")(tensor)
        tensor = layers.Concatenate(name=f"decoder{level}_concat")([tensor, skip])
        tensor = convolve_twice(tensor, filters, f"decoder{level}")
        decoded.append(tensor)
    return decoded


def segment(decoded: Any, config: NetworkConfig) -> Any:
    """Mask logits (B, S, S, 1) from the finest decoder features."""
    logits = layers.Conv2D(1, 1, name="mask_head")(decoded)
    if config.encoder != "unet":  # the decoder ends at half resolution
        logits = layers.UpSampling2D(2, interpolation="bilinear", name="mask_upsample")(logits)
    return logits


def _filters(level: int, config: NetworkConfig) -> int:
    if config.encoder == "unet":
        return config.width * 2**level
    return config.decoder_width * (level + 1)
