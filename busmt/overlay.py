"""Outlines on images: the tissue under them stays visible."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

PREDICTION_COLOUR = (230, 159, 0)
"""Orange of the colour-blind-safe palette of Okabe and Ito, RGB."""
TRUTH_COLOUR = (86, 180, 233)
"""Sky blue of the same palette, RGB."""


def draw_outlines(image: np.ndarray, outlines: Sequence[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """Draw the outlines of masks on an image.

    Args:
        image: (H, W) or (H, W, 3), uint8; not changed.
        outlines: pairs of mask (H, W), bool, and RGB colour.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    picture = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()
    thickness = max(1, round(max(picture.shape[:2]) / 300))
    for mask, colour in outlines:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, colour, thickness, cv2.LINE_AA)
    return picture


def write_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Put a line of text on a black strip above the picture, (H + h, W, 3), uint8, RGB."""
    height, width = picture.shape[:2]
    scale = max(0.4, width / 800)
    (_, text_height), baseline = cv2.getTextSize("Ag", cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (width - 8) / max(text_width, 1))
    strip = np.zeros((text_height + baseline + 8, width, 3), np.uint8)
    place = (4, text_height + 4)
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([strip, picture])
