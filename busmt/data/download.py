"""Public cohorts by name: fetched from their official address, checked, unpacked, ready for training.

>>> SOURCES["bus-bra"].counts
{'normal': 0, 'benign': 1268, 'malignant': 607}
"""

from __future__ import annotations

import os
import shutil
import string
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from busmt.data.cohorts import read_cohort
from busmt.data.fetch import FetchPolicy, fetch
from busmt.data.images import file_hash, write_atomically
from busmt.data.unpack import unpack
from busmt.errors import DataError

NOTICE = "SOURCE.txt"
"""File beside the images: where they came from, terms and citation."""
NO_CHECKSUM = "none"

Stage = Callable[[str, str], AbstractContextManager[Callable[[int, int | None], None]]]
"""Opens a progress display by its title and its unit, "bytes" or "files"."""


@dataclass(frozen=True)
class Source:
    """A public cohort.

    Attributes:
        name: what it is called on the command line; also the kind of cohort for `read_cohort`.
        title: in full.
        page: where its authors describe it.
        url: official address of the archive.
        sha256: of the archive, hexadecimal, lower case.
        checksum_origin: who published the checksum.
        folder: name of the folder that is made.
        inside: folder in the archive that holds the cohort; kept or stripped as `keep_inside` says.
        keep_inside: keep that folder's name below `folder`.
        counts: images per class.
        masks: mask files.
        terms: what the source says on use.
        citation: to be cited.
    """

    name: str
    title: str
    page: str
    url: str
    sha256: str
    checksum_origin: str
    folder: str
    inside: str
    keep_inside: bool
    counts: dict[str, int]
    masks: int
    terms: str
    citation: str


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="busi",
            title="BUSI, Breast Ultrasound Images Dataset",
            page="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
            url="https://scholar.cu.edu.eg/Dataset_BUSI.zip",
            sha256="b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7",
            checksum_origin="recorded by torch-em (github.com/constantinpape/torch-em); the authors publish none",
            folder="busi",
            inside="Dataset_BUSI_with_GT",
            keep_inside=True,
            counts={"normal": 133, "benign": 437, "malignant": 210},
            masks=798,
            terms=(
                "The authors ask that their article is cited. The archive carries no licence that busmt knows of, and "
                "catalogues disagree on it; read the dataset's page before you pass images on."
            ),
            citation=(
                "Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. "
                "Data in Brief 28 (2020) 104863. doi:10.1016/j.dib.2019.104863"
            ),
        ),
        Source(
            name="bus-bra",
            title="BUS-BRA, A Breast Ultrasound Dataset for Assessing Computer-aided Diagnosis Systems",
            page="https://zenodo.org/records/8231412",
            url="https://zenodo.org/records/8231412/files/BUSBRA.zip?download=1",
            sha256="ba3e6ed19cc37c682d8d39e25435bbf8a555a12cb7e641b5f2117685c95580ff",
            checksum_origin="recorded by torch-em (github.com/constantinpape/torch-em); Zenodo publishes only an MD5",
            folder="bus_bra",
            inside="BUSBRA",
            keep_inside=False,
            counts={"normal": 0, "benign": 1268, "malignant": 607},
            masks=1875,
            terms=(
                "CC BY 4.0 by its Zenodo record; the LICENSE.txt in the archive allows use, change and distribution if "
                "the article is cited."
            ),
            citation=(
                "Gómez-Flores W, Gregorio-Calas MJ, Coelho de Albuquerque Pereira W. BUS-BRA: A breast ultrasound "
                "dataset for assessing computer-aided diagnosis systems. Medical Physics 51 (2024) 3110-3123. "
                "doi:10.1002/mp.16812"
            ),
        ),
    )
}


@dataclass(frozen=True)
class Downloaded:
    """A cohort on disk.

    Attributes:
        source: which.
        folder: what `read_cohort` and `busmt train --data` take.
        counts: images per class.
        url: where it came from; None where it was there already.
        sha256: of the archive; None where it was there already.
        checksum_known: whether the sha256 was compared with a known one.
    """

    source: Source
    folder: Path
    counts: dict[str, int]
    url: str | None = None
    sha256: str | None = None
    checksum_known: bool = False


