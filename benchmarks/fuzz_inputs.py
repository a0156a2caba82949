"""Mutate images, tables and configurations, and see whether every one is read or refused in one clear line.

    python benchmarks/fuzz_inputs.py --count 10000 --out benchmarks/results/fuzz_inputs.json

Seeds: PNG, JPEG, BMP and TIFF of several kinds, a catalog, a folds file, overrides, a name list, a configuration, and
zip archives, some with entries that lead out of the folder. DICOM and PNG files also go through the reader of the
tablet app, which runs in Node.js; where that is missing, these two kinds are left out (`npm ci --prefix
busmt/deployment/tablet` installs what it needs, and pydicom writes the seeds).

Mutations: cut off, bits flipped, bytes overwritten, parts deleted, doubled or taken from another seed, lengths set to
extremes, words of a dictionary put in. Each mutation is a function of (--seed, its number), so that `--first N
--count 1` repeats it.

Images go through every door that reads pixels (network input, curation, mask, size), up to TensorFlow's decoder.
A case is survived if it ends within the limits with a result or with a BusmtError of one line that names the file.
Time is processor time; memory is the largest resident size of the whole process, TensorFlow or Node.js included.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import multiprocessing
import os
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

SECONDS, MEBIBYTES, HANG_SECONDS = 5.0, 1024, 120
"""Limits for one input: processor time, resident memory, and the time after which a process is taken for hung."""
TABLET = Path(__file__).resolve().parent.parent / "busmt" / "deployment" / "tablet"
HAS_TABLET = bool(
    shutil.which("node") and (TABLET / "node_modules/dicom-parser").is_dir() and importlib.util.find_spec("pydicom")
)
TABLET_KINDS = ("dicom", "tablet-png") if HAS_TABLET else ()
TABLES = ("catalog", "folds", "overrides", "names")
TEXTS = (*TABLES, "config")
KINDS = ("png", "jpeg", "bmp", "tiff", *TEXTS, "zip", *TABLET_KINDS)
WORDS = (
    b"=1+1", b"@SUM(A1)", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"../../", b"/dev/zero", b"\n", b"\r", b'"', b",",
    b"|", b"nan", b"-inf", b"1e999", b"9" * 400, b"&a [*a]", b"!!python/object/apply:os.system [id]", b"{", b"[" * 300,
    b"? ", b": ", b"<<: ", b"\x1b[2J", "ü\u202e".encode(), b"0x" + b"f" * 5000, b"1:2:3:4:5:6", b"network:",
    b"malignant",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutations, spread over all kinds")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    result = fuzz(options.seed, options.first, options.count)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if result["faults"] else 0


def fuzz(seed: int, first: int, count: int) -> dict[str, Any]:
    """Run the cases in a process of their own; one that dies or hangs is noted, and the next goes on after it."""
    answers: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    largest = {"seconds": 0.0, "mebibytes": 0.0}
    number, end, context = first, first + count, multiprocessing.get_context("spawn")
    while number < end:
        pipe, other = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(other, seed, number, end))
        process.start()
        other.close()
        while number < end:
            case = None
            try:
                if pipe.poll(HANG_SECONDS):
                    case = pipe.recv()
            except EOFError:
                pass
            if case is None:
                process.kill()
                process.join()
                case = {"answer": "hung" if process.exitcode is None else "died", "kind": KINDS[number % len(KINDS)]}
            answers[f"{case['kind']} {case['answer']}"] += 1
            for name in largest:
                largest[name] = max(largest[name], case.get(name, 0.0))
            over = case.get("seconds", 0) > SECONDS or case.get("mebibytes", 0) > MEBIBYTES
            if case["answer"] not in ("read", "refused") or over:
                faults.append({"number": number} | case)
            elif case["answer"] == "refused":
                messages[case["message"]] += 1
            number += 1
            if case["answer"] in ("hung", "died"):
                break
        process.join()
    return {
        "seed": seed,
        "first": first,
        "inputs": count,
        "limits": {"seconds": SECONDS, "mebibytes": MEBIBYTES},
        "largest": {name: round(value, 2) for name, value in largest.items()},
        "answers": {kind: {answer: answers[f"{kind} {answer}"] for answer in ("read", "refused")} for kind in KINDS},
        "refusals": dict(messages.most_common(25)),
        "faults": faults,
    }


def work(pipe: Any, seed: int, first: int, end: int) -> None:
    """One process: the cases from `first` on, each reported when it has ended."""
    warnings.simplefilter("ignore")
    from busmt.errors import BusmtError

    doors = make_doors()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        for number in range(first, end):
            kind = KINDS[number % len(KINDS)]
            path = Path(folder) / f"case.{'csv' if kind in TABLES else kind}"
            path.write_bytes(mutate(seeds, kind, np.random.default_rng([seed, number])))
            case: dict[str, Any] = {"kind": kind, "answer": "read"}
            tablet = doors[kind][0] if kind in TABLET_KINDS else None
            worker = tablet.process.pid if isinstance(tablet, Tablet) else "self"
            Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak starts anew
            started = time.process_time()
            for door in doors[kind]:
                try:
                    door(path)
                except BusmtError as error:
                    case |= {"answer": "refused", "message": generic(str(error), folder)}
                    if "\n" in str(error).replace(str(path), ""):
                        case["answer"] = "more than one line"
                except BaseException as error:
                    case |= {"answer": "crashed", "error": f"{type(error).__name__}: {error}"[:300]}
                    break
            seconds = tablet.seconds if isinstance(tablet, Tablet) else time.process_time() - started
            pipe.send(case | {"seconds": seconds, "mebibytes": peak(worker)})
    pipe.close()


def make_doors() -> dict[str, list[Callable[[Path], object]]]:
    """What reads each kind of file."""
    from busmt.config import Config
    from busmt.data import images
    from busmt.data.cohorts import read_csv
    from busmt.data.curation.names import read_name_list
    from busmt.data.curation.overrides import read_overrides
    from busmt.data.folds import read_folds
    from busmt.data.pipeline import read_image

    def network_input(path: Path) -> None:
        picture, _ = read_image(str(path), 64)
        if not (np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1.001):
            raise ValueError("a picture with values that no picture has")

    pixels = [network_input, images.read_grey, images.read_colour, images.image_size, lambda p: images.read_mask([p])]
    return {
        **dict.fromkeys(("png", "jpeg", "bmp", "tiff"), pixels),
        "catalog": [read_csv, lambda path: read_csv(path, strict=False)],
        "folds": [read_folds],
        "overrides": [lambda path: read_overrides(path, {"a", "b (1)"})],
        "names": [lambda path: read_name_list(str(path))],
        "config": [Config.from_yaml],
        "zip": [unpacked],
        **dict.fromkeys(TABLET_KINDS, [Tablet()] if HAS_TABLET else []),
    }


def unpacked(path: Path) -> None:
    """Unpack an archive as `busmt data download` does; nothing may lie outside of the folder, and no link in it."""
    from busmt.data.unpack import unpack
    from busmt.errors import DataError

    folder, before = path.parent / "unpacked" / "here", set(path.parent.iterdir())
    try:
        unpack(path, folder)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        outside = set(path.parent.iterdir()) - before - {folder.parent}
        beside = set(folder.parent.iterdir()) - {folder} if folder.parent.exists() else set()
        links = [entry for entry in folder.rglob("*") if entry.is_symlink()]
        shutil.rmtree(folder.parent, ignore_errors=True)
        if outside or beside or links:
            raise ValueError(f"entries left the folder: {[*outside, *beside, *links]}")


class Tablet:
    """The tablet app's reader in a process of Node.js."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        command = ["node", str(Path(__file__).with_name("fuzz_tablet.mjs"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, path: Path) -> None:
        from busmt.errors import DataError

        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        answered, _, _ = select.select([self.process.stdout], [], [], HANG_SECONDS / 2)
        line = self.process.stdout.readline() if answered else ""
        if not line:
            self.process.kill()
            self.process.wait()
            self.start()
            raise RuntimeError("the reader died" if answered else "the reader hung")
        answer = json.loads(line)
        self.seconds = answer["seconds"]
        if "crashed" in answer:
            raise RuntimeError(answer["crashed"])
        if "refused" in answer:
            raise DataError(answer["refused"])


