"""The tablet app in a headless Chromium of tablet size: its answers are Python's, and nothing leaves the device."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import keras
import numpy as np
import pytest
from chromium import TABLETS, Server, analyse, find_chromium, opened
from PIL import Image

from busmt.config import CLASSES, MASK_THRESHOLD
from busmt.data.images import decode_tensor, read_encoded
from busmt.data.phantom import make_phantom
from busmt.deployment.tablet.site import write_site
from busmt.deployment.tflite import convert
from busmt.model.network import REFINEMENT_LAYER
from busmt.prediction import Predictor, load_network
from busmt.training.run import Run

ROOT = Path(__file__).resolve().parents[2]
BROWSERS_OWN = (".google.com", ".googleapis.com", ".gvt1.com")
"""Services that Chromium itself asks, whatever page is open."""
_REQUEST = "Network.requestWillBeSent"

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def site(tiny_run_folder, tmp_path_factory) -> Path:
    """The app with a float32 model: int8 kernels round differently on each kind of processor."""
    run = Run.open(tiny_run_folder)
    network = load_network(run.model_path)
    see_some_lesions(network)
    model = convert(network, attention=True)
    card = {
        "name": run.name,
        "busmt": "0",
        "variant": "float32",
        "classes": list(CLASSES),
        "input": {"name": "image", "size": int(network.input_shape[1])},
        "mask_threshold": MASK_THRESHOLD,
        "referral_threshold": run.calibration().get("referral_threshold"),
    }
    return write_site(tmp_path_factory.mktemp("export") / "tablet", model, card)


def see_some_lesions(network: keras.Model) -> None:
    """Set the offsets so that half of some phantoms have a lesion, of a tenth of the image: what four epochs of
    training find differs between processors, and may be nothing at all."""
    side = network.input_shape[1]
    phantoms = [make_phantom("malignant", seed, (side, side)).image for seed in range(16)]
    images = np.stack(phantoms)[..., None].astype(np.float32) / 255
    layer = network.get_layer(REFINEMENT_LAYER)
    logits = keras.Model(network.input, layer.input).predict(images, verbose=0)[0]
    layer.mask_offset.assign(-np.quantile(logits, 0.9))
    layer.bias.assign(10.0)  # near 0 margins are kept apart
    classes = network.predict(images, verbose=0)["label"]
    margins = float(layer.temperature.numpy()) * np.log(classes[:, 1:].max(axis=1) / classes[:, 0])
    layer.bias.assign(10.0 - np.median(margins))


@pytest.fixture(scope="module")
def predictor(site) -> Predictor:
    return Predictor.load(site / "model.tflite")


@pytest.fixture(scope="module")
def app(site):
    with opened(site) as (page, server):
        yield SimpleNamespace(page=page, server=server, browser=page.browser)


@pytest.fixture(scope="module")
def scan(predictor, tmp_path_factory) -> Path:
    """A phantom in which the model sees a lesion."""
    folder = tmp_path_factory.mktemp("scan")
    for seed in range(40):
        path = folder / "scan.png"
        Image.fromarray(make_phantom("malignant", seed, (240, 320)).image).save(path)
        if 400 < predictor.predict_file(path).mask.sum() < 20000:
            return path
    raise AssertionError("the model sees no lesion in 40 phantoms")


@pytest.fixture
def shown(app, scan):
    """The app with the scan open, in landscape."""
    app.page.resize(TABLETS["landscape"])
    open_file(app.page, scan)
    return app.page


def open_file(page, path: Path) -> str:
    """Open a file as a person does; the text of the status line."""
    page.run("document.getElementById('status').textContent = ''")
    page.choose("#file", path)
    page.wait("document.body.ariaBusy === 'false' && document.getElementById('status').textContent")
    return page.run("document.getElementById('status').textContent")


# What it says


def pictures() -> dict[str, Image.Image]:
    generator = np.random.default_rng(3)
    grey = Image.fromarray(make_phantom("benign", 1, (224, 288)).image)
    colour = Image.fromarray(generator.integers(0, 256, (70, 90, 3)).astype(np.uint8))
    clear = Image.fromarray(generator.integers(0, 256, (40, 50, 4)).astype(np.uint8))
    return {
        "grey": grey,
        "narrow": grey.resize((333, 17)),
        "tall": grey.resize((181, 300)),
        "colour": colour,
        "opaque": colour.convert("RGBA"),
        "grey and opaque": grey.convert("LA"),
        "palette": colour.quantize(200),
        "palette of 4 bits": colour.quantize(11),
        "bits": grey.convert("1"),
        "transparent": clear,
    }


@pytest.mark.parametrize("name", pictures())
def test_png_pixels_are_those_of_the_training_pipeline(app, tmp_path, name):
    path = tmp_path / "image.png"
    pictures()[name].save(path)
    expected = np.round(decode_tensor(read_encoded(path)).numpy()[..., 0] * 255).astype(int)
    difference = np.abs(analyse(app.page, "image.png", path.read_bytes())["grey"] - expected)
    assert difference.max() <= (1 if name == "transparent" else 0)


def test_interlaced_png_and_one_transparent_level(app):
    """Pillow reads both and writes neither."""
    levels = np.asarray(Image.fromarray(make_phantom("benign", 1, (48, 61)).image))
    content = interlaced(levels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), levels)
    assert np.array_equal(analyse(app.page, "a.png", content)["grey"], levels)
    keyed = interlaced(levels, hidden=int(levels[20, 20]))
    expected = np.where(levels == levels[20, 20], 0, levels)
    assert np.array_equal(analyse(app.page, "a.png", keyed)["grey"], expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_pixels_are_nearly_those_of_the_training_pipeline(app, tmp_path, mode):
    """TensorFlow reads JPEG with the fast cosine transform, browsers with the exact one."""
    path = tmp_path / "image.jpg"
    Image.fromarray(make_phantom("benign", 1, (224, 288)).image).convert(mode).save(path, quality=90)
    expected = np.round(decode_tensor(read_encoded(path)).numpy()[..., 0] * 255).astype(int)
    difference = np.abs(analyse(app.page, "image.jpg", path.read_bytes())["grey"] - expected)
    assert difference.max() <= 4
    assert difference.mean() < 0.6


def test_answers_are_those_of_python(app, predictor, tmp_path):
    for seed, shape in enumerate([(224, 288), (300, 181), (64, 64), (471, 562), (60, 333), (128, 128)]):
        path = tmp_path / f"{seed}.png"
        kind = ("normal", "benign", "malignant")[seed % 3]
        Image.fromarray(make_phantom(kind, seed, shape).image).save(path)
        own, other = predictor.predict_file(path), analyse(app.page, path.name, path.read_bytes())
        assert other["label"] == own.label
        assert other["refer"] == own.refer
        assert other["mask"].any() == (own.label != "normal")
        both = own.mask.sum() + other["mask"].sum()
        assert both == 0 or 2 * (own.mask & other["mask"]).sum() >= 0.99 * both
        np.testing.assert_allclose(other["probabilities"], own.probabilities, atol=0.01)


@pytest.mark.real_data
def test_fifty_real_images_agree_with_python(busi_dir, site, tmp_path):
    """Label agreement 100 %, Dice of every mask at least 0.99."""
    script = ROOT / "benchmarks" / "tablet_agreement.py"
    command = [sys.executable, script, site, "--data", busi_dir, "--images", "50", "--out", tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["same_label"] == result["images"] == 50
    assert result["min_mask_dice"] >= 0.99


def test_what_is_shown_is_what_was_found(shown, predictor, scan):
    own = predictor.predict_file(scan)
    text = shown.run("document.body.innerText")
    assert "Not a medical device" in text
    assert f"{own.label.capitalize()} {100 * own.probabilities.max():.1f} %" in text.replace("\n", " ")
    refer = shown.run("document.getElementById('refer').dataset.alarm")
    assert refer == str(bool(own.refer or own.label == "malignant")).lower()
    assert "Pixel spacing unknown" in text


def test_the_referral_rule_is_that_of_python(app):
    """Not called malignant, yet at or above the threshold: the rule's three cases and no rule at all."""
    rows = [([0.1, 0.6, 0.3], 0.3, True), ([0.1, 0.6, 0.3], 0.31, False), ([0.1, 0.3, 0.6], 0.3, False)]
    from busmt.evaluation.calibration import is_referred

    for probabilities, threshold, expected in rows:
        values = np.array([probabilities], np.float32)
        assert is_referred(values, threshold)[0] == expected
        card = {"classes": ["normal", "benign", "malignant"], "referral_threshold": threshold}
        assert app.page.run(f"busmt.isReferred({values[0].tolist()}, {json.dumps(card)})") is expected
    card = {"classes": ["normal", "benign", "malignant"], "referral_threshold": None}
    assert app.page.run(f"busmt.isReferred([0.1, 0.6, 0.3], {json.dumps(card)})") is None


