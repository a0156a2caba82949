"""Synthetic B-mode phantoms of the three classes, with masks: the data that comes with busmt.

A phantom is made as a scanner makes an image. Layered tissue (skin, subcutaneous fat with septa,
fibroglandular layer, pectoral muscle, sometimes ribs) gets an echo level and an attenuation at every
point; random scatterers of that level are convolved with a point-spread function that widens away from
the focus, which gives fully developed speckle (Wagner et al., IEEE Trans. Sonics Ultrason. 30 (1983)
156-163); envelope, attenuation along the beam, time-gain compensation and log compression follow. The
tissue is drawn before the class is looked at, so nothing but the lesion tells the classes apart.

Lesions follow the BI-RADS descriptors of benign masses (oval, smooth, parallel to the skin, posterior
enhancement, thin bright capsule) and malignant ones (irregular or spiculated, not parallel, blurred
margin with an echogenic halo, posterior shadow); single signs are missing at random, as in patients.

>>> phantom = make_phantom("benign", seed=7)
>>> phantom.image.shape, phantom.image.dtype, bool(phantom.mask.any())
((224, 288), dtype('uint8'), True)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from busmt.config import CLASSES, NORMAL
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.errors import DataError

DEFAULT_SIZE: tuple[int, int] = (224, 288)
"""(height, width) of a phantom, pixels."""
MIN_SIZE = 48
MAX_SIZE = 2048


@dataclass(frozen=True)
class Phantom:
    """One synthetic image.

    Attributes:
        image: (H, W), uint8, grey levels.
        mask: (H, W), bool, True on the lesion; empty for a normal.
        label: class name.
        seed: the seed it was made from.
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    label: str
    seed: int


def make_phantom(label: str, seed: int, size: tuple[int, int] = DEFAULT_SIZE) -> Phantom:
    """A phantom of one class; a pure function of its arguments.

    The same seed and size give the same tissue in each class, with and without a lesion in it.

    Args:
        label: "normal", "benign" or "malignant".
        seed: not negative.
        size: (height, width) in pixels, each from 48 to 2048; structures scale with the height.

    Raises:
        DataError: an argument is not accepted.
    """
    _check_arguments(label, seed, size)
    rng = np.random.default_rng([seed, 0])
    scene = _draw_tissue(rng, size)
    mask = np.zeros(size, dtype=bool)
    if label != CLASSES[NORMAL]:
        mask = _insert_lesion(np.random.default_rng([seed, CLASSES.index(label)]), scene, label)
    image = _scan(rng, scene)
    return Phantom(image, mask, label, seed)


def write_phantoms(
    folder: str | os.PathLike[str],
    per_class: int | Mapping[str, int],
    seed: int = 0,
    size: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort of phantoms in BUSI's layout: `benign/benign (1).png`, `benign/benign (1)_mask.png`, ...

    Image i of a class depends on (seed, class, i) alone, so that a larger cohort begins with the smaller.

    Args:
        folder: new or empty folder; it appears only when it is complete.
        per_class: images per class, or class name to number of images.
        seed: not negative.
        size: (height, width) of all images; none: sizes that vary from image to image.
        progress: called with (done, total).

    Returns:
        The folder.

    Raises:
        DataError: an argument is not accepted, or the folder holds something already.
    """
    folder = Path(folder)
    counts = _check_counts(per_class)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not empty; name a new folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    total, done = sum(counts.values()), 0
    try:
        for label, count in counts.items():
            (temporary / label).mkdir(parents=True, exist_ok=True)
            for number in range(1, count + 1):
                phantom = make_phantom(label, *_image_seed_and_size(label, number, seed, size))
                images.write_png(temporary / label / f"{label} ({number}).png", phantom.image)
                images.write_png(temporary / label / f"{label} ({number})_mask.png", phantom.mask)
                done += 1
                if progress:
                    progress(done, total)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def contact_sheet(catalog: Catalog, columns: int = 7, height: int = 180) -> np.ndarray:
    """The first images of each class in a row, lesions outlined in yellow.

    Args:
        catalog: any cohort, so that phantoms and patients can be looked at side by side.
        columns: images per class at most.
        height: of each image, pixels.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    labels = catalog.table["label"].to_numpy()
    rows = []
    for label in catalog.classes:
        samples = catalog.take(np.flatnonzero(labels == label)[:columns])
        tiles = [_tile(images.read_grey(sample.image), sample.read_mask(), height) for sample in samples]
        rows.append(np.hstack(tiles))
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])


