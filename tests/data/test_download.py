"""Downloading over a real HTTP server on 127.0.0.1 that misbehaves in every way that is asked of it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from busmt.data import download as room
from busmt.data.cohorts import read_cohort
from busmt.data.download import SOURCES, download
from busmt.data.fetch import FetchPolicy, fetch
from busmt.data.unpack import unpack
from busmt.errors import DataError

PATIENCE = FetchPolicy(timeout=0.5, attempts=3, pause=0.01)
COUNTS = {"normal": 12, "benign": 16, "malignant": 12}


class Server:
    """Serves `body`; `behave` may be set to a function that answers a request in its own way."""

    def __init__(self, body: bytes):
        self.body, self.tag, self.ranges = body, '"one"', True
        self.behave: Callable[[BaseHTTPRequestHandler, int], bool] = lambda handler, number: False
        self.asked: list[str | None] = []
        self.release = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/Dataset_BUSI.zip"

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.headers.get("Range"))
                if not server.behave(self, len(server.asked)):
                    server.answer(self)

            def log_message(self, *arguments: object) -> None:
                return

        return Handler

    def answer(
        self,
        handler: BaseHTTPRequestHandler,
        cut: int | None = None,
        length: int | None = None,
        claim: int | None = None,
    ) -> None:
        """Answer properly, but send only `cut` bytes, or name another length of answer or of the file."""
        start = 0
        wanted = handler.headers.get("Range")
        if wanted and self.ranges and handler.headers.get("If-Range") in (None, self.tag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        rest = self.body[start:]
        if start:
            handler.send_response(206)
            total = claim or len(self.body)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{total}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(rest) if length is None else length))
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.end_headers()
        handler.wfile.write(rest[:cut])
        handler.close_connection = True


@pytest.fixture(scope="module")
def archive(phantom_folder) -> bytes:
    """A BUSI-like archive of phantoms."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted(phantom_folder.rglob("*.png")):
            packed.write(path, f"Dataset_BUSI_with_GT/{path.relative_to(phantom_folder)}")
        packed.writestr("__MACOSX/Dataset_BUSI_with_GT/benign/._benign (1).png", b"resource fork")
    return buffer.getvalue()


@pytest.fixture
def server(archive, monkeypatch) -> Iterator[Server]:
    """A server of that archive, which busmt takes for the official BUSI."""
    small = dataclasses.replace(
        SOURCES["busi"], sha256=hashlib.sha256(archive).hexdigest(), counts=COUNTS, masks=sum(COUNTS.values())
    )
    monkeypatch.setitem(room.SOURCES, "busi", small)
    server = Server(archive)
    yield server
    server.close()


def get(server: Server, to: Path, **options) -> room.Downloaded:
    return download("busi", to, url=server.url, policy=options.pop("policy", PATIENCE), **options)


def leftovers(to: Path) -> set[str]:
    return {path.name for path in to.iterdir()} if to.exists() else set()


def test_a_sound_archive_becomes_a_cohort_that_training_reads(server, tmp_path):
    seen = []

    class Bar:
        def __init__(self, title, unit):
            self.unit = unit

        def __enter__(self):
            return lambda done, total: seen.append((self.unit, done, total))

        def __exit__(self, *error):
            return None

    result = get(server, tmp_path, stage=Bar)
    assert result.folder == tmp_path / "busi"
    assert read_cohort(result.folder).counts() == COUNTS == result.counts
    assert result.checksum_known
    assert leftovers(tmp_path) == {"busi"}
    assert ("bytes", len(server.body), len(server.body)) in seen
    assert seen[-1] == ("files", 80, 80)
    notice = (result.folder / "SOURCE.txt").read_text(encoding="utf-8")
    assert "Al-Dhabyani" in notice
    assert result.sha256 in notice
    assert not (result.folder / "__MACOSX").exists()


