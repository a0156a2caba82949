"""Stroke maps: which pixels of an image were drawn by the scanner's software and are no echoes.

Two maps, because images come in two states. In a screen capture everything that was drawn has one grey level, give
or take compression, and ends sharply: a spike in the histogram of sharp bright pixels. Resizing blurs that;
what remains is that strokes are thin and much brighter than their surroundings.
"""

from __future__ import annotations

import cv2
import numpy as np

_STROKE = 5
"""Widest stroke that counts as drawn, pixels."""
_CONTRAST = 60
_BRIGHT = 110
_STEP = 50
"""Least fall to a neighbouring pixel at the edge of what is drawn."""
_SPIKE = 10.0
"""Least height of a spike over its surroundings, in standard deviations of a Poisson count."""
_TOLERANCE = 14
"""How far compression moves the level of what is drawn."""
_SATURATED = 252
"""Echoes pile up from here on; a spike there proves nothing."""
_LEVELS = 3


def thin_strokes(levels: np.ndarray) -> np.ndarray:
    """Thin bright lines of (H, W), uint8: what an opening by a square wider than a stroke takes away."""
    return (levels > _BRIGHT) & (_top_hat(levels, _STROKE + 2) > _CONTRAST)


def drawn_levels(levels: np.ndarray) -> list[int]:
    """Grey levels in which something was drawn on (H, W), uint8; strongest first, most often none or one."""
    fall = cv2.subtract(levels, cv2.erode(levels, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))))
    sharp = (fall >= _STEP) & (levels > _BRIGHT) & (_top_hat(levels, _STROKE + 2) > 40)
    counts = np.bincount(levels[sharp], minlength=256).astype(float)
    near = _sums(counts, np.ones(5))
    ring = np.ones(31)
    ring[10:21] = 0
    around = 5 * _sums(counts, ring) / _sums(np.ones(256), ring)
    height = (near - around) / np.sqrt(around + 4)
    height[:_BRIGHT], height[_SATURATED:] = 0, 0
    found: list[int] = []
    while len(found) < _LEVELS and height.max() >= _SPIKE:
        found.append(int(height.argmax()))
        height[max(0, found[-1] - 12) : found[-1] + 13] = 0
    return found


def drawn(levels: np.ndarray, at: list[int], width: int = _STROKE) -> np.ndarray:
    """Pixels of (H, W), uint8, at drawn levels that stand out of their surroundings; (H, W), bool.

    Args:
        levels: the image.
        at: what `drawn_levels` gives.
        width: widest stroke or area that is looked for, pixels.
    """
    close = np.zeros(levels.shape, bool)
    for level in at:
        close |= cv2.absdiff(levels, np.full_like(levels, level)) <= _TOLERANCE
    return close & (_top_hat(levels, width + 2) > 30)


def coloured_strokes(difference: np.ndarray, least: int) -> np.ndarray:
    """Thin lines in colour: where (H, W), uint8, the largest less the smallest channel, stands out."""
    return (difference > least) & (_top_hat(difference, _STROKE + 2) > least)


def _top_hat(levels: np.ndarray, side: int) -> np.ndarray:
    return cv2.subtract(levels, cv2.morphologyEx(levels, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)))


def _sums(counts: np.ndarray, window: np.ndarray) -> np.ndarray:
    return np.convolve(np.pad(counts, len(window)), window, "same")[len(window) : -len(window)]
