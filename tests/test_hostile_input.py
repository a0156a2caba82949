"""Broken and hostile input at every door: read as documented in docs/robustness.md, or refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busmt.cli.common import one_line
from busmt.cli.predict import collect_inputs, outside_links, refuse_overwriting
from busmt.config import MAX_CONFIG_BYTES, Config, read_yaml
from busmt.data import images, tables
from busmt.data.cohorts import read_busi, read_cohort, read_csv
from busmt.data.folds import read_folds
from busmt.errors import BusmtError, ConfigError, DataError

ROOT = Path(__file__).resolve().parent.parent


def picture(height=40, width=60, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def bomb(width=20_000, height=20_000) -> bytes:
    """A PNG of a few hundred bytes whose header promises very many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        images._PNG_SIGNATURE
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


class TestImages:
    @pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (9_000, 9_000), (2**31 - 1, 2**31 - 1), (0, 5)])
    def test_a_header_that_promises_too_many_pixels_is_refused_undecoded(self, tmp_path, width, height):
        (tmp_path / "bomb.png").write_bytes(bomb(width, height))
        for reader in (images.read_encoded, images.read_grey, lambda path: images.read_mask([path])):
            with pytest.raises(DataError, match=r"bomb\.png: (.*million|not a PNG)"):
                reader(tmp_path / "bomb.png")

    def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(self, tmp_path):
        from PIL import PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "x" * 30_000_000, zip=True)
        picture().save(tmp_path / "text.png", pnginfo=info)
        assert (tmp_path / "text.png").stat().st_size < 100_000
        with pytest.raises(DataError, match=r"text\.png: "):
            images.read_encoded(tmp_path / "text.png")

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path, monkeypatch):
        with open(tmp_path / "large.png", "wb") as file:
            file.truncate(images.MAX_FILE_BYTES + 1)  # takes no room
        with pytest.raises(DataError, match=r"large\.png: 256 MiB; at most 256 MiB"):
            images.read_encoded(tmp_path / "large.png")
        with pytest.raises(DataError, match="at most"):
            images.image_size(tmp_path / "large.png")

    @pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
    def test_pipes_and_devices_that_never_end_are_refused(self, tmp_path, place):
        path = Path(place) if place.startswith("/") else tmp_path / place
        if not place.startswith("/"):
            os.mkfifo(path)
        for reader in (images.read_encoded, images.image_size, tables.read_table):
            with pytest.raises(DataError, match="not a regular file"):
                reader(path)
        with pytest.raises(ConfigError, match="not a configuration file"):
            read_yaml(path)

    @pytest.mark.parametrize("name", ["a\0.png", "a\udcff.png", "x" * 5000 + ".png"])
    def test_names_that_no_file_can_have_are_refused(self, tmp_path, name):
        with pytest.raises(DataError, match="cannot be read|no such file"):
            images.read_encoded(str(tmp_path / name))

    @pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_an_exif_orientation_is_applied_everywhere(self, tmp_path, kind, orientation):
        """As every viewer shows it: pixels of picture, mask and network input alike."""
        square = np.zeros((40, 60), np.uint8)
        square[:20, :30] = 255
        stored = Image.fromarray(square)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"turned.{kind}"
        stored.save(path, exif=exif, **({"quality": 100} if kind == "jpg" else {}))
        upright = np.asarray(
            {
                1: stored,
                2: stored.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
                3: stored.rotate(180),
                4: stored.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
                5: stored.transpose(Image.Transpose.TRANSPOSE),
                6: stored.rotate(-90, expand=True),
                7: stored.transpose(Image.Transpose.TRANSVERSE),
                8: stored.rotate(90, expand=True),
            }[orientation]
        )
        assert images.image_size(path) == upright.shape
        assert np.abs(images.read_grey(path).astype(int) - upright).max() < 10
        np.testing.assert_array_equal(images.read_mask([path]), upright > 127)
        import tensorflow as tf

        decoded = images.decode_tensor(tf.constant(images.read_encoded(path))).numpy()[..., 0]
        assert np.abs(decoded * 255 - upright).max() < 10

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_damaged_exif_data_turn_nothing(self, tmp_path):
        picture().save(tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
        assert images.read_grey(tmp_path / "exif.jpg").shape == images.image_size(tmp_path / "exif.jpg") == (40, 60)


class TestWriting:
    def test_a_link_is_replaced_and_its_target_stays(self, tmp_path):
        (tmp_path / "original").write_text("precious")
        (tmp_path / "result").symlink_to(tmp_path / "original")
        images.write_atomically(tmp_path / "result", b"new")
        assert (tmp_path / "original").read_text() == "precious"
        assert (tmp_path / "result").read_bytes() == b"new"
        assert not (tmp_path / "result").is_symlink()

    def test_a_link_laid_at_the_temporary_name_is_not_followed(self, tmp_path):
        (tmp_path / "original").write_text("precious")
        (tmp_path / f".result.{os.getpid()}.tmp").symlink_to(tmp_path / "original")
        images.write_atomically(tmp_path / "result", b"new")
        assert (tmp_path / "original").read_text() == "precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "result"]

    def test_results_are_not_written_among_the_images(self, tmp_path):
        """Where `predict` would write over the true masks of a cohort."""
        (tmp_path / "scans" / "inner").mkdir(parents=True)
        picture().save(tmp_path / "scans" / "inner" / "a.png")
        for given, out in [("scans", "scans"), ("scans/inner", "scans/inner"), ("scans/inner/a.png", "scans/inner")]:
            items = collect_inputs((str(tmp_path / given),))
            with pytest.raises(DataError, match="holds the images themselves"):
                refuse_overwriting(tmp_path / out, items)
        refuse_overwriting(tmp_path / "results", collect_inputs((str(tmp_path / "scans"),)))


class TestTables:
    @pytest.mark.parametrize(
        "text", ["=1+1", "+a", "-x", "@SUM(A1)", "\tx", "\rx", "a\rb", "'=x", "''=x", "-1+cmd|'/c calc'!A0"]
    )
    def test_no_cell_that_busmt_writes_is_a_formula_and_every_text_comes_back(self, tmp_path, text):
        table = pd.DataFrame({"a": [text, "plain", "-1.5"], "b": [-1.5, 2.0, np.nan], text: [1, 2, 3]})
        tables.write_table(tmp_path / "t.csv", table)
        cells = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
        texts = [*cells.columns, *cells["a"]]
        assert all(cell[0] not in "=+-@\t\r" or cell == "-1.5" for cell in texts), texts
        assert cells["b"].tolist() == ["-1.5", "2.0", ""]
        pd.testing.assert_frame_equal(tables.read_table(tmp_path / "t.csv"), table)

    def test_a_formula_as_a_file_name_goes_through_catalog_and_back(self, tmp_path):
        names = ["=HYPERLINK(1).png", "@a b.png", "-ü\n.png"]
        for number, name in enumerate(names):
            picture(seed=number).save(tmp_path / name)
        catalog = read_csv(self.catalog(tmp_path, names))
        catalog.to_csv(tmp_path / "again.csv")
        cells = pd.read_csv(tmp_path / "again.csv", dtype=str)
        assert not cells["image"].str.match(r"[=+\-@\t\r]").any()
        assert read_csv(tmp_path / "again.csv").ids == catalog.ids
        assert list(read_csv(tmp_path / "again.csv").table["image"]) == [str(tmp_path / name) for name in names]

    def catalog(self, folder, names) -> Path:
        pd.DataFrame({"image": names, "label": "normal"}).to_csv(folder / "c.csv", index=False)
        return folder / "c.csv"

    @pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "/dev/zero", "a\tb.png", ".", "x|y.png"])
    def test_what_a_catalog_names_is_only_ever_read_as_an_image(self, tmp_path, name):
        with pytest.raises(DataError) as caught:
            read_csv(self.catalog(tmp_path, [name]))
        assert "root:" not in str(caught.value)

    def test_a_table_that_is_too_large_or_of_zero_bytes_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "t.csv").write_bytes(b"image,label\na\0b.png,normal\n")
        with pytest.raises(DataError, match="zero bytes"):
            read_csv(tmp_path / "t.csv")
        monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10)
        with pytest.raises(DataError, match=r"t\.csv: 0 MiB; at most 0 MiB"):
            read_csv(tmp_path / "t.csv")

    def test_a_table_is_neither_unpacked_nor_fetched(self, tmp_path):
        import gzip

        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"image,label\na.png,normal\n"))
        with pytest.raises(DataError, match=r"t\.csv\.gz: not a readable CSV"):
            read_csv(tmp_path / "t.csv.gz")
        with pytest.raises(DataError, match="no such file"):
            read_folds("http://127.0.0.1:9/folds.csv")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: &a [1, 1]\nb: &b [*a, *a]\n", "not valid YAML at line 2"),
            ("a: &a {x: 1}\nb: {<<: *a}\n", "not valid YAML at line 2"),
            ("network: !!python/object/apply:os.system [id]\n", "not valid YAML at line 1"),
            ("[" * 10_000, "not valid YAML"),
            ("training: {epochs: 0x" + "f" * 9000 + "}", r"training\.epochs must be between"),
            ("training: {learning_rate: 1" + "0" * 400 + "}", r"training\.learning_rate must be between"),
            ("training: {epochs: [" + "1," * 4000 + "]}", r"training\.epochs must be int, got \[1, 1"),
            (f"{'k' * 900}: 1", "unknown key 'kkk"),
            ("? [a]\n: 1", "not valid YAML"),
            ("training: {epochs: .nan}", r"training\.epochs must be int"),
            ("training: {learning_rate: .inf}", r"training\.learning_rate must be between"),
            ("x: 1\n" * (MAX_CONFIG_BYTES // 4), "too large for a configuration file"),
        ],
        ids=range(12),
    )
    def test_hostile_yaml_is_refused_in_a_short_line(self, tmp_path, text, message):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            Config.from_yaml(tmp_path / "c.yaml")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600 + len(str(tmp_path))