def make_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Sound files of each kind; the images that the catalog names lie in the folder."""
    from busmt.config import Config
    from busmt.data.phantom import make_phantom

    grey = Image.fromarray(make_phantom("benign", 1, (96, 120)).image)
    colour = Image.merge("RGB", (grey, grey.rotate(3), grey.rotate(7)))
    clear = colour.convert("RGBA")
    clear.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    grey.save(folder / "a.png")
    Image.new("L", grey.size, 255).save(folder / "a_mask.png")
    rows = "".join(f"x{n},a.png,benign,a_mask.png,p{n % 3},{n % 2},0.1\n" for n in range(6))
    parts = "".join(f"i{n},g{n},benign,{n % 2},{('train', 'test')[n % 2]}\n" for n in range(6))
    outside = ("../out", "a/../../out", f"{folder}/out", "..\\out", "C:out", "a.txt/b", "a/" * 200 + "b")
    tablet = {"dicom": dicoms(np.asarray(grey), np.asarray(colour))} if HAS_TABLET else {}
    return tablet | {
        "tablet-png": [
            saved(grey, "PNG"), saved(colour, "PNG"), saved(clear, "PNG"), saved(grey.convert("P"), "PNG"),
            saved(grey.convert("1"), "PNG"),
        ],
        "zip": [archive({"a.txt": b"fine", name: b"escaped"}) for name in outside]
        + [
            archive({"a/one.png": saved(grey, "PNG"), "a/b/two.txt": b"two" * 99}, method)
            for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        ]
        + [archive({"a.txt": b"fine", "out": b"../../out"}, link="out"), archive({"a/zeros": bytes(100_000)})],
        "png": [
            saved(grey, "PNG"), saved(colour, "PNG"), saved(clear, "PNG"), saved(grey.convert("P"), "PNG"),
            saved(grey.convert("1"), "PNG"), saved(grey.convert("I;16"), "PNG"), saved(colour, "PNG", exif=turned),
        ],
        "jpeg": [
            saved(grey, "JPEG"), saved(colour, "JPEG", progressive=True), saved(colour.convert("CMYK"), "JPEG"),
            saved(colour, "JPEG", exif=turned), saved(colour, "JPEG", subsampling=0, quality=95),
        ],
        "bmp": [saved(grey, "BMP"), saved(colour, "BMP"), saved(grey.convert("1"), "BMP"), saved(clear, "BMP")],
        "tiff": [
            saved(grey, "TIFF"), saved(colour, "TIFF", compression="tiff_lzw"),
            saved(grey, "TIFF", compression="tiff_adobe_deflate"), saved(clear, "TIFF", compression="packbits"),
            saved(colour, "TIFF", compression="jpeg"), saved(grey.convert("1"), "TIFF", compression="group4"),
        ],
        "catalog": [f"image_id,image,label,masks,patient,fold,spacing_mm\n{rows}".encode()],
        "folds": [f"image_id,group,label,fold,part\n{parts}".encode()],
        "overrides": [b"image_id,action,group,note\na,keep,,fine\nb (1),regroup,g,\n"],
        "names": [b"class;id\nbenign;1\nmalignant;2\n", b"image_id,decision\na,kept\nb,removed\n"],
        "config": [
            json.dumps(Config().to_dict()).encode(),
            b"network: {input_size: 64, dropout: 0.4}\ntraining:\n  epochs: 3\n  learning_rate: 1e-3\n",
        ],
    }  # fmt: skip


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, link: str = "") -> bytes:
    """A zip archive; the entry `link` is a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.compress_type = 3, method
            entry.external_attr = ((stat.S_IFLNK | 0o777) if name == link else (stat.S_IFREG | 0o644)) << 16
            packed.writestr(entry, content)
    return buffer.getvalue()


