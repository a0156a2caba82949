"""Small synthetic cohorts for curation."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import pytest

from busmt.data import images
from busmt.data.catalog import Catalog


def make_scan(seed: int, size: tuple[int, int] = (120, 150)) -> np.ndarray:
    """A smooth random scene with speckle that is finer in depth than sideways, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(20, 200, (7, 9)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    speckle = cv2.GaussianBlur(rng.rayleigh(1.0, size), (0, 0), size[0] / 80)
    fine = cv2.GaussianBlur(rng.rayleigh(1.0, size), (0, 0), sigmaX=size[0] / 130, sigmaY=size[0] / 260)
    return np.clip(coarse * (speckle / speckle.mean()) ** 2 * (fine / fine.mean()), 0, 255).astype(np.uint8)


class Cohort:
    """Builds a catalog of written files row by row."""

    def __init__(self, folder):
        self.folder, self.rows = folder, []

    def add(self, name, pixels, label="benign", mask=None, group=None, cohort=""):
        if mask is None:
            mask = np.zeros(pixels.shape[:2], bool)
            mask[40:80, 50:100] = label != "normal"
        images.write_png(self.folder / f"{name}.png", pixels)
        images.write_png(self.folder / f"{name}_mask.png", mask)
        self.rows.append({"image_id": name, "image": str(self.folder / f"{name}.png"),
                          "masks": str(self.folder / f"{name}_mask.png"), "label": label,
                          "group": group or name, "cohort": cohort})  # fmt: skip
        return self

    def catalog(self) -> Catalog:
        return Catalog(pd.DataFrame(self.rows))


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    folder = tmp_path / "data"
    folder.mkdir()
    return Cohort(folder)


@pytest.fixture(scope="session")
def scan() -> Callable[..., np.ndarray]:
    """`scan(seed, size=(120, 150))`: a synthetic scan, uint8."""
    return make_scan