# DICOM


def dicom(pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", **tags) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def windowed(content: bytes) -> np.ndarray:
    """Grey levels as pydicom shows them."""
    import pydicom

    data = pydicom.dcmread(io.BytesIO(content))
    values = pydicom.pixels.apply_modality_lut(data.pixel_array, data)
    shown = pydicom.pixels.apply_windowing(values, data).astype(float)
    low, high = -(2 ** (data.BitsStored - 1)) if data.PixelRepresentation else 0, 0
    high = 2 ** (data.BitsStored - data.PixelRepresentation) - 1
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    return np.round((shown - low) / (high - low) * 255)


def test_dicom_with_spacing_gives_millimetres(app, tmp_path, scan):
    levels = np.asarray(Image.open(scan))
    path = tmp_path / "IM0001"
    path.write_bytes(dicom(levels, PixelSpacing=[0.2, 0.1]))
    found = analyse(app.page, path.name, path.read_bytes())
    assert np.array_equal(found["grey"], levels)
    assert found["spacing"] == {"row": 0.2, "column": 0.1}
    open_file(app.page, path)
    text = app.page.run("document.getElementById('size').textContent")
    area, width, height = map(int, re.search(r"(?:Lesion|Largest part) (\d+) px, box (\d+) × (\d+) px", text).groups())
    assert f"{area * 0.02:.1f} mm², box {width * 0.1:.1f} × {height * 0.2:.1f} mm" in text


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 900, "WindowWidth": 1500},
        {"WindowCenter": 900, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 900, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 300, "WindowWidth": 700, "RescaleSlope": 0.5, "RescaleIntercept": -100},
        {"WindowCenter": [900, 1], "WindowWidth": [1500, 2], "BitsStored": 12, "HighBit": 11},
    ],
)
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_dicom_windows_are_those_of_the_standard(app, syntax, tags, kind):
    levels = np.random.default_rng(1).integers(0, 2000, (40, 50)).astype(kind)
    if kind is np.int16:
        levels -= 700
    content = dicom(levels, syntax, **tags)
    assert np.abs(analyse(app.page, "a.dcm", content)["grey"] - windowed(content)).max() <= 1


