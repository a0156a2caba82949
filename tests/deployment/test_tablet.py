"""The tablet app: what is written is complete and closed; its arithmetic is that of Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busmt.data.images import Letterbox
from busmt.data.phantom import make_phantom
from busmt.deployment.tablet.site import write_site

SOURCE = Path(__file__).resolve().parents[2] / "busmt" / "deployment" / "tablet"
CARD = {"name": "x", "classes": ["normal", "benign", "malignant"], "input": {"name": "image", "size": 64}}
SIZES = [(224, 288), (300, 181), (64, 64), (40, 52), (17, 333), (471, 562)]

_SCRIPT = """
import { letterbox, measure, restore, restoreMask, toGrey, toInput } from "%s";
import { readFileSync } from "node:fs";
const results = JSON.parse(readFileSync(0)).map(({ grey, height, width, size, map, rgba }) => {
  const box = letterbox(height, width, size);
  const mask = restoreMask(Float32Array.from(map), box, 0.5);
  return { box, input: Array.from(toInput(Uint8Array.from(grey), box)),
    restored: Array.from(restore(Float32Array.from(map), box)), mask: Array.from(mask),
    size: measure(mask, width), luma: Array.from(toGrey(Uint8Array.from(rgba))) };
});
process.stdout.write(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return write_site(tmp_path_factory.mktemp("tablet") / "app", b"model", CARD)


@pytest.fixture(scope="module")
def cases() -> list[dict]:
    generator = np.random.default_rng(3)
    found = []
    for seed, (height, width) in enumerate(SIZES):
        pixels = make_phantom("benign", seed, (max(height, 48), max(width, 48))).image[:height, :width]
        rows, columns = np.mgrid[:96, :96]
        bump = np.exp(-((rows - 45.3) ** 2 + (columns - 50.7) ** 2) / 300)
        colours = generator.integers(0, 256, (50, 3))
        found.append({"pixels": pixels, "map": bump.astype(np.float32), "colours": colours})
    return found


@pytest.fixture(scope="module")
def answers(cases, tmp_path_factory) -> list[dict]:
    """What the app's JavaScript makes of the cases."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    script = tmp_path_factory.mktemp("script") / "run.mjs"
    module = tmp_path_factory.getbasetemp() / "image.mjs"
    shutil.copy(SOURCE / "src" / "image.js", module)
    script.write_text(_SCRIPT % module.as_uri())
    given = [
        {
            "grey": case["pixels"].ravel().tolist(), "height": case["pixels"].shape[0],
            "width": case["pixels"].shape[1], "size": 96, "map": case["map"].ravel().tolist(),
            "rgba": np.insert(case["colours"], 3, 255, axis=1).ravel().tolist(),
        }
        for case in cases
    ]  # fmt: skip
    done = subprocess.run([node, script], input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_network_sees_the_same_pixels(cases, answers):
    """Pillow's BILINEAR equals the antialiased resize of the training pipeline."""
    for case, answer in zip(cases, answers, strict=True):
        height, width = case["pixels"].shape
        box = Letterbox(height, width, 96)
        own = [box.top, box.left, box.inner_height, box.inner_width]
        assert [answer["box"][name] for name in ("top", "left", "innerHeight", "innerWidth")] == own
        levels = Image.fromarray(case["pixels"].astype(np.float32) / 255)
        expected = np.zeros((96, 96), np.float32)
        inner = np.asarray(levels.resize((box.inner_width, box.inner_height), Image.Resampling.BILINEAR))
        expected[box.top : box.top + box.inner_height, box.left : box.left + box.inner_width] = inner
        np.testing.assert_allclose(np.reshape(answer["input"], (96, 96)), expected, atol=2e-6)


def test_masks_come_back_to_the_image_as_in_python(cases, answers):
    for case, answer in zip(cases, answers, strict=True):
        shape = case["pixels"].shape
        box = Letterbox(*shape, 96)
        np.testing.assert_allclose(np.reshape(answer["restored"], shape), box.restore(case["map"]), atol=1e-4)
        mask = box.restore_mask(case["map"], 0.5)
        assert (np.reshape(answer["mask"], shape).astype(bool) != mask).sum() <= 0.002 * max(mask.sum(), 500)
        rows, columns = np.nonzero(np.reshape(answer["mask"], shape))
        assert answer["size"]["area"] == len(rows)
        assert answer["size"]["height"] == np.ptp(rows) + 1
        assert answer["size"]["width"] == np.ptp(columns) + 1


def test_colours_become_grey_as_in_the_decoder(cases, answers):
    for case, answer in zip(cases, answers, strict=True):
        expected = np.asarray(Image.fromarray(case["colours"][None].astype(np.uint8)).convert("L"))[0]
        assert np.abs(np.array(answer["luma"]) - expected.astype(int)).max() <= 1


def test_the_app_is_complete_and_knows_all_its_files_offline(site):
    worker = (site / "sw.js").read_text()
    kept = json.loads(re.search(r"FILES = (\[.*?\]);", worker)[1])
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert set(kept) == (files - {"sw.js"}) | {"./"}
    assert {"index.html", "app.js", "app.css", "model.tflite", "model.json", "wasm/litert_wasm_internal.wasm"} <= files
    assert (site / "wasm" / "litert_wasm_compat_internal.wasm").read_bytes()[:4] == b"\0asm"
    for name in re.findall(r'(?:src|href)="([^"]+)"', (site / "index.html").read_text()):
        assert name in files


def test_another_model_is_another_version(site, tmp_path):
    other = write_site(tmp_path / "other", b"another model", CARD)
    assert (other / "sw.js").read_text() != (site / "sw.js").read_text()


def test_the_policy_forbids_every_foreign_address(site):
    page = (site / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == rules["style-src"] == rules["worker-src"] == "'self'"
    assert not re.search(r"https?:|\*", policy)
    assert page.index("Content-Security-Policy") < page.index("<script")


def test_the_app_says_that_it_is_no_medical_device(site):
    assert "Not a medical device" in (site / "app.js").read_text()


def test_the_built_copy_stays_small():
    total = sum(path.stat().st_size for path in (SOURCE / "app").rglob("*") if path.is_file())
    assert total < 15_000_000