def dicoms(grey: Any, colour: Any) -> list[bytes]:
    """Uncompressed DICOM files: 8 and 16 bits, a window, colours, a calibrated region."""
    explicit, implicit = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
    deep = grey.astype(np.int16) * 9 - 700
    region = {"RegionDataType": 1, "PhysicalUnitsXDirection": 3, "PhysicalDeltaX": 0.01, "PhysicalDeltaY": 0.02}
    return [
        dicom(grey, explicit, PixelSpacing=[0.1, 0.2]),
        dicom(grey, implicit, SequenceOfUltrasoundRegions=[region]),
        dicom(deep, explicit, WindowCenter=100, WindowWidth=900, RescaleSlope=2, RescaleIntercept=-10),
        dicom(deep.astype(np.uint16), implicit, PhotometricInterpretation="MONOCHROME1"),
        dicom(colour, explicit, PhotometricInterpretation="RGB"),
        dicom(np.moveaxis(colour, 2, 0), implicit, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=1),
    ]


def dicom(pixels: Any, syntax: str, **tags: Any) -> bytes:
    import pydicom

    data, planes = pydicom.Dataset(), tags.get("PlanarConfiguration", 0)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape[1:] if planes else pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    if pixels.ndim == 3:
        data.PlanarConfiguration = planes
    for name, value in tags.items():
        if name == "SequenceOfUltrasoundRegions":
            item = pydicom.Dataset()
            for key, part in value[0].items():
                setattr(item, key, part)
            value = pydicom.Sequence([item])
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutate(seeds: dict[str, list[bytes]], kind: str, generator: np.random.Generator) -> bytes:
    """A seed with one to three things done to it."""
    content = bytearray(seeds[kind][generator.integers(len(seeds[kind]))])
    actions = (0, 1, 3, 4, 5, 7, 7, 7) if kind in TEXTS else (0, 1, 2, 3, 4, 5, 6, 7)
    for _ in range(generator.integers(1, 4)):
        size = max(1, len(content))
        # a quarter of the places lies in the first 64 bytes, where headers are
        place = int(generator.integers(size if generator.random() < 0.75 else min(64, size)))
        length = int(generator.integers(1, 1 + min(64, size)))
        action = actions[generator.integers(len(actions))]
        if action == 0:
            del content[place:]
        elif action == 1 and content:
            for spot in generator.integers(len(content), size=generator.integers(1, 9)):
                content[spot] ^= 1 << int(generator.integers(8 if len(actions) == len(set(actions)) else 7))
        elif action == 2:
            content[place : place + length] = generator.bytes(length)
        elif action == 3:
            del content[place : place + length]
        elif action == 4:
            content[place:place] = content[place : place + length] * int(generator.integers(1, 20))
        elif action == 5:
            other = seeds[kind][generator.integers(len(seeds[kind]))]
            content[place : place + length] = other[place : place + length]
        elif action == 6:
            extreme = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 20_000, 65_535)[generator.integers(7)]
            content[place : place + 4] = extreme.to_bytes(4, ("big", "little")[generator.integers(2)])
        else:
            content[place:place] = WORDS[generator.integers(len(WORDS))]
    # most damage to a PNG would end at its checksums
    return (
        with_checksums(bytes(content)) if kind in ("png", "tablet-png") and generator.random() < 0.7 else bytes(content)
    )


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have right checksums, as far as its lengths lead."""
    repaired, place = bytearray(content), 8
    while place + 12 <= len(repaired):
        length = int.from_bytes(repaired[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(repaired):
            break
        repaired[end : end + 4] = zlib.crc32(repaired[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(repaired)


def generic(message: str, folder: str) -> str:
    """The message without what only this case has."""
    text = message.replace(os.path.realpath(folder), "").replace(folder, "").lstrip("/")
    return " ".join("N" if any(letter.isdigit() for letter in word) else word for word in text.split())[:70]


def peak(process: int | str) -> float:
    """Largest resident size since it was reset, MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    sys.exit(main())