def _tile(image: np.ndarray, mask: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(height * image.shape[1] / image.shape[0]))
    tile = cv2.cvtColor(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outlines, -1, (255, 200, 0), 1)
    return np.pad(tile, ((0, 0), (0, 4), (0, 0)))


def _check_arguments(label: str, seed: int, size: tuple[int, int]) -> None:
    if label not in CLASSES:
        raise DataError(f"phantom: unknown class {label!r}; known: {', '.join(CLASSES)}")
    if seed < 0:
        raise DataError(f"phantom: the seed must not be negative, got {seed}")
    if not all(MIN_SIZE <= side <= MAX_SIZE for side in size):
        raise DataError(f"phantom: height and width must be from {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")


def _check_counts(per_class: int | Mapping[str, int]) -> dict[str, int]:
    given = per_class if isinstance(per_class, Mapping) else dict.fromkeys(CLASSES, per_class)
    for label, count in given.items():
        if label not in CLASSES:
            raise DataError(f"phantoms: unknown class {label!r}; known: {', '.join(CLASSES)}")
        if count < 0:
            raise DataError(f"phantoms: the number of {label} images must not be negative, got {count}")
    counts = {label: int(given[label]) for label in CLASSES if given.get(label)}
    if not counts:
        raise DataError("phantoms: at least one image must be asked for")
    return counts


def _image_seed_and_size(
    label: str, number: int, seed: int, size: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    if seed < 0:
        raise DataError(f"phantoms: the seed must not be negative, got {seed}")
    words = np.random.SeedSequence([seed, CLASSES.index(label), number])
    own = int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))
    if size is not None:
        return own, size
    rng = np.random.default_rng(words)
    height = int(rng.integers(176, 257))
    return own, (height, int(round(height * rng.uniform(0.95, 1.55))))


@dataclass
class _Scene:
    """What the beam meets: levels in decibels, lengths as shares of the image's height."""

    echo: np.ndarray
    """(H, W) float32, backscatter level, dB."""
    transmission: np.ndarray
    """(H, W) float32, gain (above 0) or loss of the echo that each pixel adds to all that lie below it, dB."""
    skin: float
    muscle: float
    aspect: float
    """Width over height."""

    @property
    def size(self) -> tuple[int, int]:
        return self.echo.shape[0], self.echo.shape[1]