def test_other_dicom_pixels(app):
    levels = np.random.default_rng(1).integers(0, 256, (41, 51)).astype(np.uint8)
    inverse = dicom(levels, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(analyse(app.page, "a.dcm", inverse)["grey"], 255 - levels)
    deep = levels.astype(np.uint16) * 10 + 77
    spread = np.round((deep - deep.min()) / (deep.max() - deep.min()) * 255)
    assert np.array_equal(analyse(app.page, "a.dcm", dicom(deep))["grey"], spread)
    colour = np.repeat(levels[..., None], 3, axis=2)
    assert np.array_equal(analyse(app.page, "a.dcm", dicom(colour))["grey"], levels)


def test_spacing_of_a_calibrated_ultrasound_region(app):
    pydicom = pytest.importorskip("pydicom")
    region = pydicom.Dataset()
    region.RegionSpatialFormat = 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01, 0.02
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        content = dicom(np.zeros((20, 30), np.uint8), syntax, SequenceOfUltrasoundRegions=[region])
        spacing = analyse(app.page, "a.dcm", content)["spacing"]
        assert spacing == pytest.approx({"row": 0.2, "column": 0.1})


# Errors


def broken(scan: Path) -> dict[str, tuple[bytes, str]]:
    encapsulate = pytest.importorskip("pydicom").encaps.encapsulate
    grey, png = np.full((64, 80), 90, np.uint8), scan.read_bytes()
    jpeg, tiny, deep, animated = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.open(scan).save(jpeg, "JPEG")
    Image.fromarray(grey[:8]).save(tiny, "PNG")
    Image.fromarray(grey.astype(np.uint16) * 200).save(deep, "PNG")
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    frames[0].save(animated, "PNG", save_all=True, append_images=frames[1:])
    packed = encapsulate([jpeg.getvalue()])
    bomb = (60000).to_bytes(4, "big") * 2
    return {
        "empty.png": (b"", "not a readable"),
        "text.txt": (b"not an image", "not a readable"),
        "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='90' height='90'/>", "not a readable"),
        "start.png": (png[:20], "damaged"),
        "cut.png": (png[:-400], "damaged"),
        "bit.png": (png[:90] + bytes([png[90] ^ 1]) + png[91:], "damaged"),
        "cut.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "damaged"),
        "tiny.png": (tiny.getvalue(), "at least 16 pixels"),
        "deep.png": (deep.getvalue(), "more than 8 bits"),
        "animated.png": (animated.getvalue(), "more than one frame"),
        "bomb.png": (rewrite_header(png, bomb), "50 million"),
        "jpeg.dcm": (
            dicom(grey, "1.2.840.10008.1.2.4.50", PixelData=packed),
            "compressed DICOM",
        ),
        "deflated.dcm": (dicom(grey, "1.2.840.10008.1.2.1.99"), "compressed DICOM"),
        "loop.dcm": (dicom(grey, NumberOfFrames=3), "more than one frame"),
        "palette.dcm": (dicom(grey, PhotometricInterpretation="PALETTE COLOR"), "this kind of DICOM"),
        "cut.dcm": (dicom(grey)[:-1000], "damaged"),
        "bits.dcm": (dicom(grey.astype(np.uint16), BitsStored=0), "damaged"),
        "slope.dcm": (dicom(grey.astype(np.uint16), RescaleSlope="1e999", RescaleIntercept="0"), "damaged"),
        "kind.png": (rewrite_header(png, png[16:24] + bytes([8, 5, 0, 0, 0])), "damaged"),
        "none.dcm": (dicom(grey)[:140], "damaged"),
    }


