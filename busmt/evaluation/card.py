"""The model card of a run, for people (Markdown) and for machines (JSON); made from the run's files alone.

Sections after Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busmt.config import CLASSES, MASK_THRESHOLD
from busmt.data.images import write_atomically, write_json
from busmt.evaluation import narrative
from busmt.evaluation.evaluate import model_hash
from busmt.evaluation.headline import headline
from busmt.evaluation.report import read_externals, read_home, template

if TYPE_CHECKING:
    from busmt.training.run import Run

CARD_SCHEMA_VERSION: int = 1
MARKDOWN_FILE, JSON_FILE = "model_card.md", "model_card.json"

_INTENDED = (
    "Research on B-mode breast ultrasound: outline a lesion and sort the image into normal, benign or malignant. "
    "Comparing methods, teaching, and as a starting point for training on own data."
)
_NOT_INTENDED = (
    "Diagnosis, screening or triage of patients without approval as a medical device and without a prospective study.",
    "Images that are not B-mode breast ultrasound: the model has no class for them and answers all the same.",
    "Video, elastography, Doppler or three-dimensional ultrasound, which were not tested.",
)


_TASKS = {"both": "Lesion mask and class", "mask": "Lesion mask", "label": "Class"}


def write_card(
    run: Run, folder: str | os.PathLike[str] | None = None, pooled: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write model_card.md and model_card.json.

    Args:
        run: an evaluated run, or one that was trained on all images and has no test part.
        folder: where to; default the run's folder.
        pooled: metrics of the cross-validation that stands for the test of a run without test part, as
            `busmt.training.crossval.metrics_for` gives them.

    Returns:
        The two files.

    Raises:
        DataError: the run was not evaluated.
        RunError: the run is not finished.
    """
    folder = Path(folder) if folder else run.path
    folder.mkdir(parents=True, exist_ok=True)
    card = build_card(run, pooled)
    write_json(folder / JSON_FILE, card)
    write_atomically(folder / MARKDOWN_FILE, template("model_card.md").render(card=card).encode())
    return [folder / MARKDOWN_FILE, folder / JSON_FILE]


def build_card(run: Run, pooled: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The card as plain dictionaries; see `write_card`."""
    home, externals = pooled or read_home([run]).metrics, read_externals(run)
    facts = narrative.run_facts(run)
    fitted = facts["calibration"]
    return {
        "schema": "busmt-model-card",
        "schema_version": CARD_SCHEMA_VERSION,
        "name": run.name,
        "summary": f"{_TASKS[facts['network']['tasks']]} from one breast-ultrasound image, trained on "
        f"{facts['cohort']}.",
        "license": "Apache-2.0",
        "intended_use": _INTENDED,
        "not_intended": list(_NOT_INTENDED),
        "input": {
            "name": "image",
            "size": facts["network"]["input_size"],
            "description": "grey image in [0, 1], aspect kept, centred in the square, zero around it",
        },
        "output": {
            "classes": list(CLASSES),
            "mask_threshold": MASK_THRESHOLD,
            "description": _output(facts["network"]),
            "referral_threshold": fitted.get("referral_threshold"),
            "temperature": fitted.get("temperature"),
        },
        "training": {
            "cohort": facts["cohort"],
            "images": facts["images"],
            "classes": facts["counts"],
            "groups": facts["groups"],
            "removed": facts["removed"],
            "parts": facts["parts"],
            "command": facts["command"],
            "parameters": facts["parameters"],
            "configuration": run.config.portable(),
        },
        "protocol": narrative.protocol_sentences([facts], pooled),
        "metrics": [_metrics(home), *(_metrics(external.metrics) for external in externals)],
        "limitations": narrative.limitations([facts], home, [external.metrics for external in externals]),
        "versions": facts["versions"],
        "source_commit": facts["git"],
        "hashes": {
            "network_sha256": model_hash(run.model_path),
            "curated_images_sha256": facts["fingerprint"],
            "tested_images_sha256": home["provenance"]["data_fingerprint"],
        },
    }


def _output(network: dict[str, Any]) -> str:
    if network["tasks"] != "both":
        return {"mask": "lesion probability per pixel", "label": "class probabilities"}[network["tasks"]]
    both = "lesion probability per pixel and class probabilities"
    agree = f"{both} that agree: the class is normal exactly where no pixel is above the threshold"
    return both if network["refinement"] == "none" else agree


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    source = metrics["provenance"]
    return {
        "cohort": source["cohort"],
        "part": source["part"],
        "images": metrics["images"],
        "classes": {name: count for name, count in metrics["class_counts"].items() if count},
        "evaluated": source["created"],
        "lines": [
            {"task": line.task, "key": line.key, "name": line.name, "value": line.value, "interval": line.interval}
            for line in headline(metrics)
            if line.main
        ],
    }