def _draw_tissue(rng: np.random.Generator, size: tuple[int, int]) -> _Scene:
    height, width = size
    aspect = width / height
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    skin = rng.uniform(0.03, 0.07)
    fat_end = skin + rng.uniform(0.05, 0.28)
    muscle = max(rng.uniform(0.6, 1.05), fat_end + 0.25)
    wave = _noise(rng, size, 2, 3) * rng.uniform(0.01, 0.05) + _noise(rng, size, 4, 6) * rng.uniform(0.003, 0.012)
    bent = depth + wave * np.clip((depth - skin) / 0.1, 0, 1)
    tilt = rng.uniform(-0.12, 0.12) * (np.linspace(-0.5, 0.5, width, dtype=np.float32)[None] * aspect)

    coarse, fine, fibre, cleft = _along(
        bent + tilt,
        _noise(rng, size, 5, 4),
        _noise(rng, size, int(rng.integers(14, 24)), int(rng.integers(2, 5))),
        _noise(rng, size, int(rng.integers(36, 60)), int(rng.integers(3, 7))),
        _noise(rng, size, int(rng.integers(9, 16)), int(rng.integers(5, 10))),
    )
    patchy = np.clip(0.6 + 0.6 * _noise(rng, size, 4, 5), 0, 1.4)
    streaks = _sigmoid((fine - 1.1) / 0.2) + 0.7 * _sigmoid((fibre - 1.4) / 0.2) * patchy
    fat = -18 + 2.0 * coarse + rng.uniform(9, 15) * streaks + rng.uniform(0, 6) * _ridge(fine, 0.25) * patchy
    gland = -8 + 2.5 * coarse + 2.5 * fibre + 2.5 * fine - rng.uniform(2, 12) * _ridge(cleft, 0.4) * patchy
    gland += rng.uniform(1, 8) * streaks
    flesh = -17 + 2 * coarse + rng.uniform(8, 15) * _ridge(fibre, 0.25) * patchy + rng.uniform(2, 9) * streaks

    lower_fat = fat_end + 0.03 * _profile(rng, width, 4) + tilt
    upper_muscle = muscle + 0.02 * _profile(rng, width, 3) + tilt
    echo = _mix(fat, gland, bent - lower_fat, rng.uniform(0.006, 0.02))
    echo = _mix(echo, flesh, bent - upper_muscle, 0.008)
    echo += rng.uniform(8, 16) * _ridge(bent - upper_muscle, 0.012)
    echo = _mix(_skin(rng, depth, skin), echo, depth - skin, 0.006)

    scene = _Scene(echo.astype(np.float32), np.zeros(size, np.float32), skin, muscle, aspect)
    for _ in range(rng.poisson(2.0)):
        _add_lobule(rng, scene)
    if rng.random() < 0.35:
        _add_vessel(rng, scene)
    if muscle < 0.8 and rng.random() < 0.5:
        _add_rib(rng, scene)
    _add_beam_losses(rng, scene)
    return scene


def _skin(rng: np.random.Generator, depth: np.ndarray, skin: float) -> np.ndarray:
    """Two bright lines with a greyer dermis between them."""
    lines = _ridge(depth - 0.012, 0.007) + 0.8 * _ridge(depth - skin, 0.007)
    return -12 + rng.uniform(8, 14) * lines


def _add_lobule(rng: np.random.Generator, scene: _Scene) -> None:
    """A fat lobule: flat, greyer than the gland, without edge or effect on what lies below. Confuses on purpose."""
    half = rng.uniform(0.02, 0.07)
    shape = _Ellipse(
        x=rng.uniform(0, scene.aspect),
        y=rng.uniform(scene.skin + 0.1, min(scene.muscle, 1.0)),
        half_width=half * rng.uniform(2.0, 4.5),
        half_height=half,
        angle=rng.uniform(-0.35, 0.35),
    )
    inside = _sigmoid(-shape.level(scene) / rng.uniform(0.1, 0.4))
    scene.echo += inside * (rng.uniform(-17, -12) - scene.echo) * rng.uniform(0.4, 0.9)


def _add_vessel(rng: np.random.Generator, scene: _Scene) -> None:
    """A dark winding tube."""
    height, width = scene.size
    course = rng.uniform(scene.skin + 0.1, 0.9) + 0.05 * _profile(rng, width, 4)
    caliber = rng.uniform(0.006, 0.016) * np.clip(1 + 0.8 * _profile(rng, width, 3), 0, None)
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    scene.echo -= rng.uniform(8, 18) * _sigmoid((caliber - np.abs(depth - course)) / 0.004) * (caliber > 0.004)


def _add_rib(rng: np.random.Generator, scene: _Scene) -> None:
    """A bright arc with a full shadow, under the muscle."""
    shape = _Ellipse(
        x=rng.uniform(0, scene.aspect),
        y=scene.muscle + rng.uniform(0.12, 0.2),
        half_width=rng.uniform(0.1, 0.2),
        half_height=rng.uniform(0.05, 0.09),
        angle=rng.uniform(-0.2, 0.2),
    )
    level = shape.level(scene)
    scene.echo += 18 * _ridge(level, 0.12) * (shape.below(scene) < 0)
    scene.transmission -= _sigmoid(-level / 0.1) * 30 / (2 * shape.half_height * scene.size[0])


