"""A small cohort on disk and predictions of known quality, without a network. Imported by the tests beside it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from busmt.config import CLASSES, Config
from busmt.data.catalog import Catalog
from busmt.data.folds import make_folds, write_folds
from busmt.data.images import Letterbox, write_png


@dataclass(frozen=True)
class FakePrediction:
    """What evaluation needs to know of a prediction."""

    image_id: str
    path: str
    probabilities: np.ndarray
    probability_map: np.ndarray
    letterbox: Letterbox
    raw_probabilities: np.ndarray | None
    raw_map_peak: float | None

    @property
    def label(self) -> str:
        return CLASSES[int(self.probabilities.argmax())]

    @property
    def mask(self) -> np.ndarray:
        return self.letterbox.restore_mask(self.probability_map, 0.5)


def make_cohort(folder, per_class=8, classes=CLASSES, seed=0, spacing=None) -> Catalog:
    """Noise with a brighter disc; two images per group."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for label in classes:
        for number in range(per_class):
            height, width = int(generator.integers(60, 120)), int(generator.integers(60, 120))
            name = f"{label} ({number + 1})"
            mask = np.zeros((height, width), dtype=bool)
            if label != "normal":
                radius = generator.integers(8, 20)
                y, x = np.mgrid[:height, :width]
                mask = (y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2
            image = generator.integers(40, 90, (height, width)) + 60 * mask
            write_png(folder / f"{name}.png", image.astype(np.uint8))
            write_png(folder / f"{name}_mask.png", mask)
            rows.append(
                {
                    "image_id": name,
                    "image": str(folder / f"{name}.png"),
                    "masks": str(folder / f"{name}_mask.png"),
                    "label": label,
                    "group": f"{label} patient {number // 2}",
                    "cohort": "discs",
                    "device": "A" if number % 3 else "B",
                }
            )
            if spacing:
                rows[-1]["spacing_mm"] = spacing
    return Catalog(pd.DataFrame(rows))


def fake_predictions(catalog, seed=0, size=64, skill=1.0, shift=2, raw=True):
    """Predictions in catalog order: the truth shifted, and class probabilities with some skill."""
    for sample in catalog:
        generator = np.random.default_rng((seed, zlib.crc32(sample.image_id.encode())))
        truth = sample.read_mask()
        letterbox = Letterbox(*truth.shape, size)
        logits = generator.normal(size=3)
        logits[CLASSES.index(sample.label)] += skill
        probabilities = np.exp(logits) / np.exp(logits).sum()
        square = np.roll(letterbox.apply_mask(truth), shift, axis=1).astype(np.float32) * 0.9
        if probabilities.argmax() == 0:
            square[:] = 0.1
        elif not (square > 0.5).any():
            square[20:24, 20:24] = 0.8
        yield FakePrediction(
            sample.image_id,
            sample.image,
            probabilities.astype(np.float32),
            square,
            letterbox,
            generator.dirichlet(np.ones(3)).astype(np.float32) if raw else None,
            float(generator.random()) if raw else None,
        )


@dataclass(frozen=True)
class FakePredictor:
    """Predicts without a network; the same for an image whatever else is in the catalog."""

    skill: float = 1.0
    seed: int = 0

    def predict_catalog(self, catalog, batch_size=8, progress=None):
        return fake_predictions(catalog, seed=self.seed, skill=self.skill)


def make_run(folder, catalog, fold=0, seed=0):
    """A finished run folder of two folds, with a file in the network's place."""
    config = Config.preset(
        "tiny",
        {
            "data": {"path": "discs"},
            "folds": {"count": 2, "fold": fold, "validation_share": 0.5},
            "training": {"seed": seed},
        },
    )
    folder.mkdir(parents=True)
    config.to_yaml(folder / "config.yaml")
    catalog.to_csv(folder / "catalog.csv")
    write_folds(make_folds(catalog, config.folds), folder / "folds.csv")
    (folder / "model.keras").write_bytes(b"no network")
    (folder / "calibration.json").write_text('{"referral_threshold": 0.2, "temperature": 1.1, "mask_threshold": 0.5}')
    (folder / "environment.json").write_text('{"busmt": "0", "command": ["busmt", "train"], "git": null}')
    return folder


def evaluate_with_cases(run, predictor, out=None):
    """As `evaluate_run`, with the pictures of the cases and without the figures, which take most of the time."""
    from busmt.evaluation.cases import choose_cases, write_cases
    from busmt.evaluation.evaluate import evaluate_run, stamp

    result = evaluate_run(run, predictor, out=out, resamples=20, pictures=False)
    cases = choose_cases(result.evaluation.per_image)
    label = stamp(result.evaluation.metrics)
    return result, write_cases(cases, run.part("test"), predictor.predict_catalog, result.folder / "cases", label)
