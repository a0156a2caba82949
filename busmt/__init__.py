"""busmt: breast-ultrasound multi-task learning.

One Keras model reads a B-mode breast ultrasound image and returns the lesion mask and the class.

The names below are what most scripts need; they are imported when they are first used.

>>> import busmt
>>> config = busmt.Config.preset("tiny")
>>> run = busmt.train_or_resume(config, "runs/first")                       # doctest: +SKIP
>>> prediction = busmt.Predictor.load(run.path).predict_file("image.png")   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from busmt._version import __version__

if TYPE_CHECKING:
    from busmt.config import CLASSES, Config
    from busmt.data.catalog import Catalog
    from busmt.data.cohorts import read_cohort
    from busmt.data.curation import curate
    from busmt.data.download import download
    from busmt.data.phantom import make_phantom, write_phantoms
    from busmt.deployment.export import export_run, export_tablet
    from busmt.errors import BusmtError
    from busmt.evaluation.evaluate import evaluate_run
    from busmt.evaluation.explain import Explainer
    from busmt.evaluation.report import write_report
    from busmt.prediction import Prediction, Predictor
    from busmt.training.run import Run
    from busmt.training.session import train_or_resume

_HOMES = {
    "CLASSES": "busmt.config",
    "Config": "busmt.config",
    "Catalog": "busmt.data.catalog",
    "read_cohort": "busmt.data.cohorts",
    "curate": "busmt.data.curation",
    "download": "busmt.data.download",
    "make_phantom": "busmt.data.phantom",
    "write_phantoms": "busmt.data.phantom",
    "export_run": "busmt.deployment.export",
    "export_tablet": "busmt.deployment.export",
    "BusmtError": "busmt.errors",
    "evaluate_run": "busmt.evaluation.evaluate",
    "Explainer": "busmt.evaluation.explain",
    "write_report": "busmt.evaluation.report",
    "Prediction": "busmt.prediction",
    "Predictor": "busmt.prediction",
    "Run": "busmt.training.run",
    "train_or_resume": "busmt.training.session",
}
"""Public name to the module that holds it."""

__all__ = [
    "CLASSES", "BusmtError", "Catalog", "Config", "Explainer", "Prediction", "Predictor", "Run", "__version__",
    "curate", "download", "evaluate_run", "export_run", "export_tablet", "make_phantom", "read_cohort",
    "train_or_resume", "write_phantoms", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'busmt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