class TestFolders:
    def busi(self, folder) -> Path:
        for label in ("normal", "benign"):
            (folder / label).mkdir(parents=True)
            picture(seed=len(label)).save(folder / label / "a b (1).png")
            Image.new("L", (60, 40), 255).save(folder / label / "a b (1)_mask.png")
        return folder

    def test_links_in_a_circle_are_refused(self, tmp_path):
        folder = self.busi(tmp_path / "busi")
        (folder / "normal" / "loop.png").symlink_to(folder / "normal" / "loop.png")
        with pytest.raises(DataError, match=r"loop\.png: cannot be read"):
            read_busi(folder)

    def test_a_cohort_may_be_made_of_links(self, tmp_path):
        folder = self.busi(tmp_path / "busi")
        os.rename(folder / "normal" / "a b (1).png", tmp_path / "kept elsewhere.png")
        (folder / "normal" / "a b (1).png").symlink_to(tmp_path / "kept elsewhere.png")
        assert str(tmp_path / "kept elsewhere.png") in read_busi(folder).table["image"].tolist()

    def test_a_name_that_is_no_text_is_refused(self, tmp_path):
        folder = self.busi(tmp_path / "busi")
        picture().save(os.fsencode(folder / "normal") + b"/\xff.png", format="PNG")
        with pytest.raises(DataError, match="not valid UTF-8") as caught:
            read_cohort(folder)
        assert one_line(str(caught.value)).isprintable()

    def test_predict_leaves_links_out_of_its_folder_alone(self, tmp_path):
        picture().save(tmp_path / "private.png")
        (tmp_path / "scans").mkdir()
        picture().save(tmp_path / "scans" / "a.png")
        (tmp_path / "scans" / "b.png").symlink_to(tmp_path / "private.png")
        (tmp_path / "scans" / "c.png").symlink_to("a.png")
        assert [path.name for path, _ in collect_inputs((str(tmp_path / "scans"),))] == ["a.png", "c.png"]
        assert [path.name for path in outside_links((str(tmp_path / "scans"),))] == ["b.png"]


