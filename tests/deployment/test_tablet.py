"""The tablet app as it is written: complete, closed, and built from the source beside it."""

from __future__ import annotations

import configparser
import fnmatch
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from busmt.deployment.tablet import site as tablet_site
from busmt.deployment.tablet.site import write_site
from busmt.errors import ExportError

ROOT = Path(__file__).resolve().parents[2]
TABLET = ROOT / "busmt" / "deployment" / "tablet"
CARD = {"name": "x", "classes": ["normal", "benign", "malignant"], "input": {"name": "image", "size": 64}}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return write_site(tmp_path_factory.mktemp("tablet") / "app", b"model", CARD)


def test_the_app_is_complete_and_knows_all_its_files_offline(site):
    worker = (site / "sw.js").read_text()
    kept = json.loads(re.search(r"FILES = (\[.*?\]);", worker)[1])
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert set(kept) == (files - {"sw.js"}) | {"./"}
    assert {"index.html", "app.js", "model.tflite", "model.json"} <= files
    assert (site / "wasm" / "litert_wasm_compat_internal.wasm").read_bytes()[:4] == b"\0asm"
    for name in re.findall(r'(?:src|href)="([^"]+)"', (site / "index.html").read_text()):
        assert name in files


def test_it_can_be_installed(site):
    manifest = json.loads((site / "app.webmanifest").read_text())
    assert manifest["display"] == "standalone"
    assert manifest["start_url"] == "./"
    sizes = set()
    for icon in manifest["icons"]:
        if icon["type"] == "image/png":
            with Image.open(site / icon["src"]) as picture:
                assert icon["sizes"] == f"{picture.width}x{picture.height}"
            sizes.add(icon["sizes"])
    assert {"192x192", "512x512"} <= sizes
    assert "maskable" in {icon["purpose"] for icon in manifest["icons"]}
    with Image.open(site / "icon-180.png") as picture:  # iPads read this one
        assert picture.size == (180, 180)


def test_another_model_is_another_version(site, tmp_path):
    other = write_site(tmp_path / "other", b"another model", CARD)
    assert (other / "sw.js").read_text() != (site / "sw.js").read_text()


def test_the_policy_forbids_every_foreign_address(site):
    page = (site / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == rules["style-src"] == rules["worker-src"] == "'self'"
    assert not re.search(r"https?:|\*|unsafe-(inline|eval)(?<!wasm-unsafe-eval)", policy)
    assert page.index("Content-Security-Policy") < page.index("<script")


def test_the_licences_of_what_is_inside_stand_beside_it(site):
    text = (site / "licences.txt").read_text()
    for name in ("Apache License", "@litertjs/core", "dicom-parser", "XNNPACK", "Protocol Buffers", "Emscripten"):
        assert name in text


def test_an_installation_without_the_built_copy_says_so(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(tablet_site.resources, "files", lambda _: tmp_path / "package")
    with pytest.raises(ExportError, match="install it again"):
        write_site(tmp_path / "site", b"model", CARD)


def test_the_built_copy_travels_in_the_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"]["busmt.deployment.tablet"].split()
    for path in (TABLET / "app").rglob("*"):
        name = path.relative_to(TABLET).as_posix()
        assert path.is_dir() or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def test_the_built_copy_is_that_of_the_source(tmp_path):
    if shutil.which("node") is None or not (TABLET / "node_modules" / "esbuild").is_dir():
        pytest.skip(f"needs Node and esbuild: npm ci --prefix {TABLET.relative_to(ROOT)}")
    subprocess.run(["node", "build.mjs", tmp_path / "app"], cwd=TABLET, check=True, timeout=120)
    assert _contents(tmp_path / "app") == _contents(TABLET / "app")


def _contents(folder: Path) -> dict[str, bytes]:
    """Bytes by name; packed files unpacked, for not every zlib packs alike."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items()}
