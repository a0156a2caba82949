"""Masks and classes for images, from a run folder, a .keras file, a SavedModel or a .tflite file.

>>> predictor = Predictor.load("runs/busi")                    # doctest: +SKIP
>>> prediction = predictor.predict_file("image.png")           # doctest: +SKIP
>>> prediction.label, prediction.mask.shape                    # doctest: +SKIP
('benign', (471, 562))
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from busmt import trust
from busmt.config import (
    CLASSES,
    IMAGE_INPUT,
    LABEL_LOGITS_OUTPUT,
    LABEL_OUTPUT,
    MASK_LOGITS_OUTPUT,
    MASK_OUTPUT,
    MASK_THRESHOLD,
    tasks_of,
)
from busmt.data.catalog import Catalog
from busmt.data.images import Letterbox, read_input
from busmt.errors import MissingPackageError, RunError
from busmt.evaluation.calibration import is_referred
from busmt.training.run import CALIBRATION, MODEL

SIDECAR = trust.MANIFEST
"""File beside exported models: classes, preprocessing, thresholds, checksums."""

Forward = Callable[[np.ndarray], dict[str, np.ndarray]]
Reader = Callable[[str, int], tuple[np.ndarray, Letterbox]]
"""Path and side of the square to a network input (S, S, 1), float32, in [0, 1], and where the image lies in it."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image; None for what a model with one task does not say.

    Attributes:
        image_id: name of the image.
        path: its file.
        probabilities: class probabilities after refinement, (3,), float32, in the order of `CLASSES`, or None.
        probability_map: lesion probability after refinement on the model's grid, (S, S), float32, or None.
        letterbox: where the image lies in that grid.
        raw_probabilities: class probabilities before refinement, (3,), or None for exported models.
        raw_map_peak: largest lesion probability before refinement, or None for exported models.
        refer: whether a person should look first; None where no referral threshold is known.
    """

    image_id: str
    path: str
    probabilities: np.ndarray | None
    probability_map: np.ndarray | None
    letterbox: Letterbox
    raw_probabilities: np.ndarray | None = None
    raw_map_peak: float | None = None
    refer: bool | None = None

    @property
    def label(self) -> str | None:
        """The most probable class."""
        return None if self.probabilities is None else CLASSES[int(np.argmax(self.probabilities))]

    @cached_property
    def mask(self) -> np.ndarray | None:
        """Lesion mask on the image's own grid, (H, W), bool; empty exactly if the class is normal."""
        if self.probability_map is None:
            return None
        return self.letterbox.restore_mask(self.probability_map, MASK_THRESHOLD)


class Predictor:
    """A loaded model. Use `Predictor.load`. A .tflite file needs no TensorFlow, neither to load nor to predict.

    Attributes:
        path: what was loaded.
        size: side of the model's square input, pixels.
        checked: False for an exported model without a manifest that tells whether it is whole.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        forward: Forward,
        batch: int | None,
        referral: float | None,
        reader: Reader | None = None,
        checked: bool = True,
    ):
        self.path, self.size, self.checked = path, size, checked
        self._forward, self._batch, self._referral = forward, batch, referral
        self._read = reader or _graph_reader()

    @classmethod
    def load(cls, model_path: str | os.PathLike[str]) -> Predictor:
        """Load a run folder, a .keras file, a SavedModel (or the folder of its versions) or a .tflite file.

        Raises:
            RunError: nothing there that can be loaded.
            MissingPackageError: what is there needs TensorFlow, which is not installed.
        """
        path = Path(model_path)
        if not path.exists():
            raise RunError(f"{path}: no such model; give a run folder, a .keras or .tflite file, or a SavedModel")
        if (path / MODEL).is_file():
            return cls._from_keras(path / MODEL, _read_value(path / CALIBRATION, "referral_threshold"))
        if path.suffix == ".keras":
            return cls._from_keras(path, _read_value(path.parent / CALIBRATION, "referral_threshold"))
        if path.suffix == ".tflite":
            beside = path.parent / SIDECAR
            own = _read_value(beside, "referral_threshold") if beside.is_file() else _read_inside(path)
            return cls._from_tflite(path, own)
        folder = _saved_model_folder(path)
        if folder is None:
            hint = "; its training has not finished" if (path / "config.yaml").exists() else ""
            raise RunError(f"{path}: not a run folder with {MODEL}, nor a .keras, .tflite or SavedModel{hint}")
        return cls._from_saved_model(folder, _read_value(folder.parent / SIDECAR, "referral_threshold"))

    @classmethod
    def from_network(cls, network: Any, path: str | os.PathLike[str] = "", referral: float | None = None) -> Predictor:
        """A predictor around a Keras model built by `busmt.model.network.build_network`."""

        def forward(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {name: np.asarray(value) for name, value in network.predict_on_batch(batch).items()}

        return cls(Path(path), int(network.input_shape[1]), forward, None, referral)

    def predict_file(self, path: str | os.PathLike[str]) -> Prediction:
        """Predict one image file. Raises DataError where it cannot be used."""
        picture, letterbox = self._read(os.fspath(path), self.size)
        name = Path(path)
        return self._predictions([name.stem], [str(name)], picture[None], [letterbox])[0]

    def predict_catalog(
        self, catalog: Catalog, batch_size: int = 8, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Prediction]:
        """Predict a catalog in its order; only one batch is in memory. Raises DataError for a bad image."""
        ids, paths, step = catalog.ids, catalog.table["image"].tolist(), self._batch or batch_size
        for start in range(0, len(paths), step):
            rows = slice(start, start + step)
            pictures, boxes = zip(*[self._read(path, self.size) for path in paths[rows]], strict=True)
            yield from self._predictions(ids[rows], paths[rows], np.stack(pictures), list(boxes))
            if progress:
                progress(min(rows.stop, len(paths)), len(paths))

    def predict_arrays(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name for network inputs (B, S, S, 1), float32, in [0, 1].

        Raises:
            DataError: another shape or type, or values that are no numbers, infinite or out of range.
        """
        trust.check_pictures(pictures, self.size)
        return self._forward(pictures)

    def _predictions(
        self, ids: list[str], paths: list[str], pictures: np.ndarray, boxes: list[Letterbox]
    ) -> list[Prediction]:
        outputs = self._forward(pictures)
        labels, maps = outputs.get(LABEL_OUTPUT), outputs.get(MASK_OUTPUT)
        rule = labels is not None and self._referral is not None
        refer = is_referred(labels, self._referral) if rule else [None] * len(ids)  # type: ignore[arg-type]
        predictions = []
        for row, (image_id, path, box) in enumerate(zip(ids, paths, boxes, strict=True)):
            raw = outputs.get(LABEL_LOGITS_OUTPUT)
            peak = outputs.get(MASK_LOGITS_OUTPUT)
            predictions.append(
                Prediction(
                    image_id,
                    path,
                    None if labels is None else labels[row],
                    None if maps is None else maps[row, ..., 0],
                    box,
                    None if raw is None else _softmax(raw[row]),
                    None if peak is None else float(1 / (1 + np.exp(-float(peak[row].max())))),
                    None if refer[row] is None else bool(refer[row]),
                )
            )
        return predictions

    @classmethod
    def _from_keras(cls, path: Path, referral: float | None) -> Predictor:
        return cls.from_network(load_network(path), path, referral)

    @classmethod
    def _from_saved_model(cls, folder: Path, referral: float | None) -> Predictor:
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise MissingPackageError.of(error, f"{folder}: a SavedModel") from error
        checked = trust.check_saved_model(folder)
        try:
            loaded = tf.saved_model.load(str(folder))
            size = int(loaded.signatures["serving_default"].structured_input_signature[1]["image"].shape[1])
        except Exception as error:  # a damaged one fails in many places, each with an error of its own
            raise RunError(f"{folder}: not a SavedModel that busmt exported ({_first_line(error)})") from error

        def forward(batch: np.ndarray) -> dict[str, np.ndarray]:
            outputs = loaded.signatures["serving_default"](image=tf.constant(batch))
            return {name: value.numpy() for name, value in outputs.items()}

        return cls(folder, size, forward, None, referral, checked=checked)

    @classmethod
    def _from_tflite(cls, path: Path, referral: float | None) -> Predictor:
        try:
            checked = trust.check_tflite(path)
        except ModuleNotFoundError as error:
            raise MissingPackageError.of(error, "a .tflite model") from error
        forward, size = interpret(path)
        return cls(path, size, forward, 1, referral, read_input, checked)