def rewrite_header(png: bytes, start: bytes) -> bytes:
    """Another size, and what else comes after it."""
    import zlib

    body = b"IHDR" + start + png[16 + len(start) : 29]
    return png[:12] + body + zlib.crc32(body).to_bytes(4, "big") + png[33:]


def test_a_picture_that_unpacks_to_more_than_it_shows_is_read_no_further(app):
    levels = np.asarray(Image.fromarray(make_phantom("benign", 1, (48, 61)).image))
    assert np.array_equal(analyse(app.page, "a.png", interlaced(levels, surplus=50_000_000))["grey"], levels)


def test_unusable_files_get_a_clear_line_and_no_answer(app, scan, tmp_path):
    open_file(app.page, scan)
    for name, (content, expected) in broken(scan).items():
        path = tmp_path / name
        path.write_bytes(content)
        said = open_file(app.page, path)
        assert said.startswith(f"{name}: "), said
        assert expected in said
        assert app.page.run("document.getElementById('status').dataset.wrong") == "true"
        assert app.page.run("document.getElementById('result').hidden && document.getElementById('picture').hidden")
    assert open_file(app.page, scan) == "Done."
    assert app.page.run("document.getElementById('result').hidden") is False


# Correction, saving, sharing


_AREA = r"""(() => { const t = document.getElementById('size').textContent;
    const m = t.match(/together (\d+) px/) ?? t.match(/Lesion (\d+) px/); return m ? Number(m[1]) : 0; })()"""


def area(page) -> int:
    """Pixels within the outline, as the page says."""
    return page.run(_AREA)


def circle(page, across: float, down: float, radius: float) -> list[tuple[float, float]]:
    """Places on the picture, in shares of its size, around a centre; the radius in CSS pixels."""
    x, y, width, height = page.run(
        "(() => { const r = document.getElementById('picture').getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]; })()"
    )
    turns = np.linspace(0, 2 * np.pi, 25)
    return [(x + across * width + radius * np.cos(t), y + down * height + radius * np.sin(t)) for t in turns]


def area_after(page, before: int) -> int:
    """The area as soon as it is another: a finger's events arrive a little later."""
    page.wait(f"({_AREA}) !== {before}", 10)
    return area(page)


