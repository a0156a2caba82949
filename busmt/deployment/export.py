"""From a finished run to exported models: write, check against Keras, only then give the final name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from busmt import trust
from busmt._version import __version__
from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, MASK_THRESHOLD, TASKS, tasks_of
from busmt.data.images import file_hash, read_encoded, write_atomically, write_json
from busmt.data.phantom import make_phantom
from busmt.data.pipeline import read_image
from busmt.deployment import golden, variants
from busmt.deployment.parity import Parity, compare, require
from busmt.deployment.quantise import QUANTISED, VARIANTS, Quantiser, half
from busmt.deployment.savedmodel import BYTES_SIGNATURE, write_saved_model
from busmt.deployment.serving_assets import complete_version, model_name, write_assets
from busmt.deployment.tflite import append_files, convert, require_built_in
from busmt.deployment.variants import Comparison, Fidelity
from busmt.errors import DataError, ExportError
from busmt.prediction import SIDECAR, Forward, Predictor, load_network
from busmt.training.run import Run, draft_folder

FORMATS: tuple[str, ...] = ("savedmodel", "tflite")
TFLITE, GOLDEN, TABLET = "tflite", "golden", "tablet"
TFLITE_FILE = "model.tflite"
PARITY_FILE = "parity.json"
PARITY_IMAGES = 50
_OUTPUTS = {MASK_OUTPUT: "lesion probability", LABEL_OUTPUT: "class probabilities"}


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
    variants: list[Fidelity] = field(default_factory=list)
    """Each TFLite variant against Keras and the truth, whether it was written or not."""

    @property
    def refused(self) -> list[Fidelity]:
        """Variants that lose too much and were not written."""
        if TABLET in self.files:
            return []
        return [row for row in self.variants if variant_format(row.variant) not in self.files]


def export_run(
    run: Run,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    progress: Callable[[str], None] | None = None,
    force: bool = False,
    only: Sequence[str] = VARIANTS,
) -> Export:
    """Export a finished run and check each format against Keras on real images.

    Writes `1/` (SavedModel; the next free number if there is one), `model.tflite` and its smaller variants
    `model-float16.tflite`, `model-int8-dynamic.tflite` and `model-int8.tflite`, `golden/` (three phantoms with
    the answers to them), `model.json` (classes, preprocessing, thresholds, checksums) and `parity.json`. Each
    .tflite file carries labels and card in a zip archive at its end. What the int8 variants keep in float is
    chosen on validation images; what is reported comes from test images. A variant that loses more than
    `busmt.deployment.variants.MAX_LOSS` of Dice or AUROC there is not written.

    Args:
        run: a finished run.
        folder: made where it does not exist.
        formats: of `FORMATS`.
        progress: called with a line of text at each stage.
        force: write the variants that lose too much, too.
        only: the variants of TFLite files to judge and write.

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
                parity += _WRITERS[name](network, draft, reference, inputs, encoded, run)
            for result in parity:
                require(result)
            card = _card(run, network)
            judged = _write_variants(run, network, draft, reference, force, say, only) if TFLITE in formats else []
            written = [row for row in judged if (draft / variant_file(row.variant)).exists()]
            _complete(draft, written, card)
            files = _publish(draft, folder, formats, written)
            _describe(folder, card | {"sha256": _checksums(folder, files)}, parity, source, judged)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return Export(folder, {name: path for name, path in files.items() if name != GOLDEN}, parity, source, judged)