def _add_beam_losses(rng: np.random.Generator, scene: _Scene) -> None:
    """Columns that see less: poor contact at the skin, ligaments and glands that swallow the beam."""
    height, width = scene.size
    columns = np.clip(_profile(rng, width, int(rng.integers(3, 9))) - rng.uniform(0.2, 1.6), 0, None)
    start = int(rng.uniform(0.0, 0.5) * height)
    scene.transmission[start:] -= columns * rng.uniform(2, 14) / height
    scene.transmission += _noise(rng, scene.size, 3, 5) * rng.uniform(0, 5) / height


def _insert_lesion(rng: np.random.Generator, scene: _Scene, label: str) -> np.ndarray:
    """Put a lesion into the scene; returns its mask."""
    malignant = label == CLASSES[2]
    outline = _draw_outline(rng, scene, malignant)
    distance = outline.distance(scene)
    rim = 1.5 / scene.size[0]
    blur = rng.uniform(0.008, 0.022) if malignant else rng.uniform(0.003, 0.006)
    surround = float(scene.echo[np.abs(distance - 0.03) < 0.03].mean())
    cyst = not malignant and rng.random() < 0.25
    contrast = rng.uniform(26, 34) if cyst else rng.uniform(12, 20)
    inside = surround - contrast + (0 if cyst else rng.uniform(0.5, 2.5)) * _noise(rng, scene.size, 12, 14)
    if malignant:
        halo = np.exp(-np.clip(distance, 0, None) / rng.uniform(0.02, 0.05)) * (distance > -blur)
        scene.echo += rng.uniform(2, 7) * halo * np.clip(0.7 + 0.5 * _noise(rng, scene.size, 9, 11), 0, 1.5)
        if rng.random() < 0.3:
            inside += 20 * (_noise(rng, scene.size, 60, 70) > 2.6)
    soft = _sigmoid(-distance / blur)
    scene.echo += soft * (inside - scene.echo)
    if not malignant and rng.random() < 0.85:
        scene.echo += rng.uniform(4, 10) * _ridge(distance - rim, max(rim, 0.006))
    _add_posterior_effect(rng, scene, outline, soft, malignant, cyst)
    return distance < 0


def _add_posterior_effect(
    rng: np.random.Generator, scene: _Scene, outline: _Outline, soft: np.ndarray, malignant: bool, cyst: bool
) -> None:
    """Malignant tissue attenuates more than its surround, benign tissue and fluid less."""
    if malignant:
        total = -rng.uniform(7, 16) if rng.random() < 0.9 else rng.uniform(-3, 2)
    elif cyst:
        total = rng.uniform(8, 13)
    else:
        total = rng.uniform(4, 10) if rng.random() < 0.9 else rng.uniform(-3, 1)
    scene.transmission += soft * total / (2 * outline.mean_half_height * scene.size[0])


@dataclass(frozen=True)
class _Ellipse:
    x: float
    y: float
    half_width: float
    half_height: float
    angle: float

    def axes(self, scene: _Scene) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates along the axes, in units of the half axes."""
        height, width = scene.size
        x = (np.arange(width, dtype=np.float32) + 0.5) / height - np.float32(self.x)
        y = ((np.arange(height, dtype=np.float32) + 0.5) / height - np.float32(self.y))[:, None]
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        return (cos * x + sin * y) / np.float32(self.half_width), (cos * y - sin * x) / np.float32(self.half_height)

    def level(self, scene: _Scene) -> np.ndarray:
        """-1 at the centre, 0 on the edge."""
        return np.hypot(*self.axes(scene)) - 1

    def below(self, scene: _Scene) -> np.ndarray:
        return self.axes(scene)[1]


@dataclass(frozen=True)
class _Outline:
    """An ellipse whose radius varies with the angle."""

    ellipse: _Ellipse
    radius: np.ndarray
    """(360,) float32, factor on the ellipse's radius at each degree."""

    @property
    def mean_half_height(self) -> float:
        return self.ellipse.half_height * float(self.radius.mean())

    def distance(self, scene: _Scene) -> np.ndarray:
        """Distance to the edge along the ray from the centre, negative inside; shares of the height."""
        u, v = self.ellipse.axes(scene)
        rho = np.hypot(u, v) + np.float32(1e-6)
        degrees = cv2.phase(np.broadcast_to(u, rho.shape).copy(), v.copy(), angleInDegrees=True)
        factor = self.radius[degrees.astype(np.int32) % 360]
        length = np.hypot(u * np.float32(self.ellipse.half_width), v * np.float32(self.ellipse.half_height))
        return length * (1 - factor / rho)