def test_the_outline_is_corrected_by_finger_and_taken_back(shown):
    before = area(shown)
    shown.tap("#edit")
    shown.drag(circle(shown, 0.2, 0.8, 70))
    added = area_after(shown, before)
    scale = shown.run("document.getElementById('picture').getBoundingClientRect().width") / 320
    assert added > before + 0.8 * np.pi * (70 / scale) ** 2  # the closed line is filled
    assert "corrected by hand" in shown.run("document.getElementById('corrected').textContent")
    shown.tap("#erase")
    shown.drag(circle(shown, 0.2, 0.8, 30))
    assert before < area_after(shown, added) < added
    erased = area(shown)
    shown.tap("#undo")
    assert area_after(shown, erased) == added
    shown.tap("#undo")
    assert area_after(shown, added) == before
    assert shown.run("document.getElementById('corrected').textContent") == ""
    assert shown.run("document.getElementById('undo').disabled") is True
    shown.tap("#add")
    shown.drag(circle(shown, 0.2, 0.8, 70))
    again = area_after(shown, before)
    shown.tap("#reset")
    assert area_after(shown, again) == before
    shown.tap("#undo")
    assert area_after(shown, before) == again


def test_everything_is_reached_by_keyboard(shown):
    seen = set()
    shown.run("document.activeElement.blur()")
    for _ in range(12):
        shown.press("Tab")
        seen.add(shown.run("document.activeElement.id"))
    assert {"photo", "file", "picture", "edit", "attention", "save-picture", "save-data"} <= seen
    before = area(shown)
    shown.run("document.getElementById('edit').focus()")
    shown.press("Enter")
    assert shown.run("document.activeElement.id") == "picture"
    for _ in range(20):
        shown.press("ArrowLeft")
    for _ in range(20):
        shown.press("ArrowUp")
    shown.press(" ")
    more = area_after(shown, before)
    assert more > before
    shown.press("z")
    assert area_after(shown, more) == before
    shown.press("e")
    assert shown.run("document.getElementById('erase').ariaPressed") == "true"
    shown.press("Escape")
    assert shown.run("document.getElementById('undo').hidden") is True


def test_picture_and_data_are_saved(app, shown, predictor, scan, tmp_path):
    app.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    shown.tap("#save-picture")
    shown.tap("#save-data")
    picture, data = saved(tmp_path / "scan_overlay.png"), json.loads(saved(tmp_path / "scan.json"))
    own = predictor.predict_file(scan)
    assert data["label"] == own.label
    assert data["corrected"] is False
    assert "Not a medical device" in data["notice"]
    assert data["model"]["sha256"] == json.loads((predictor.path.parent / "model.json").read_text())["model_sha256"]
    mask = np.repeat(np.arange(len(data["mask_runs"])) % 2, data["mask_runs"]).reshape(240, 320) > 0
    assert 2 * (mask & own.mask).sum() >= 0.99 * (mask.sum() + own.mask.sum())
    assert sum(part["pixels"]["area"] for part in data["lesions"]) == mask.sum()
    drawn = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    assert drawn.shape[1] == 320
    assert drawn.shape[0] > 240  # a strip with class and notice under it
    orange = (np.abs(drawn[:240] - (230, 159, 0)).max(axis=2) < 40).sum()
    assert orange > 30
    untouched = np.abs(drawn[:240, :, 0] - np.asarray(Image.open(scan))) <= 1
    assert untouched.mean() > 0.85


def saved(path: Path) -> bytes:
    for _ in range(200):
        if path.exists() and path.stat().st_size:
            return path.read_bytes()
        time.sleep(0.05)
    raise AssertionError(f"{path.name} was not saved")


def test_sharing_hands_both_files_to_the_device(shown, scan):
    shown.run("""navigator.canShare = () => true; window.handed = [];
        navigator.share = async ({ files }) => {
          window.handed = files.map((file) => file.name + " " + file.type);
        };""")
    open_file(shown, scan)
    shown.tap("#share")
    shown.wait("window.handed.length")
    assert shown.run("window.handed") == ["scan_overlay.png image/png", "scan.json application/json"]


def test_the_attention_map_is_drawn_on_demand(shown):
    look = (
        "(() => { const c = document.getElementById('picture'); const p = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0;"
        "for (let i = 0; i < p.length; i += 4) n += p[i + 2] > p[i] + 20; return n / (c.width * c.height); })()"
    )
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    shown.run(frame)
    assert shown.run(look) < 0.01
    shown.tap("#attention")
    shown.run(frame)
    assert shown.run(look) > 0.05
    assert shown.run("document.getElementById('legend').hidden") is False
    shown.tap("#attention")
    shown.run(frame)
    assert shown.run(look) < 0.01


# On the tablet