def download(
    name: str,
    to: str | os.PathLike[str] = "data",
    *,
    url: str | None = None,
    sha256: str | None = None,
    keep_archive: bool = False,
    policy: FetchPolicy | None = None,
    stage: Stage | None = None,
) -> Downloaded:
    """Download a public cohort into `TO/busi` or `TO/bus_bra`; the folder appears only when all of it is sound.

    An archive that was fetched in part is continued. The archive's sha256 is compared with the known one, then
    the number of images and masks of each class with the published ones. A cohort that is there already is
    checked and left alone.

    Args:
        name: of `SOURCES`.
        to: folder for cohorts; made where it does not exist.
        url: another address of the same archive.
        sha256: expected instead of the known one; "none": tell it and rely on the content.
        keep_archive: leave the zip file beside the folder.
        policy: timeouts and limits of the transfer.
        stage: see `Stage`.

    Raises:
        DataError: unknown cohort, no connection, a checksum or content that differs, an archive that is not
            safe, or a folder that holds something else.
    """
    if name not in SOURCES:
        raise DataError(f"unknown cohort {name!r}; choose one of {', '.join(SOURCES)}")
    source, to = SOURCES[name], Path(to)
    stage = stage or (lambda title, unit: nullcontext(lambda done, total: None))
    folder = to / source.folder
    if folder.exists():
        return Downloaded(source, folder, _check_content(source, folder, "move it away to download anew"))
    expected = _expected_checksum(source, sha256)
    if expected is None and policy and not policy.verify_tls:
        raise DataError(
            "without a checksum the server's certificate must be verified; leave out --insecure or give one"
        )
    url, archive = url or source.url, to / f".{source.folder}.zip"
    try:
        to.mkdir(parents=True, exist_ok=True)
        with stage(f"Fetching {source.name}", "bytes") as progress:
            fetch(url, archive, policy, progress)
        found = file_hash(archive)
        if expected is not None and found != expected:
            raise DataError(_mismatch(url, archive, found, expected))
        with stage(f"Unpacking {source.name}", "files") as progress:
            counts = _install(source, archive, folder, _notice(source, url, found), progress)
        if keep_archive:
            archive.replace(to / f"{source.folder}.zip")
    except OSError as error:
        raise DataError(f"{to}: cannot be written ({error.strerror or error})") from error
    finally:
        archive.unlink(missing_ok=True)
    return Downloaded(source, folder, counts, url, found, expected is not None)


def _expected_checksum(source: Source, given: str | None) -> str | None:
    if given is None:
        return source.sha256
    given = given.strip().lower()
    if given == NO_CHECKSUM:
        return None
    if len(given) != 64 or set(given) - set(string.hexdigits):
        raise DataError(f"{given!r} is not a sha256 (64 hexadecimal digits) or {NO_CHECKSUM!r}")
    return given


def _mismatch(url: str, archive: Path, found: str, expected: str) -> str:
    with open(archive, "rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{url}: sends a web page instead of the archive; open it in a browser to see what it says"
    return (
        f"{url}: sha256 is {found}, expected {expected}: another file, or damaged on the way. If the authors have "
        f"published a new one, --sha256 {NO_CHECKSUM} relies on the content alone"
    )


def _install(
    source: Source, archive: Path, folder: Path, notice: bytes, progress: Callable[[int, int], None]
) -> dict[str, int]:
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    try:
        unpack(archive, draft / "all", progress)
        inner = draft / "all" / source.inside
        if not inner.is_dir():
            raise DataError(f"the archive holds no folder {source.inside}: it is not {source.title}")
        content = draft / "all" if source.keep_inside else inner
        write_atomically(content / NOTICE, notice)
        counts = _check_content(source, content, "the archive is not the published one")
        os.replace(content, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return counts


def _check_content(source: Source, folder: Path, advice: str) -> dict[str, int]:
    """Images per class. Raises DataError where these or the masks are not those that were published."""
    catalog = read_cohort(folder, source.name)
    counts, masks = catalog.counts(), sum(len(sample.masks) for sample in catalog)
    if counts != source.counts or masks != source.masks:
        raise DataError(
            f"{folder}: {_listed(counts)} images and {masks} masks, where {source.name} has {_listed(source.counts)} "
            f"and {source.masks}; {advice}"
        )
    return counts


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {label}" for label, count in counts.items())


def _notice(source: Source, url: str, sha256: str) -> bytes:
    lines = (
        source.title,
        f"page: {source.page}",
        f"downloaded from: {url}",
        f"sha256 of the archive: {sha256}",
        f"terms: {source.terms}",
        f"cite: {source.citation}",
    )
    return ("\n".join(lines) + "\n").encode()
