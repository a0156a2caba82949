"""A small export to be served; its network is untrained, for the contract does not depend on the weights."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def referral_threshold() -> float:
    """The threshold that `served_export` was written with."""
    return 0.31


@pytest.fixture(scope="session")
def served_network():
    from busmt.config import Config
    from busmt.model.network import build_network

    return build_network(Config.preset("tiny", {}).network)


@pytest.fixture(scope="session")
def served_export(served_network, referral_threshold, tmp_path_factory) -> Path:
    """An export folder with version 1, its warm-up records and its serving files. Do not change it."""
    from busmt.deployment.savedmodel import write_saved_model
    from busmt.deployment.serving_assets import complete_version, model_name, write_assets

    folder = tmp_path_factory.mktemp("exports") / "Breast model"
    folder.mkdir()
    version = write_saved_model(served_network, folder / "1", referral_threshold=referral_threshold)
    complete_version(version, model_name(folder), int(served_network.input_shape[1]))
    write_assets(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_export(tiny_run_folder, tmp_path_factory):
    """What `export_run` makes of the tiny run, in all formats. Do not change it."""
    from busmt.deployment.export import export_run
    from busmt.training.run import Run

    return export_run(Run.open(tiny_run_folder), tmp_path_factory.mktemp("tiny") / "exports", force=True)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Pixels to the bytes of an image file: `encode(pixels, "PNG")`, `encode(pixels, "JPEG", "CMYK")`."""

    def write(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
        buffer = io.BytesIO()
        picture = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()) if mode else Image.fromarray(pixels)
        picture.save(buffer, format=kind)
        return buffer.getvalue()

    return write


@pytest.fixture(scope="session")
def scans(encode) -> list[bytes]:
    """Phantoms of mixed sizes and kinds, all readable."""
    from busmt.data.phantom import make_phantom

    shapes = [(96, 120), (300, 200), (64, 64), (150, 400)]
    pictures = [make_phantom("benign", seed, shape).image for seed, shape in enumerate(shapes)]
    return [encode(picture, "JPEG" if position % 2 else "PNG") for position, picture in enumerate(pictures)]


@pytest.fixture(scope="session")
def bad_scans(scans, encode) -> list[tuple[bytes, int]]:
    """Images that cannot be used, with the status that each must get."""
    from busmt.deployment import intake

    grey = np.full((64, 80), 90, dtype=np.uint8)
    png, jpeg = scans[0], scans[1]
    bomb = png[:16] + (60000).to_bytes(4, "big") * 2 + png[24:]
    return [
        (b"", intake.NOT_AN_IMAGE),
        (b"not an image", intake.NOT_AN_IMAGE),
        (encode(grey, "GIF"), intake.NOT_AN_IMAGE),
        (png[:20], intake.DAMAGED),
        (png[:-40], intake.DAMAGED),
        (png[:60] + bytes([png[60] ^ 255]) + png[61:], intake.DAMAGED),
        (jpeg[:10], intake.DAMAGED),
        (jpeg[: len(jpeg) // 2], intake.DAMAGED),
        (encode(grey[:8]), intake.TOO_SMALL),
        (bomb, intake.TOO_LARGE),
        (encode(grey.astype(np.uint16) * 200), intake.TOO_DEEP),
        (encode(np.dstack([grey] * 4), "JPEG", "CMYK"), intake.CMYK),
    ]
