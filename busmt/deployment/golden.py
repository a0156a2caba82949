"""Golden pairs: three phantoms with the answers that the exported models give to them.

Whoever puts a model into an app of their own can check with them that decoding, preprocessing and reading of
the outputs are right. They are synthetic, so that they can be passed on freely.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from busmt.config import CLASSES
from busmt.data.images import write_json, write_png
from busmt.data.phantom import make_phantom
from busmt.prediction import Predictor

ANSWERS = "answers.json"
SEEDS: tuple[int, ...] = (101, 102, 103)
"""Seeds of the phantoms, in the order of `CLASSES`."""


def write_golden(folder: Path, predictors: Mapping[str, Predictor]) -> Path:
    """Write `NAME.png`, `NAME_mask.png` (answer of the first model) and `answers.json` for each class.

    Args:
        folder: made; must not exist.
        predictors: models by file name; the first is the one that the others are measured by.
    """
    folder.mkdir()
    answers: dict[str, dict[str, object]] = {}
    for name, seed in zip(CLASSES, SEEDS, strict=True):
        path = folder / f"{name}.png"
        write_png(path, make_phantom(name, seed).image)
        answers[path.name] = {}
        for position, (file, predictor) in enumerate(predictors.items()):
            prediction = predictor.predict_file(path)
            answer: dict[str, object] = {}
            if prediction.probabilities is not None:
                answer["label"] = prediction.label
                answer["probabilities"] = [round(float(value), 6) for value in prediction.probabilities]
            if prediction.mask is not None:
                answer["lesion_pixels"] = int(np.count_nonzero(prediction.mask))
                if position == 0:
                    write_png(folder / f"{name}_mask.png", prediction.mask)
            answers[path.name][file] = answer
    write_json(folder / ANSWERS, answers)
    return folder