def export_tablet(
    run: Run,
    folder: str | os.PathLike[str],
    progress: Callable[[str], None] | None = None,
    force: bool = False,
    variant: str | None = None,
) -> Export:
    """Write the tablet app with the smallest variant of a run's model that loses little enough.

    Variants are tried in the order int8, int8-dynamic, float16, float32.

    Args:
        run: a finished run.
        folder: the app's folder; must not hold anything yet.
        progress: called with a line of text at each stage.
        force: take int8 whatever it loses.
        variant: one of `VARIANTS` to take, if it loses little enough or with `force`; None: the smallest good one.

    Returns:
        An export whose only variant is the one that was taken.

    Raises:
        ExportError: the folder holds something, the model cannot be converted, or the variant that was asked for
            loses too much.
        RunError: the run has not finished.
    """
    from busmt.deployment.tablet.site import write_site

    say = progress or (lambda text: None)
    network = load_network(run.model_path)
    size, folder = int(network.input_shape[1]), Path(folder)
    if tasks_of(network.output) != TASKS:
        raise ExportError(f"{run.path}: the tablet app shows mask and class, and this network has one task")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: exists and is not empty; name a new folder for the tablet app")
    reference = Predictor.from_network(network).predict_arrays
    cases, source = variants.truth_cases(run, size, _reported_part(run))
    reported = Comparison(cases, reference)
    for name, content, floats in _smallest_first(run, network, reference, say, variant):
        row = reported.judge(name, content, floats)
        if row.passed or force:
            break
    else:
        if variant:
            raise ExportError(f"{folder}: {variant} loses too much on the {source}; take it all the same with --force")
    card = _card(run, network) | {"variant": row.variant, "fidelity": row.to_dict()}
    try:
        with draft_folder(folder.with_name(f".{folder.name}.{os.getpid()}.draft")) as draft:
            write_site(draft / TABLET, content, card)
            if folder.exists():
                folder.rmdir()
            os.replace(draft / TABLET, folder)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return Export(folder, {TABLET: folder}, [], source, [row])


def variant_file(variant: str) -> str:
    """File name of a TFLite variant."""
    return TFLITE_FILE if variant == "float32" else f"model-{variant}.tflite"


def variant_format(variant: str) -> str:
    """Name of a TFLite variant among an export's files."""
    return TFLITE if variant == "float32" else f"{TFLITE}-{variant}"


def parity_images(run: Run, count: int = PARITY_IMAGES) -> tuple[list[np.ndarray], list[bytes | None], str]:
    """Network inputs and encoded bytes for the comparison: test images, evenly spread over the classes.

    A run without a test part lends its validation images: exports are compared with Keras, not with the truth.
    Where the run's images are not at hand, phantoms are used, and the text says so.
    """
    size, part = run.config.network.input_size, _reported_part(run)
    try:
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
    network: Any, draft: Path, reference: Forward, inputs: list[np.ndarray], encoded: list[bytes | None], run: Run
) -> list[Parity]:
    import tensorflow as tf

    threshold = run.calibration().get("referral_threshold")
    folder = write_saved_model(network, draft / "savedmodel", referral_threshold=threshold)
    complete_version(folder, model_name(draft.parent), int(network.input_shape[1]))
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
    network: Any, draft: Path, reference: Forward, inputs: list[np.ndarray], encoded: list[bytes | None], run: Run
) -> list[Parity]:
    content = convert(network)
    require_built_in(content)
    write_atomically(draft / TFLITE_FILE, content)
    return [compare("tflite float32", reference, Predictor.load(draft / TFLITE_FILE).predict_arrays, inputs)]


_WRITERS: dict[str, Callable[..., list[Parity]]] = {"savedmodel": _saved_model, "tflite": _tflite}


def _write_variants(
    run: Run,
    network: Any,
    draft: Path,
    reference: Forward,
    force: bool,
    say: Callable[[str], None],
    only: Sequence[str],
) -> list[Fidelity]:
    """Make the variants that are wanted from the float32 file; keep those that lose little enough, or all if forced."""
    size = int(network.input_shape[1])
    cases, source = variants.truth_cases(run, size, _reported_part(run))
    reported = Comparison(cases, reference)
    content = (draft / TFLITE_FILE).read_bytes()
    if VARIANTS[0] not in only:
        (draft / TFLITE_FILE).unlink()
    made: list[tuple[str, bytes, tuple[str, ...]]] = [(VARIANTS[0], content, ())] if VARIANTS[0] in only else []
    if "float16" in only:
        made.append(("float16", half(content), ()))
    wanted = [variant for variant in QUANTISED if variant in only]
    if wanted:
        quantiser, validation = _quantiser(run, content, size), _validation(run, size, reference)
    for variant in wanted:
        say(f"writing tflite {variant}: what stays in float is chosen on {_chosen_on(run)} images")
        made.append((variant, *variants.choose(quantiser, variant, validation, say)))
    say(f"judging the variants on {len(cases)} images: {source}")
    judged = []
    for variant, content, floats in made:
        require_built_in(content)
        judged.append(reported.judge(variant, content, floats))
        if variant == VARIANTS[0] or judged[-1].passed or force:
            write_atomically(draft / variant_file(variant), content)
    return judged


