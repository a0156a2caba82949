"""A .tflite file predicts without TensorFlow, and the same as with it."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busmt.data.images import decode_grey, decode_tensor, read_encoded, read_input
from busmt.data.phantom import make_phantom
from busmt.data.pipeline import read_image
from busmt.prediction import Predictor, interpret

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "keras", "scipy", "sklearn", "skimage", "matplotlib", "h5py"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
from busmt.cli.main import main
main()
"""


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, format=kind, **options)
    return buffer.getvalue()


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    return png[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + png[33:]


NOISE = np.random.default_rng(0).integers(0, 256, (70, 60, 3), dtype=np.uint8)
SCAN = make_phantom("malignant", 3, (120, 150)).image
FILES = {
    "grey png": encoded(SCAN),
    "1-bit png": encoded(SCAN, mode="1"),
    "grey png with opaque alpha": encoded(SCAN, mode="LA"),
    "palette png": encoded(NOISE, mode="P"),
    "colour png": encoded(NOISE),
    "colour png with opaque alpha": encoded(NOISE, mode="RGBA"),
    "colour png with gamma": with_chunk(encoded(NOISE), b"gAMA", struct.pack(">I", 60000)),
    "colour png with gamma of one": with_chunk(encoded(NOISE), b"gAMA", struct.pack(">I", 100000)),
    "colour png in sRGB": with_chunk(encoded(NOISE), b"sRGB", b"\0"),
    "grey jpeg": encoded(SCAN, "JPEG", quality=60),
    "colour jpeg": encoded(NOISE, "JPEG", quality=85),
    "colour jpeg without subsampling": encoded(NOISE, "JPEG", quality=97, subsampling=0),
    "progressive jpeg": encoded(NOISE, "JPEG", progressive=True),
}


@pytest.mark.parametrize("name", FILES)
def test_grey_levels_equal_those_of_the_graph(name):
    levels = decode_grey(FILES[name])
    assert levels.dtype == np.uint8
    assert np.array_equal(levels.astype(np.float32) / 255.0, decode_tensor(FILES[name]).numpy()[..., 0])


@pytest.mark.parametrize("shape", [(16, 16), (33, 471), (301, 17), (64, 64), (127, 255), (500, 499)])
def test_network_inputs_equal_those_of_the_graph(tmp_path, shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "a.bmp"
    Image.fromarray(pixels).save(path)
    own, box = read_input(path, 64)
    other, expected = read_image(str(path), 64)
    assert box == expected
    assert own.dtype == np.float32
    np.testing.assert_allclose(own, other, atol=2e-5)


@pytest.mark.real_data
def test_the_same_label_and_mask_as_through_the_graph_on_real_images(busi_dir, tiny_export):
    """Every 20th image of BUSI, and all that are not stored in grey."""
    paths = [path for path in sorted(busi_dir.glob("*/*.png")) if "_mask" not in path.name]
    chosen = sorted({*paths[::20], *(path for path in paths if Image.open(path).mode != "L")})
    forward = {path.name: interpret(path)[0] for path in tiny_export.folder.glob("*.tflite")}
    for path in chosen:
        data = read_encoded(path)
        assert np.array_equal(decode_grey(data).astype(np.float32) / 255.0, decode_tensor(data).numpy()[..., 0]), path
        own, box = read_input(path, 64)
        other, _ = read_image(str(path), 64)
        # pictures agree but for 1e-6, which may round to the next of 256 levels; this network's maps lie around 0.5
        for name, least in {"model.tflite": 0.999, "model-int8.tflite": 0.99}.items():
            first, second = forward[name](own[None]), forward[name](other[None])
            assert first["label"].argmax() == second["label"].argmax(), path
            one, two = (box.restore_mask(answer["mask"][0, ..., 0], 0.5) for answer in (first, second))
            total = one.sum() + two.sum()
            assert total == 0 or 2 * (one & two).sum() / total >= least, path
    assert len(chosen) >= 50


def test_predict_runs_where_tensorflow_cannot_be_imported(tiny_export, tmp_path, python):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / f"{name}.{'jpg' if 'jpeg' in name else 'png'}").write_bytes(data)
    model = tiny_export.folder / "model.tflite"
    code = f"import sys; sys.argv[1:1] = ['predict', {str(folder)!r}, '--out', 'out', '--json']\n" + BLOCK
    answer = python(code, "--model", model)
    rows = json.loads(answer.stdout)["predictions"]
    assert len(rows) == len(FILES)
    forward, size = interpret(model)
    for row in rows:
        picture, box = read_image(row["image"], size)  # through TensorFlow
        expected = forward(picture[None])
        assert row["label"] == ("normal", "benign", "malignant")[int(expected["label"][0].argmax())]
        np.testing.assert_allclose(list(row["probabilities"].values()), expected["label"][0], atol=1e-4)
        assert row["refer"] is not None
        mask = box.restore_mask(expected["mask"][0, ..., 0], 0.5)
        assert abs(row["lesion_pixels"] - mask.sum()) <= 0.001 * max(1000, mask.sum())
        assert (row["label"] == "normal") == (row["lesion_pixels"] == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x.png", "--model", "RUN"], "busmt predict needs keras, which is not installed: pip install"),
        (["predict", "x.png", "--model", "EXPORT"], "busmt predict needs keras, which is not installed: pip install"),
        (["train"], 'busmt train needs keras, which is not installed: pip install "busmt[train]"'),
        (
            ["export", "RUN", "--to", "out"],
            'busmt export needs keras, which is not installed: pip install "busmt[train]"',
        ),
    ],
)
def test_what_needs_tensorflow_says_which_extra_brings_it(arguments, message, tiny_export, tiny_run_folder, python):
    places = {"RUN": str(tiny_run_folder), "EXPORT": str(tiny_export.folder)}
    arguments = [places.get(word, word) for word in arguments]
    answer = python(f"import sys; sys.argv[1:] = {arguments!r}\n" + BLOCK, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"busmt: error: {message}")
    assert len(answer.stderr.splitlines()) == 1


def test_the_library_says_it_too(tiny_run_folder, tiny_export, python):
    code = BLOCK.replace("from busmt.cli.main import main\nmain()", "") + (
        "from busmt.errors import MissingPackageError\n"
        "from busmt.prediction import Predictor\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        Predictor.load(path)\n"
        "    except MissingPackageError as error:\n        print(error)\n"
    )
    answer = python(code, tiny_run_folder, tiny_export.folder)
    first, second = answer.stdout.splitlines()
    assert "a Keras model needs keras, which is not installed" in first
    assert "a SavedModel needs tensorflow, which is not installed" in second


def test_a_tflite_file_without_its_sidecar_still_refers(tiny_export, tmp_path):
    path = Path(shutil.copy(tiny_export.folder / "model-int8.tflite", tmp_path / "x.tflite"))
    (tmp_path / "a.png").write_bytes(FILES["grey png"])
    assert Predictor.load(path).predict_file(tmp_path / "a.png").refer is not None