def test_what_is_there_already_is_checked_and_not_downloaded_again(server, tmp_path):
    get(server, tmp_path)
    again = get(server, tmp_path)
    assert again.url is None
    assert len(server.asked) == 1
    (tmp_path / "busi" / "Dataset_BUSI_with_GT" / "normal" / "normal (3).png").unlink()
    (tmp_path / "busi" / "Dataset_BUSI_with_GT" / "normal" / "normal (3)_mask.png").unlink()
    with pytest.raises(DataError, match="11 normal.*12 normal.*move it away"):
        get(server, tmp_path)


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    def behave(handler, number):
        if number <= 4:
            server.answer(handler, cut=len(server.body) // 5)
        return number <= 4

    server.behave = behave
    assert get(server, tmp_path).checksum_known
    starts = [int(asked[6:-1]) for asked in server.asked[1:]]
    assert starts == [number * (len(server.body) // 5) for number in (1, 2, 3, 4)]


def test_a_later_call_goes_on_with_what_the_first_left(server, tmp_path):
    half = len(server.body) // 2
    server.behave = lambda handler, number: (
        server.answer(handler, cut=half) is None if number == 1 else cut_off(handler)
    )

    def cut_off(handler):
        handler.close_connection = True
        return True

    with pytest.raises(DataError, match=f"{half} bytes.*Run it again"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == {".busi.zip.part", ".busi.zip.part.json"}
    server.behave = lambda handler, number: False
    assert get(server, tmp_path).checksum_known
    assert server.asked[-1] == f"bytes={half}-"


@pytest.mark.parametrize("change", ["another version", "no ranges", "no tag"])
def test_a_rest_that_does_not_belong_to_the_beginning_is_never_joined_to_it(server, tmp_path, change):
    def behave(handler, number):
        if number > 1:
            return False
        server.body, sound = bytes(len(server.body)), server.body
        server.tag = '"zero"' if change == "another version" else server.tag
        server.answer(handler, cut=1000)
        server.body = sound
        return True

    if change == "no tag":
        server.tag = None
    server.behave = behave
    if change == "another version":
        server.behave = lambda handler, number: behave(handler, number) and setattr(server, "tag", '"one"') is None
    server.ranges = change != "no ranges"
    assert get(server, tmp_path).checksum_known


def test_a_server_that_stalls_is_given_up_and_resumed(server, tmp_path):
    def behave(handler, number):
        if number == 1:
            server.answer(handler, cut=2000)
            handler.wfile.flush()
            server.release.wait(20)
        return number == 1

    server.behave = behave
    assert get(server, tmp_path).checksum_known
    assert server.asked == [None, "bytes=2000-"]


def test_a_server_that_stalls_for_ever_is_reported(server, tmp_path):
    server.behave = lambda handler, number: server.release.wait(20)
    with pytest.raises(DataError, match=r"timed out.*tried 3 times"):
        get(server, tmp_path)
    assert "busi" not in leftovers(tmp_path)


@pytest.mark.parametrize("lie", ["longer", "shorter"])
def test_a_wrong_content_length_is_never_believed(server, tmp_path, lie):
    size = len(server.body)

    def behave(handler, number):
        if lie == "longer" and handler.headers.get("Range"):
            handler.send_error(416)
        else:
            server.answer(handler, length=size + 500 if lie == "longer" else size - 500)
        return True

    server.behave = behave
    with pytest.raises(DataError, match="refuses to continue|ended after" if lie == "longer" else "sha256 is"):
        get(server, tmp_path)
    assert "busi" not in leftovers(tmp_path)


def test_a_length_beyond_the_limit_is_refused_before_a_byte_is_kept(server, tmp_path):
    server.behave = lambda handler, number: server.answer(handler, length=10**13) is None
    with pytest.raises(DataError, match="more than the 2147483648 that are allowed"):
        get(server, tmp_path)


def test_a_body_beyond_the_limit_is_cut_off(server, tmp_path):
    def endless(handler, number):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(bytes(200_000))
        handler.close_connection = True
        return True

    server.behave = endless
    with pytest.raises(DataError, match="sends more than the 50000 bytes"):
        get(server, tmp_path, policy=dataclasses.replace(PATIENCE, limit=50_000))
    assert (tmp_path / ".busi.zip.part").stat().st_size <= 50_000


def test_another_file_is_refused_and_not_kept(server, tmp_path):
    server.body = server.body[:-1] + b"x"
    with pytest.raises(DataError, match=r"sha256 is \w{64}, expected \w{64}.*--sha256 none"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == set()
    server.body = b"  <!DOCTYPE html><title>Please sign in</title>"
    with pytest.raises(DataError, match="web page instead of the archive"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == set()


def test_without_a_checksum_the_content_decides(server, tmp_path, archive):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    server.body = buffer.getvalue()
    result = get(server, tmp_path / "packed anew", sha256="none")
    assert not result.checksum_known
    assert result.sha256 == hashlib.sha256(server.body).hexdigest()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer := io.BytesIO(), "w") as new:
        for entry in old.infolist():
            if "malignant (2)" not in entry.filename:
                new.writestr(entry.filename, old.read(entry))
    server.body = buffer.getvalue()
    with pytest.raises(DataError, match="11 malignant.*12 malignant"):
        get(server, tmp_path / "one short", sha256="none")
    assert leftovers(tmp_path / "one short") == set()
    with pytest.raises(DataError, match="certificate must be verified"):
        get(server, tmp_path / "c", sha256="none", policy=FetchPolicy(verify_tls=False))


@pytest.mark.parametrize("status", [404, 403, 503])
def test_refusals_of_the_server_are_told(server, tmp_path, status):
    def refuse(handler, number):
        handler.send_error(status)
        return True

    server.behave = refuse
    with pytest.raises(DataError, match=f"answers {status}"):
        get(server, tmp_path)
    assert len(server.asked) == (3 if status == 503 else 1)


def test_only_http_is_spoken_also_after_a_redirect(server, tmp_path):
    secret = tmp_path / "secret.zip"
    secret.write_bytes(b"secret")
    with pytest.raises(DataError, match="not an http"):
        fetch(secret.as_uri(), tmp_path / "out.zip")

    def redirect(handler, number):
        handler.send_response(302)
        handler.send_header("Location", secret.as_uri())
        handler.end_headers()
        return True

    server.behave = redirect
    with pytest.raises(DataError, match="redirects to|302"):
        fetch(server.url, tmp_path / "out.zip", PATIENCE)
    assert not (tmp_path / "out.zip").exists()


def test_unknown_names_and_checksums_are_refused(tmp_path):
    with pytest.raises(DataError, match="unknown cohort 'uclm'; choose one of busi, bus-bra"):
        download("uclm", tmp_path)
    with pytest.raises(DataError, match="is not a sha256"):
        download("busi", tmp_path, sha256="abc")


def _packed(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("fine.txt", b"fine")
        for name, data in entries:
            packed.writestr(name, data)
    return path


def _link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:out.txt", "..\\out.txt", "a\\..\\..\\out.txt"]
)
def test_no_entry_leaves_the_folder(tmp_path, name):
    archive = _packed(tmp_path / "a.zip", (name, b"escaped"))
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "deep")
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip"}


def test_a_name_of_no_letters_and_an_offset_before_the_beginning_are_damage(tmp_path):
    archive = _packed(tmp_path / "a.zip", ("x", b"x"))
    content = archive.read_bytes()
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    nameless = content[: directory + 28] + b"\0\0" + content[directory + 30 : directory + 46]
    nameless += content[directory + 46 + len("fine.txt") : end + 12]
    nameless += (end - directory - len("fine.txt")).to_bytes(4, "little") + content[end + 16 :]
    before = content[: end + 12] + b"\xff\xff\0\0" + content[end + 16 :]
    for damaged, message in ((nameless, "entry '' leads out"), (before, "not a sound zip archive")):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_doubles_bombs_and_damage_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not a regular file"):
        unpack(_packed(tmp_path / "link.zip", (_link("link"), b"/etc/passwd")), tmp_path / "a")
    with pytest.raises(DataError, match="occurs twice"):
        unpack(_packed(tmp_path / "twice.zip", ("FINE.txt", b"x")), tmp_path / "b")
    for number, name in enumerate(["./fine.txt", "fine.txt/inner.txt"]):
        with pytest.raises(DataError, match="occurs twice"):
            unpack(_packed(tmp_path / f"{number}.zip", (name, b"x")), tmp_path / "b")
    with pytest.raises(DataError, match="decompression bomb"):
        unpack(_packed(tmp_path / "bomb.zip", ("zeros", bytes(30_000_000))), tmp_path / "c")
    sound = _packed(tmp_path / "damaged.zip", ("data.bin", bytes(range(256)) * 40))
    data = bytearray(sound.read_bytes())
    data[data.index(b"data.bin") + 12] ^= 0xFF
    sound.write_bytes(data)
    with pytest.raises(DataError, match="not a sound zip archive"):
        unpack(sound, tmp_path / "d")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "other.zip", "w", method) as packed:
            packed.writestr("a", b"x")
        with pytest.raises(DataError, match="another method than deflate; nothing was unpacked"):
            unpack(tmp_path / "other.zip", tmp_path / "f")
    (tmp_path / "text.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a sound zip archive"):
        unpack(tmp_path / "text.zip", tmp_path / "e")


def test_command_tells_terms_and_citation_and_fails_in_one_line(server, tmp_path):
    server.body = b"something else"
    command = [sys.executable, "-m", "busmt", "data", "download", "busi", "--to", tmp_path, "--url", server.url]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "terms: " in answer.stderr
    assert "cite: Al-Dhabyani" in answer.stderr
    assert answer.stderr.strip().splitlines()[-1].startswith(f"busmt: error: {server.url}: sha256 is")
    assert "Traceback" not in answer.stderr


def test_json_of_the_command(server, tmp_path, capsys):
    from busmt.cli.data import data

    data(["download", "busi", "--to", str(tmp_path), "--url", server.url, "--json"], standalone_mode=False)
    value = json.loads(capsys.readouterr().out)
    assert value["counts"] == COUNTS
    assert value["checksum_known"] is True
    assert "10.1016/j.dib.2019.104863" in value["citation"]


def test_official_addresses_are_https_and_checksums_are_whole():
    for source in SOURCES.values():
        assert source.url.startswith("https://")
        assert len(bytes.fromhex(source.sha256)) == 32


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["busi", "bus-bra"])
def test_the_published_content_is_recognised(name, busi_dir, bus_bra_dir, tmp_path):
    """The counts that are expected are those of the real cohorts."""
    folder = {"busi": busi_dir, "bus-bra": bus_bra_dir}[name]
    with zipfile.ZipFile(tmp_path / "real.zip", "w") as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, f"{SOURCES[name].inside}/{path.relative_to(folder)}")
    server = Server((tmp_path / "real.zip").read_bytes())
    try:
        result = download(name, tmp_path / "data", url=server.url, sha256="none")
        assert result.counts == SOURCES[name].counts
        assert read_cohort(result.folder).counts() == SOURCES[name].counts
    finally:
        server.close()