def test_text_from_outside_is_one_visible_line():
    assert one_line("a\nb\r\x1b[2J\u202egnp.\udcff ü") == "a b \\x1b[2J\\u202egnp.\\udcff ü"


def test_predict_answers_a_hostile_folder_file_by_file_and_changes_nothing(tiny_run_folder, tmp_path):
    """One process over everything at once: the good ones are done, the bad ones named, originals untouched."""
    folder = tmp_path / "scans"
    folder.mkdir()
    good = ["plain.png", "two words.png", "ünïcödé 乳.png", "line\nend.png", "=cmd.png", "esc\x1b[31m.png", "-o.png"]
    for number, name in enumerate(good):
        picture(64, 80, number).save(folder / name)
    picture(64, 80).save(os.fsencode(folder) + b"/\xff\xfe.png", format="PNG")
    bad = {
        "bomb.png": bomb(), "dot.png": None, "empty.png": b"", "text.png": b"hello", "half.png": None, "deep.png": None,
        "film.png": None, "out.png": None,
    }  # fmt: skip
    for name, content in bad.items():
        if content is not None:
            (folder / name).write_bytes(content)
    Image.new("L", (1, 1)).save(folder / "dot.png")
    whole = (folder / "plain.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(folder / "deep.png")
    picture().save(folder / "film.png", save_all=True, append_images=[picture(seed=1)])
    picture().save(tmp_path / "private.png")
    (folder / "out.png").symlink_to(tmp_path / "private.png")
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    answer = subprocess.run(
        [sys.executable, "-m", "busmt", "predict", folder, "--model", tiny_run_folder, "--out", "r", "--json"],
        cwd=tmp_path, capture_output=True, check=False, timeout=540, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    errors = answer.stderr.decode()
    assert answer.returncode == 1, errors
    assert "Traceback" not in errors
    assert "\x1b[31m" not in errors
    rows = json.loads(answer.stdout)["predictions"]
    failed = {Path(row["image"]).name for row in rows if "error" in row}
    assert failed == set(bad)
    assert len(rows) == len(good) + 1 + len(bad)
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "r", "private.png"}
    cells = pd.read_csv(tmp_path / "r" / "predictions.csv", dtype=str, keep_default_na=False)
    assert len(cells) == len(rows)
    assert not cells.map(lambda cell: cell[:1] in "=@\t\r" and cell != "").any().any()


@pytest.mark.parametrize("door", ["predict", "train", "curate", "evaluate", "export", "report", "explain", "info"])
def test_every_door_refuses_what_is_not_there_in_one_line(door, tmp_path, monkeypatch, capsys):
    from busmt.cli import main as entry

    monkeypatch.chdir(tmp_path)
    wrong = "no\nsuch\x1b[2J"
    arguments = {
        "predict": [wrong, "--model", wrong],
        "train": ["--data", wrong],
        "curate": ["--data", wrong, "--out", "c"],
        "explain": [wrong, "--model", wrong],
        "export": [wrong, "--to", "e"],
    }.get(door, [wrong])
    monkeypatch.setattr(sys, "argv", ["busmt", door, *arguments])
    with pytest.raises(SystemExit) as stopped:
        entry.main()
    errors = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code in (1, 2)
    assert len([line for line in errors if "error" in line]) == 1, errors
    assert not any("\x1b" in line for line in errors)
    assert not (tmp_path / "e").exists()


def test_the_fuzzer_finds_nothing(tmp_path):
    """A small part of what benchmarks/fuzz_inputs.py does."""
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz_inputs.py"), "--count", "270", "--seed", "7"]
    answer = subprocess.run(
        [*command, "--out", str(tmp_path / "r.json")],
        capture_output=True, text=True, check=False, timeout=540, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-2000:]
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["faults"] == []
    assert all(kind["refused"] > 0 for kind in result["answers"].values())
    assert sum(sum(kind.values()) for kind in result["answers"].values()) == 270


def test_errors_of_busmt_are_of_one_family():
    assert issubclass(DataError, BusmtError)
    assert issubclass(ConfigError, BusmtError)