def interpret(model: bytes | str | os.PathLike[str], threads: int | None = None) -> tuple[Forward, int]:
    """A .tflite file, or its content, as a function from inputs (B, S, S, 1), run one by one, to outputs by name.

    Returns:
        The function, and the side S of the model's square input.

    Raises:
        MissingPackageError: ai-edge-litert is not installed.
        RunError: not a .tflite file that busmt exported.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, "a .tflite model") from error
    source: dict[str, Any] = {"model_content": model} if isinstance(model, bytes) else {"model_path": os.fspath(model)}
    try:
        runner = Interpreter(**source, num_threads=threads).get_signature_runner("serving_default")
        size = int(runner.get_input_details()[IMAGE_INPUT]["shape"][1])
    except Exception as error:  # a damaged one fails in many places, each with an error of its own
        name = "the content" if isinstance(model, bytes) else os.fspath(model)
        raise RunError(f"{name}: not a TFLite file that busmt exported ({_first_line(error)})") from error

    def forward(batch: np.ndarray) -> dict[str, np.ndarray]:
        rows = [runner(image=picture[None]) for picture in batch]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return forward, size


def load_network(path: str | os.PathLike[str]) -> Any:
    """Load a .keras file with safe mode on, after `trust.check_keras`.

    Raises:
        RunError: missing, damaged, or not a network of busmt.
        MissingPackageError: TensorFlow or Keras is not installed.
    """
    try:
        import keras

        import busmt.model.network  # noqa: F401  registers the layers
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, f"{path}: a Keras model") from error

    trust.check_keras(Path(path))
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged one fails in the zip, JSON, HDF5 or layer code
        raise RunError(f"{path}: cannot be loaded as a Keras model ({_first_line(error)})") from error
    if not isinstance(network.output, dict) or not tasks_of(network.output):
        raise RunError(f"{path}: a Keras model, but none that busmt made")
    return network


def _graph_reader() -> Reader:
    from busmt.data.pipeline import read_image

    return read_image


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _saved_model_folder(path: Path) -> Path | None:
    """The folder itself, or its newest version."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [entry for entry in path.iterdir() if entry.name.isdigit()] if path.is_dir() else []
    versions = [entry for entry in versions if (entry / "saved_model.pb").is_file()]
    return max(versions, key=lambda entry: int(entry.name), default=None)


def _read_value(path: Path, key: str) -> float | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged JSON file") from error
    return _number(found, key)


def _read_inside(path: Path) -> float | None:
    """The referral threshold on the card in the archive behind a .tflite file; None where there is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _number(json.loads(archive.read(SIDECAR)), "referral_threshold")
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, OSError):
        return None  # a bare .tflite file; whether it is one at all is seen when it is loaded


def _number(card: Any, key: str) -> float | None:
    value = card.get(key) if isinstance(card, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()