def _draw_outline(rng: np.random.Generator, scene: _Scene, malignant: bool) -> _Outline:
    extent = np.sqrt(rng.uniform(0.025**0.5, 0.18**0.5) ** 2 * scene.aspect / np.pi)
    ratio = rng.uniform(0.75, 1.35) if malignant else rng.uniform(1.3, 2.1)
    angle = rng.uniform(-0.6, 0.6) if malignant else rng.uniform(-0.2, 0.2)
    half_width, half_height = extent * np.sqrt(ratio), extent / np.sqrt(ratio)
    radius = _irregular(rng) if malignant else _smooth(rng)
    top, bottom = scene.skin + 0.04 + half_height, min(scene.muscle, 0.92) - 0.6 * half_height
    places = [
        (
            rng.uniform(0.8 * half_width, max(scene.aspect - 0.8 * half_width, 0.9 * half_width)),
            rng.uniform(top, max(bottom, top + 0.05)),
        )
        for _ in range(4)
    ]
    x, y = max(places, key=lambda place: _visibility(scene, *place))
    return _Outline(_Ellipse(x, y, half_width, half_height, angle), radius)


def _visibility(scene: _Scene, x: float, y: float) -> float:
    """Level of the echo that arrives from a place, dB: what hides in a shadow would get no mask from a reader."""
    row, column = (int(np.clip(at * scene.size[0], 0, side - 1)) for at, side in zip((y, x), scene.size, strict=True))
    return float(scene.transmission[:row, column].sum()) - 8 * y


def _smooth(rng: np.random.Generator) -> np.ndarray:
    """An oval, sometimes with two or three gentle lobes."""
    theta = np.deg2rad(np.arange(360))
    lobes = int(rng.integers(2, 4))
    radius = 1 + rng.uniform(0, 0.07) * np.cos(lobes * theta + rng.uniform(0, 7))
    return radius.astype(np.float32)


def _irregular(rng: np.random.Generator) -> np.ndarray:
    """Angular and lobed, with a few spicules."""
    theta = np.deg2rad(np.arange(360))
    radius = np.ones(360)
    for order in range(2, 9):
        radius += rng.normal(0, 0.16 / order**0.6) * np.cos(order * theta + rng.uniform(0, 7))
    for _ in range(int(rng.integers(0, 8))):
        away = np.angle(np.exp(1j * (theta - rng.uniform(0, 7))))
        radius += rng.uniform(0.15, 0.5) * np.exp(-np.abs(away) / rng.uniform(0.08, 0.2))
    radius = np.clip(radius, 0.45, None)
    return (radius / np.sqrt(np.mean(radius**2))).astype(np.float32)


def _scan(rng: np.random.Generator, scene: _Scene) -> np.ndarray:
    """Speckle, attenuation, gain and log compression: the scene as an image, (H, W), uint8."""
    height, _ = scene.size
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    amplitude = 10 ** (scene.echo / 20)
    focus, spread = rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.7)
    pulse, beam = rng.uniform(0.7, 1.0) * height / 224, rng.uniform(1.1, 1.7) * height / 224
    defocus = np.abs(depth - focus) / spread
    power = np.mean([_echo_power(rng, amplitude, pulse, beam, defocus) for _ in range(2)], axis=0)
    smoothing = rng.uniform(0.5, 0.9) * height / 224
    level = 10 * np.log10(cv2.GaussianBlur(power, (0, 0), sigmaX=1.3 * smoothing, sigmaY=smoothing) + 1e-6)

    beam_loss = np.cumsum(scene.transmission, axis=0)
    level += cv2.GaussianBlur(beam_loss, (0, 0), sigmaX=0.012 * height, sigmaY=0.5)
    onset = rng.uniform(0.2, 0.7)
    level += rng.uniform(-34, 0) * np.clip((depth - onset) / (1 - onset), 0, None) ** 1.3
    level += rng.uniform(-5, 2) + rng.uniform(-2, 2) * _profile(rng, scene.size[1], 3)
    span = rng.uniform(38, 56)
    grey = np.clip((level + span - rng.uniform(6, 13)) / span, 0, 1) ** rng.uniform(1.3, 2.0)
    return np.rint(255 * grey).astype(np.uint8)