@pytest.mark.parametrize("hold", TABLETS)
@pytest.mark.parametrize("shape", [(240, 320), (400, 120), (90, 500)])
def test_layout_fits_and_can_be_touched(app, predictor, tmp_path, hold, shape):
    app.page.resize(TABLETS[hold])
    path = tmp_path / "a.png"
    Image.fromarray(make_phantom("malignant", 4, shape).image).save(path)
    open_file(app.page, path)
    for editing in (False, True):
        if editing:
            app.page.tap("#edit")
        app.page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        wide, high = app.page.run("[document.body.scrollWidth, document.body.scrollHeight]")
        assert (wide, high) <= TABLETS[hold]
        frame = app.page.run("JSON.parse(JSON.stringify(document.getElementById('picture').getBoundingClientRect()))")
        assert frame["width"] / frame["height"] == pytest.approx(shape[1] / shape[0], rel=0.02)
        stage = app.page.run("JSON.parse(JSON.stringify(document.querySelector('.stage').getBoundingClientRect()))")
        for low, high in (("left", "right"), ("top", "bottom")):
            assert stage[low] <= frame[low] < frame[high] <= stage[high]
        assert max(frame["width"] / stage["width"], frame["height"] / stage["height"]) > 0.9
        small = app.page.run(
            "[...document.querySelectorAll('button, .button')].filter((e) => e.checkVisibility())"
            ".filter((e) => e.offsetWidth < 48 || e.offsetHeight < 48).map((e) => e.id)"
        )
        assert small == []


def test_text_stands_out_in_a_dark_room(shown):
    """WCAG 2.2, success criterion 1.4.6: a contrast of at least 7; and no bright surface."""
    rows = shown.run("""[...document.querySelectorAll('h1, p, li, button, .button, strong')]
        .filter((e) => e.checkVisibility() && e.innerText && !e.disabled).map((e) => {
          let ground = e;
          while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
          const levels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
          return [e.innerText, levels(getComputedStyle(e).color), levels(getComputedStyle(ground).backgroundColor)];
        })""")
    assert len(rows) > 8
    for text, colour, ground in rows:
        lights = sorted(luminance(np.array(level) / 255) for level in (colour, ground))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 7, text
    body = shown.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert luminance(np.array(body[:3]) / 255) < 0.02


def luminance(levels: np.ndarray) -> float:
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_the_browser_finds_it_installable(app):
    assert app.page.call("Page.getInstallabilityErrors")["installabilityErrors"] == []
    assert app.page.call("Page.getAppManifest")["errors"] == []


# Nothing leaves the device


def foreign(server: Server) -> list[str]:
    """Requests for other addresses, without those of the browser itself."""
    hosts = [(line, urlsplit("//" + line.split()[1].split("//")[-1]).hostname or "") for line in server.requests]
    return [line for line, host in hosts if not f".{host}".endswith(BROWSERS_OWN)]


def test_no_request_goes_out(site, scan, tmp_path):
    with opened(site) as (page, server):
        page.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.run("0")
        loaded, page.browser.events = len(server.requests), []
        open_file(page, scan)
        for name in ("attention", "edit"):
            page.tap(f"#{name}")
        page.drag(circle(page, 0.2, 0.8, 50))
        for name in ("undo", "edit", "save-picture", "save-data"):
            page.tap(f"#{name}")
        saved(tmp_path / "scan.json")
        page.run("new Promise((done) => setTimeout(done, 500))")
        requests = [event["params"] for event in page.browser.events if event.get("method") == _REQUEST]
        sent = [params["request"]["url"] for params in requests]
        assert [url for url in sent if not url.startswith(("blob:", "data:"))] == []
        assert server.requests[loaded:] == []
        assert foreign(page.browser.outside) == []

        # a script that tried would fail: the page may connect to nothing, not even to its own server
        tries = {
            "foreign fetch": "fetch('http://example.org/a', { method: 'POST', body: 'x', mode: 'no-cors' })",
            "own fetch": "fetch('upload', { method: 'POST', body: 'x' })",
            "own get": "fetch('model.json?x')",
            "foreign image": image("http://example.org/b.png"),
            "own image": image("upload.png?x"),
            "socket": "new Promise((ok, no) => Object.assign(new WebSocket('ws://example.org/'), "
            "{ onopen: ok, onerror: no }))",
            "script": "import('http://example.org/c.js')",
        }  # fmt: skip
        for name, attempt in tries.items():
            assert page.run(f"({attempt}).then(() => 'went out', () => 'held')") == "held", name
        page.run("navigator.sendBeacon('http://example.org/d', 'x'), navigator.sendBeacon('upload', 'x'), 0")
        page.run("(() => { const f = document.createElement('form'); f.action = 'http://example.org/e';"
                 "document.body.append(f); f.submit(); })()")  # fmt: skip
        page.run("new Promise((done) => setTimeout(done, 500))")
        assert server.requests[loaded:] == []
        assert foreign(page.browser.outside) == []

        # the counters do count: the same attempts from a page without the policy arrive
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain" / "index.html").write_text("<!doctype html>")
        plain = Server(tmp_path / "plain")
        other = page.browser.open(plain.url)
        other.wait("document.readyState === 'complete'")
        other.run(f"({tries['foreign fetch']}).catch(() => 0)")
        other.run(f"({tries['own fetch']}).catch(() => 0)")
        assert any("example.org/a" in line for line in foreign(page.browser.outside))
        assert any(line.startswith("POST /upload") for line in plain.requests)
        plain.stop()


