"""From a finished run to exported models: write, check against Keras, only then give the final name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from busmt import trust
from busmt._version import __version__
from busmt.config import CLASSES, MASK_THRESHOLD
from busmt.data.images import file_hash, read_encoded, write_atomically, write_json
from busmt.data.phantom import make_phantom
from busmt.data.pipeline import read_image
from busmt.deployment.parity import Parity, compare, require
from busmt.deployment.savedmodel import BYTES_SIGNATURE, write_saved_model
from busmt.deployment.tflite import operations, write_tflite
from busmt.errors import DataError, ExportError
from busmt.prediction import SIDECAR, Forward, Predictor, load_network
from busmt.training.run import Run, draft_folder

FORMATS: tuple[str, ...] = ("savedmodel", "tflite")
TFLITE_FILE = "model.tflite"
PARITY_FILE = "parity.json"
PARITY_IMAGES = 50


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        folder: where.
        files: paths by format.
        parity: agreement with Keras by what was compared.
        source: which images the comparison used.
    """

    folder: Path
    files: dict[str, Path]
    parity: list[Parity]
    source: str


def export_run(
    run: Run, folder: str | os.PathLike, formats: Sequence[str] = FORMATS, progress: Callable[[str], None] | None = None
) -> Export:
    """Export a finished run and check each format against Keras on real images.

    Writes `1/` (SavedModel; the next free number if there is one), `model.tflite`, `model.json` (classes,
    preprocessing, thresholds, checksums) and `parity.json`.

    Args:
        run: a finished run.
        folder: made where it does not exist.
        formats: of `FORMATS`.
        progress: called with a line of text at each stage.

    Raises:
        ExportError: unknown format, a conversion that fails, or an export that disagrees with Keras; then
            nothing is left behind.
        RunError: the run has not finished.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ExportError(f"unknown format {min(unknown)!r}; choose from {', '.join(FORMATS)}")
    say = progress or (lambda text: None)
    network = load_network(run.model_path)
    folder = Path(folder)
    inputs, encoded, source = parity_images(run)
    try:
        with draft_folder(folder / f".draft.{os.getpid()}") as draft:
            say(f"checking on {len(inputs)} images: {source}")
            reference = Predictor.from_network(network).predict_arrays
            parity: list[Parity] = []
            for name in formats:
                say(f"writing {name}")
                parity += _WRITERS[name](network, draft, reference, inputs, encoded)
            for result in parity:
                require(result)
            card = _card(run, network)
            files = _publish(draft, folder, formats)
            _describe(folder, card | {"sha256": _checksums(folder, files)}, parity, source)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return Export(folder, files, parity, source)


def parity_images(run: Run, count: int = PARITY_IMAGES) -> tuple[list[np.ndarray], list[bytes | None], str]:
    """Network inputs and encoded bytes for the comparison: test images, evenly spread over the classes.

    A run without a test part lends its validation images: exports are compared with Keras, not with the truth.
    Where the run's images are not at hand, phantoms are used, and the text says so.
    """
    size = run.config.network.input_size
    try:
        part = "test" if run.config.folds.fold is not None else "validation"
        images = run.part(part)
        positions = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
        paths = [images[int(position)].image for position in positions]
        return [read_image(path, size)[0] for path in paths], [read_encoded(path) for path in paths], f"{part} images"
    except DataError as error:
        inputs = []
        for seed in range(count):
            phantom = make_phantom(CLASSES[seed % len(CLASSES)], seed, (size, size))
            inputs.append(phantom.image[..., None].astype(np.float32) / 255.0)
        return inputs, [None] * count, f"phantoms, because the run's images cannot be read ({error})"


def _saved_model(
    network: Any, draft: Path, reference: Forward, inputs: list[np.ndarray], encoded: list[bytes | None]
) -> list[Parity]:
    import tensorflow as tf

    folder = write_saved_model(network, draft / "savedmodel")
    results = [compare("savedmodel serving_default", reference, Predictor.load(folder).predict_arrays, inputs)]
    if all(data is not None for data in encoded):
        loaded = tf.saved_model.load(str(folder))
        queue = iter(encoded)

        def forward(_: np.ndarray) -> dict[str, np.ndarray]:
            outputs = loaded.signatures[BYTES_SIGNATURE](encoded=tf.constant([next(queue)]))
            return {name: value.numpy() for name, value in outputs.items()}

        results.append(compare("savedmodel serving_bytes", reference, forward, inputs))
    return results


def _tflite(
    network: Any, draft: Path, reference: Forward, inputs: list[np.ndarray], encoded: list[bytes | None]
) -> list[Parity]:
    path = write_tflite(network, draft / TFLITE_FILE)
    flex = sorted(name for name in operations(path) if name.startswith("Flex"))
    if flex:
        raise ExportError(f"the TFLite file needs TensorFlow's own operation {flex[0]}, which tablets lack")
    return [compare("tflite float32", reference, Predictor.load(path).predict_arrays, inputs)]


_WRITERS: dict[str, Callable[..., list[Parity]]] = {"savedmodel": _saved_model, "tflite": _tflite}


def _publish(draft: Path, folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    files = {}
    if "savedmodel" in formats:
        versions = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
        files["savedmodel"] = folder / str(max(versions, default=0) + 1)
        os.replace(draft / "savedmodel", files["savedmodel"])
    if "tflite" in formats:
        files["tflite"] = folder / TFLITE_FILE
        os.replace(draft / TFLITE_FILE, files["tflite"])
    return files


def _card(run: Run, network: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "busmt": __version__,
        "classes": list(CLASSES),
        "input": {
            "name": "image",
            "size": int(network.input_shape[1]),
            "channels": 1,
            "range": [0.0, 1.0],
            "preprocessing": "grey, divided by 255, longer side resized to size (bilinear, antialiased), "
            "aspect kept, centred on zeros",
        },
        "outputs": {"mask": "lesion probability", "label": "class probabilities"},
        "mask_threshold": MASK_THRESHOLD,
        "referral_threshold": run.calibration().get("referral_threshold"),
        "data_fingerprint": run.environment().get("data", {}).get("fingerprint"),
        "notice": "Not a medical device: for research, not for diagnosis.",
    }


def _describe(folder: Path, card: dict[str, Any], parity: list[Parity], source: str) -> None:
    write_json(folder / SIDECAR, card)
    write_json(folder / PARITY_FILE, {"images": source, "results": [result.to_dict() for result in parity]})
    write_atomically(folder / "labels.txt", ("\n".join(CLASSES) + "\n").encode())


def _checksums(folder: Path, files: dict[str, Path]) -> dict[str, str]:
    """sha256 by path relative to the folder, of every file that was written, now or by earlier exports."""
    members = [path for entry in files.values() for path in ([entry] if entry.is_file() else sorted(entry.rglob("*")))]
    before = {name: value for name, value in trust.listed_hashes(folder).items() if (folder / name).is_file()}
    return before | {path.relative_to(folder).as_posix(): file_hash(path) for path in members if path.is_file()}