def _echo_power(
    rng: np.random.Generator, amplitude: np.ndarray, pulse: float, beam: float, defocus: np.ndarray
) -> np.ndarray:
    """Squared envelope of scatterers seen through a point-spread function that widens with `defocus`.

    The function is a mixture of a narrow and a wide Gaussian; the mean power of a uniform region equals
    its squared amplitude at every depth.

    Args:
        amplitude: (H, W), float32, local standard deviation of the scatterers.
        pulse: axial standard deviation, pixels.
        beam: lateral standard deviation in focus, pixels.
        defocus: (H, 1), 0 in focus, 1 where the beam is widest.
    """
    field_ = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32) * amplitude[..., None]
    pulse, narrow, wide = max(pulse, 0.5), max(beam, 0.6), max(2.2 * beam, 0.8)
    share = np.clip(defocus, 0, 1).astype(np.float32)
    in_focus = cv2.GaussianBlur(field_, (0, 0), sigmaX=narrow, sigmaY=pulse, borderType=cv2.BORDER_REFLECT)
    # Convolving what is in focus once more gives the wide beam from a smaller kernel.
    out_of_focus = cv2.GaussianBlur(in_focus, (0, 0), sigmaX=np.sqrt(wide**2 - narrow**2), sigmaY=0.3)
    seen = (1 - share[..., None]) * in_focus + share[..., None] * out_of_focus
    lateral = (1 - share) ** 2 * _overlap(narrow, narrow) + share**2 * _overlap(wide, wide)
    lateral += 2 * share * (1 - share) * _overlap(narrow, wide)
    return (seen**2).sum(axis=-1) / (2 * lateral * _overlap(pulse, pulse))


def _overlap(first: float, second: float) -> float:
    """Integral of the product of two centred Gaussians of unit area."""
    return float(1 / np.sqrt(2 * np.pi * (first**2 + second**2)))


def _noise(rng: np.random.Generator, size: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """Smooth noise (H, W), float32, of about unit variance, with so many cells over the height and width."""
    grid = rng.standard_normal((rows + 2, columns + 2), dtype=np.float32)
    return 1.3 * cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _profile(rng: np.random.Generator, width: int, cells: int) -> np.ndarray:
    """Smooth noise along the skin, (1, W), float32."""
    return _noise(rng, (1, width), -1, cells)


def _along(depth: np.ndarray, *textures: np.ndarray) -> list[np.ndarray]:
    """Textures bent so that their rows follow lines of equal `depth`, (H, W), shares of the height."""
    height, width = textures[0].shape
    columns = np.broadcast_to(np.arange(width, dtype=np.float32), (height, width)).copy()
    rows = (depth * (height - 1)).astype(np.float32)
    bent = cv2.remap(np.dstack(textures), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return [bent[..., channel] for channel in range(len(textures))]


def _mix(above: np.ndarray, below: np.ndarray, level: np.ndarray, softness: float) -> np.ndarray:
    """One level changes to another where `level` passes 0."""
    return above + (below - above) * _sigmoid(level / softness)


def _ridge(level: np.ndarray, width: float) -> np.ndarray:
    """1 where the level is 0, falling off on both sides."""
    return np.exp(-((level / np.float32(width)) ** 2))


def _sigmoid(level: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(level, -30, 30)))
