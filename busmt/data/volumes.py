"""Volumes: synthetic ones with a lesion, and folders of .npz files.

The synthetic ones show that three-dimensional training works, and are no model of automated breast ultrasound:
speckle that is longer across the beam than along it, attenuation with depth, and an ellipsoidal lesion, smooth with
enhancement below it (benign) or irregular with a shadow (malignant).

>>> volume = make_volume("benign", seed=3, side=32)
>>> volume.image.shape, volume.image.dtype, bool(volume.mask.any())
((32, 32, 32), dtype('float32'), True)
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from busmt.config import CLASSES, NORMAL
from busmt.errors import DataError

MIN_SIDE = 16


@dataclass(frozen=True)
class Volume:
    """One volume.

    Attributes:
        image: (S, S, S), float32, in [0, 1]; the first axis is depth, along the beam.
        mask: (S, S, S), bool.
        label: index of the class.
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    label: int


def make_volume(label: str, seed: int, side: int = 48) -> Volume:
    """A synthetic volume of one class; a pure function of its arguments.

    Raises:
        DataError: an unknown class, or a side below `MIN_SIDE`.
    """
    from scipy.ndimage import gaussian_filter

    if label not in CLASSES or side < MIN_SIDE:
        raise DataError(
            f"volume: class {label!r}, side {side}: must be one of {', '.join(CLASSES)}, at least {MIN_SIDE}"
        )
    rng = np.random.default_rng((seed, CLASSES.index(label)))
    shape = (side, side, side)
    echo = np.exp(0.5 * _unit(gaussian_filter(rng.normal(size=shape), side / 12)))
    depth = np.linspace(0, 1, side)[:, None, None]
    mask = np.zeros(shape, bool)
    if label != CLASSES[NORMAL]:
        mask = _lesion(rng, side, irregular=label == "malignant")
        echo = np.where(mask, 0.15 * echo, echo)
        below = np.cumsum(mask, axis=0) * ~mask / side
        echo *= np.exp((-4.0 if label == "malignant" else 2.0) * below)
    parts = [gaussian_filter(rng.normal(size=shape), (0.5, 1.0, 1.0)) for _ in range(2)]
    speckle = np.hypot(*(_unit(part) for part in parts))
    image = np.log1p(20 * echo * speckle * np.exp(-0.7 * depth))
    return Volume((image / image.max()).astype(np.float32), mask, CLASSES.index(label))


def make_volumes(count: int, seed: int, side: int) -> list[Volume]:
    """`count` synthetic volumes, classes in turn."""
    return [make_volume(CLASSES[number % len(CLASSES)], seed + number, side) for number in range(count)]


def read_volumes(folder: str | os.PathLike[str]) -> list[Volume]:
    """Volumes of a folder, by file name: .npz files with `image`, `mask` and `label`.

    `image` and `mask` (S, S, S), the image in [0, 1] or uint8; `label` a whole number, an index into `CLASSES`. All
    files have the same S.

    Raises:
        DataError: no file, or one that cannot be used.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise DataError(f"{folder}: holds no .npz file with image, mask and label")
    volumes = [_read(file) for file in files]
    for file, volume in zip(files, volumes, strict=True):
        if volume.image.shape != volumes[0].image.shape:
            raise DataError(f"{file}: its shape {volume.image.shape} is not that of {files[0]}: resample to one cube")
    return volumes


def _read(file: Path) -> Volume:
    try:
        with np.load(file, allow_pickle=False) as found:
            image, mask, label = found["image"], found["mask"] > 0, int(found["label"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: not a volume with image, mask and label ({type(error).__name__})") from error
    picture = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    if picture.ndim != 3 or len(set(picture.shape)) != 1 or picture.shape != mask.shape:
        raise DataError(f"{file}: image {image.shape} and mask {mask.shape} must be cubes of one size")
    if not (picture.min() >= 0 and picture.max() <= 1) or label not in range(len(CLASSES)):
        raise DataError(f"{file}: the image must be in [0, 1] and the label one of 0 to {len(CLASSES) - 1}")
    return Volume(picture, mask, label)


def _lesion(rng: np.random.Generator, side: int, irregular: bool) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    centre = rng.uniform(0.35, 0.65, 3) * side
    radii = rng.uniform(0.12, 0.22, 3) * side
    grid = np.indices((side, side, side))
    level = sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3))
    if irregular:
        level = level * np.exp(0.35 * _unit(gaussian_filter(rng.normal(size=level.shape), side / 24)))
    return np.asarray(level < 1)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / values.std()
