"""Is an image a B-mode scan, or a photograph? Told from two traits of how a scan comes about.

A beam resolves depth finer than breadth, and tissue lies in layers: detail changes faster downwards than sideways.
And speckle is everywhere that echoes are: a scan has no lit ground that is smooth, as a photograph has nearly always.
"""

from __future__ import annotations

import cv2
import numpy as np

PHOTOGRAPH = -4.0
"""`scan_score` below which an image is no scan. The lowest of BUSI's and BUS-BRA's 2655 images has -3.7, the second
lowest -3.3."""

_SIDE = 256
"""Longer side at which detail is measured, pixels; larger images are shrunk to it."""
_LIT = 45.0
_LEAST_GROUND = 0.1
_QUANTILE = 0.05


def scan_score(grey: np.ndarray) -> float:
    """Natural logarithms of (downward over sideward detail) and of (speckle's contrast on the smoothest lit ground).

    About -1.5 for a scan. Invariant to brightness and contrast; clipped pixels do not count.

    Args:
        grey: image (H, W), uint8.

    Returns:
        The sum of the two, or 0 where less than a tenth of the image is lit and not clipped: nothing is told then.
    """
    factor = min(1.0, _SIDE / max(grey.shape))
    levels = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = np.quantile(levels, (0.01, 0.99))
    levels = np.clip((levels - low) / max(high - low, 1.0) * 200.0, 0, 200)
    mean = cv2.blur(levels, (9, 9))
    clipped = cv2.dilate((levels >= 200).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    ground = (mean > _LIT) & ~clipped
    if min(levels.shape) < 16 or ground.mean() < _LEAST_GROUND:
        return 0.0
    fine = levels - cv2.GaussianBlur(levels, (0, 0), 2.0)
    contrast = np.sqrt(np.maximum(cv2.blur(fine * fine, (9, 9)), 0)) / (mean + 8.0)
    return float(_orientation(levels) + np.log(np.quantile(contrast[ground], _QUANTILE) + 1e-4))


def _orientation(levels: np.ndarray) -> float:
    """Logarithm of the power of downward over that of sideward relative differences."""
    smooth = cv2.GaussianBlur(levels, (0, 0), 1.0)
    inner = smooth[1:-1, 1:-1] + 12.0
    down = (smooth[2:, 1:-1] - smooth[:-2, 1:-1]) / inner
    aside = (smooth[1:-1, 2:] - smooth[1:-1, :-2]) / inner
    return float(np.log((down * down).mean() + 1e-6) - np.log((aside * aside).mean() + 1e-6))
