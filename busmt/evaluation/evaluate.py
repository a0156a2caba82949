"""Evaluate a run: which images, which model, where the results go."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busmt._version import __version__
from busmt.data.catalog import Catalog
from busmt.data.images import file_hash
from busmt.evaluation.cases import Case, choose_cases, write_cases, write_sheet
from busmt.evaluation.intervals import RESAMPLES
from busmt.evaluation.protocol import METRICS_FILE, Evaluation, score_predictions, write_evaluation, write_metrics

if TYPE_CHECKING:
    from busmt.prediction import Predictor
    from busmt.training.run import Run

Progress = Callable[[int, int], None]
CASES_FOLDER = "cases"


@dataclass(frozen=True)
class Evaluated:
    """A written evaluation.

    Attributes:
        evaluation: table and metrics.
        folder: where everything lies.
        cases: the images that were drawn.
    """

    evaluation: Evaluation
    folder: Path
    cases: list[Case]


def evaluate_run(
    run: Run,
    predictor: Predictor,
    *,
    part: str = "test",
    external: Catalog | None = None,
    model: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
    resamples: int = RESAMPLES,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Evaluated:
    """Score a run on one of its parts or on another cohort, and write metrics, table, figures and cases.

    Args:
        run: the run; its metrics.json is written as well where its own test part is scored.
        predictor: the run's model, or an export of it.
        part: "test" or "validation"; without meaning where `external` is given.
        external: another cohort, scored whole.
        model: where the predictor came from, if not from the run itself.
        out: folder for the results; default inside the run: evaluation/, evaluation-validation/ or
            evaluation-COHORT/.
        batch_size: images per prediction step.
        resamples: bootstrap resamples.
        pictures: draw figures and cases; without them only metrics.json and per_image.csv are written.
        progress: called with (done, total).

    Raises:
        DataError: an image or mask cannot be read.
        RunError: the run or its part is not there.
    """
    home = external is None
    catalog = run.part(part) if external is None else external
    folder = Path(out) if out else run.path / default_folder(part, external)

    def predictions(images: Catalog) -> Iterator[Any]:
        return predictor.predict_catalog(images, batch_size=batch_size)

    pairs = _counted(zip(catalog, predictions(catalog), strict=True), len(catalog), progress)
    evaluation = score_predictions(
        pairs,
        catalog.table,
        referral_threshold=run.calibration().get("referral_threshold"),
        resamples=resamples,
        seed=run.config.folds.seed,
    )
    evaluation.metrics["provenance"] = provenance(run, catalog, part if home else "external", external, model)
    write_evaluation(evaluation, folder, figures=pictures)
    chosen = choose_cases(evaluation.per_image) if pictures else []
    cases = write_cases(chosen, catalog, predictions, folder / CASES_FOLDER, stamp(evaluation.metrics))
    if cases:
        write_sheet(cases, folder / "figures" / "cases")
    if home and part == "test" and model is None and out is None:
        write_metrics(evaluation.metrics, run.path / METRICS_FILE)
    return Evaluated(evaluation, folder, cases)


def default_folder(part: str, external: Catalog | None) -> str:
    """Name of the results' folder inside a run."""
    if external is not None:
        return f"evaluation-{cohort_name(external)}"
    return "evaluation" if part == "test" else f"evaluation-{part}"


def cohort_name(catalog: Catalog) -> str:
    """The cohorts of a catalog, joined; fit for a folder's name."""
    names = "+".join(sorted(set(catalog.table["cohort"]) - {""})) or "other"
    return "".join(letter if letter.isalnum() or letter in "-+._" else "_" for letter in names)


def stamp(metrics: dict[str, Any]) -> str:
    """What tells one evaluation from another: when it was made, and of which network."""
    return f"{metrics['provenance']['created']} {metrics['provenance']['model_sha256']}"


def home_cohort(run: Run) -> str:
    """What a run was trained on. Phantoms are laid out as BUSI on disk and must not be taken for it."""
    return "phantoms" if run.config.data.path is None else cohort_name(run.catalog())


def provenance(
    run: Run, catalog: Catalog, part: str, external: Catalog | None, model: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """What was scored, with what, when: enough to repeat it."""
    config, environment = run.config, run.environment()
    record = {
        "run": run.name,
        "busmt": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["busmt", *sys.argv[1:]],
        "training_command": environment.get("command"),
        "model": Path(model or run.model_path).name,
        "model_sha256": model_hash(model or run.model_path),
        "part": part,
        "cohort": home_cohort(run) if external is None else cohort_name(external),
        "trained_on": home_cohort(run),
        "data_fingerprint": catalog.fingerprint(),
        "fold": config.folds.fold,
        "folds": config.folds.count,
        "folds_seed": config.folds.seed,
        "training_seed": config.training.seed,
        "curation": config.to_dict()["curation"],
        "git": environment.get("git"),
    }
    if external is not None:
        record["images_also_trained_on"] = images_also_trained_on(run, external)
    return record


def images_also_trained_on(run: Run, external: Catalog, missing_ok: bool = False) -> int:
    """How many images of another cohort are, byte by byte, among those the model was fitted on.

    Args:
        run: the model's.
        external: the other cohort.
        missing_ok: leave out images of the run that are no longer there, instead of raising DataError.
    """
    folds = run.folds()
    fitted_on = run.catalog().select(folds["image_id"][folds["part"] != "test"])
    seen = {file_hash(sample.image) for sample in fitted_on if not missing_ok or os.path.exists(sample.image)}
    return sum(file_hash(sample.image) in seen for sample in external)


def model_hash(path: str | os.PathLike[str]) -> str:
    """sha256 of a model: of its file, or of the names and contents of the files in its folder."""
    folder = Path(path)
    if not folder.is_dir():
        return file_hash(folder)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{name}\0{file_hash(folder / name)}\n" for name in files).encode()).hexdigest()


def _counted(pairs: Iterator[Any], total: int, progress: Progress | None) -> Iterator[Any]:
    for done, pair in enumerate(pairs, start=1):
        yield pair
        if progress:
            progress(done, total)