def image(url: str) -> str:
    return f"new Promise((ok, no) => {{ const i = new Image(); i.onload = ok; i.onerror = no; i.src = '{url}'; }})"


def test_it_works_without_a_connection_after_the_first_visit(site, scan, predictor):
    with opened(site) as (page, server):
        server.stop()
        page.go(server.url)
        page.wait("document.body.dataset.ready")
        assert open_file(page, scan) == "Done."
        assert page.run("document.getElementById('class').textContent").lower() == predictor.predict_file(scan).label


def test_a_new_version_takes_over_when_the_app_is_opened_again(site, tmp_path):
    card = json.loads((site / "model.json").read_text())
    folder = tmp_path / "served"
    shutil.copytree(site, folder)
    with opened(folder) as (page, server):
        shutil.rmtree(folder)
        write_site(folder, (site / "model.tflite").read_bytes(), card | {"name": "newer"})
        page.go(server.url)
        page.wait("document.getElementById('offline').textContent.includes('new version')")
        end = time.monotonic() + 60
        kept = 2
        while kept != 1:  # as long as the browser is still closing the old page, the old version stays
            assert time.monotonic() < end, "the old version stays"
            page.close()
            page = page.browser.open(server.url)
            page.wait("document.body.dataset.ready")
            kept = page.run("caches.keys().then((names) => names.length)")
        assert "newer" in page.run("caches.match('model.json').then((kept) => kept.text())")


def interlaced(levels: np.ndarray, hidden: int | None = None, surplus: int = 0) -> bytes:
    """An Adam7 PNG with 8-bit grey levels, a level that counts as transparent, and bytes that show nothing."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width = levels.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = [b"\0" + line.tobytes() for x, y, dx, dy in passes for line in levels[y::dy, x::dx]]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 1])
    key = b"" if hidden is None else chunk(b"tRNS", hidden.to_bytes(2, "big"))
    data = zlib.compress(b"".join(lines) + bytes(surplus))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_the_command_writes_an_app_that_runs(tiny_run_folder, tmp_path):
    """Whichever variant it chooses: the app gives the class that the same file gives in Python."""
    from click.testing import CliRunner

    from busmt.cli.main import cli

    folder = tmp_path / "tablet"
    done = CliRunner().invoke(cli, ["export", str(tiny_run_folder), "--to", str(folder), "--format", "tablet"])
    assert done.exit_code == 0, done.output
    own, card = Predictor.load(folder / "model.tflite"), json.loads((folder / "model.json").read_text())
    assert card["mask_threshold"] == MASK_THRESHOLD
    assert card["classes"] == list(CLASSES)
    assert card["input"] == card["input"] | {"name": "image", "size": own.size}
    with opened(folder) as (page, _):
        for seed in range(6):
            path = tmp_path / f"{seed}.png"
            Image.fromarray(make_phantom(CLASSES[seed % 3], seed, (96, 120)).image).save(path)
            prediction, other = own.predict_file(path), analyse(page, path.name, path.read_bytes())
            np.testing.assert_allclose(other["probabilities"], prediction.probabilities, atol=0.1)
            assert other["mask"].any() == (other["label"] != "normal")