def _smallest_first(
    run: Run, network: Any, reference: Forward, say: Callable[[str], None], only: str | None
) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Variant, file and float parts for the tablet app, made one after the other."""
    size, content = int(network.input_shape[1]), convert(network, attention=True)
    require_built_in(content)
    wanted = [only] if only else list(reversed(VARIANTS))
    if set(wanted) & set(QUANTISED):
        quantiser, validation = _quantiser(run, content, size), _validation(run, size, reference)
    for variant in wanted:
        say(f"trying {variant}")
        if variant in QUANTISED:
            yield (variant, *variants.choose(quantiser, variant, validation, say))
        else:
            yield variant, half(content) if variant == "float16" else content, ()


def _quantiser(run: Run, content: bytes, size: int) -> Quantiser:
    return Quantiser(content, variants.calibration_pictures(run, size))


def _validation(run: Run, size: int, reference: Forward) -> Comparison:
    return Comparison(variants.truth_cases(run, size, _chosen_on(run))[0], reference)


def _reported_part(run: Run) -> str:
    """The part that exports are measured on: a run without a test part lends its validation images, and an average of
    networks that have seen all images its training images. Exports are compared with Keras first of all."""
    return _first_part(run, "test", "validation", "train")


def _chosen_on(run: Run) -> str:
    """The part on which it is chosen what stays in float."""
    return _first_part(run, "validation", "train")


def _first_part(run: Run, *parts: str) -> str:
    """The first of these parts that holds an image."""
    there = set(run.folds()["part"])
    return next(part for part in parts if part in there)


def _complete(draft: Path, written: list[Fidelity], card: dict[str, Any]) -> None:
    """Golden pairs beside the .tflite files, then labels and card into them."""
    if not written:
        return
    files = [variant_file(row.variant) for row in written]
    golden.write_golden(draft / GOLDEN, {file: Predictor.load(draft / file) for file in files})
    for row in written:
        path = draft / variant_file(row.variant)
        own = json.dumps(card | {"variant": row.variant, "fidelity": row.to_dict()}, indent=2) + "\n"
        write_atomically(path, append_files(path.read_bytes(), {"labels.txt": _labels(), SIDECAR: own.encode()}))


def _publish(draft: Path, folder: Path, formats: Sequence[str], written: list[Fidelity]) -> dict[str, Path]:
    files = {}
    if "savedmodel" in formats:
        versions = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
        files["savedmodel"] = folder / str(max(versions, default=0) + 1)
        os.replace(draft / "savedmodel", files["savedmodel"])
        write_assets(folder)
    if TFLITE in formats:
        for variant in VARIANTS:  # one that was refused must not stand there from an earlier export
            (folder / variant_file(variant)).unlink(missing_ok=True)
        for row in written:
            name, file = variant_format(row.variant), variant_file(row.variant)
            files[name] = folder / file
            os.replace(draft / file, files[name])
        shutil.rmtree(folder / GOLDEN, ignore_errors=True)
        files[GOLDEN] = folder / GOLDEN
        os.replace(draft / GOLDEN, files[GOLDEN])
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
        "outputs": {task: _OUTPUTS[task] for task in tasks_of(network.output)},
        "mask_threshold": MASK_THRESHOLD,
        "referral_threshold": run.calibration().get("referral_threshold"),
        "data_fingerprint": run.environment().get("data", {}).get("fingerprint"),
        "notice": "Not a medical device: for research, not for diagnosis.",
    }


def _describe(folder: Path, card: dict[str, Any], parity: list[Parity], source: str, judged: list[Fidelity]) -> None:
    write_json(folder / SIDECAR, card)
    results = [result.to_dict() for result in parity]
    rows = [row.to_dict() | {"written": (folder / variant_file(row.variant)).exists()} for row in judged]
    write_json(folder / PARITY_FILE, {"images": source, "results": results, "variants": rows})
    write_atomically(folder / "labels.txt", _labels())


def _labels() -> bytes:
    return ("\n".join(CLASSES) + "\n").encode()


def _checksums(folder: Path, files: dict[str, Path]) -> dict[str, str]:
    """sha256 by path relative to the folder, of every file that was written, now or by earlier exports."""
    members = [path for entry in files.values() for path in ([entry] if entry.is_file() else sorted(entry.rglob("*")))]
    before = {name: value for name, value in trust.listed_hashes(folder).items() if (folder / name).is_file()}
    return before | {path.relative_to(folder).as_posix(): file_hash(path) for path in members if path.is_file()}
