"""The report: one HTML file that needs nothing else, from the evaluations of one run or of several folds."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from busmt._version import __version__
from busmt.data.images import write_atomically
from busmt.errors import DataError
from busmt.evaluation import narrative
from busmt.evaluation.cases import CASE_KINDS, Case, choose_cases, read_pictures
from busmt.evaluation.compare import System, fold_by_fold, system_of
from busmt.evaluation.evaluate import CASES_FOLDER, stamp
from busmt.evaluation.figures import draw_history, figures_of, render
from busmt.evaluation.headline import TASKS, headline, interval, number
from busmt.evaluation.protocol import (
    METRICS_FILE,
    Evaluation,
    evaluate_table,
    read_evaluation,
    write_metrics,
    write_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from busmt.training.run import Run

HOME_FOLDER = "evaluation"
REPORT_FILE, FOLDS_REPORT_FILE = "report.html", "folds-report.html"

_CARDS = (
    ("segmentation", "dice", "Lesion Dice"),
    ("classification", "balanced_accuracy", "Balanced accuracy"),
    ("classification", "auroc_malignant", "AUROC for malignancy"),
    ("normals", "false_positive_rate", "Normals with a lesion marked"),
)
_FIGURES = {
    "dice": ("Segmentation", "Dice of every lesion image, by class and by lesion size"),
    "confusion": ("Classification", "Confusion matrix"),
    "roc": ("Classification", "ROC curves with a bootstrap band for malignant"),
    "precision_recall": ("Classification", "Precision and recall with a bootstrap band for malignant"),
    "reliability": ("Calibration", "Reliability diagram; numbers of images beside the points"),
    "risk_coverage": ("Calibration", "Error rate among the most confident images"),
    "referral": ("Calibration", "Malignant cases found or referred, against the share that is referred"),
}
_SUBGROUP_NAMES = {"label": "class", "lesion_size": "lesion size", "birads": "BI-RADS"}


@dataclass(frozen=True)
class Scored:
    """One cohort as scored by one run, or by the runs of several folds.

    Attributes:
        evaluation: of all images together.
        folders: the evaluation folders that it came from, for the pictures.
    """

    evaluation: Evaluation
    folders: tuple[Path, ...]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics with the provenance of the first run."""
        return self.evaluation.metrics


def write_report(runs: Sequence[Run], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of an evaluated run, or of runs that tested different folds of one cohort.

    External cohorts that the first run was evaluated on are part of the report.

    Args:
        runs: evaluated runs.
        out: the HTML file; default report.html in the run, or folds-report.html beside several runs. The metrics
            and the table of several runs together are written beside it (.metrics.json, .per_image.csv).

    Returns:
        The written file.

    Raises:
        DataError: a run was not evaluated, or two runs tested the same image.
        RunError: a run is not finished.
    """
    several = len(runs) > 1
    default = runs[0].path.parent / FOLDS_REPORT_FILE if several else runs[0].path / REPORT_FILE
    path = Path(out) if out else default
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_report(runs).encode())
    if several:
        pooled = read_home(runs).evaluation
        write_metrics(pooled.metrics, path.with_suffix(".metrics.json"))
        write_table(pooled.per_image, path.with_suffix(".per_image.csv"))
    return path


def render_report(runs: Sequence[Run]) -> str:
    """The report as HTML; see `write_report`."""
    home, externals = read_home(runs), read_externals(runs[0])
    single = [read_home([run]).evaluation for run in runs]
    facts = [narrative.run_facts(run) for run in runs]
    name = ", ".join(run.name for run in runs)
    history = runs[0].history()
    return template("report.html").render(
        title=name,
        version=__version__,
        created=home.metrics["provenance"]["created"][:10],
        cohort=facts[0]["cohort"],
        cards=_cards(home.metrics),
        protocol=narrative.protocol_sentences(facts),
        limitations=narrative.limitations(facts, home.metrics, [external.metrics for external in externals]),
        sections=[_section(home, "Results", facts[0]["cohort"], [])]
        + [
            _section(
                external,
                "External cohort",
                external.metrics["provenance"]["cohort"],
                narrative.external_sentences(external.metrics),
            )
            for external in externals
        ],
        history=_svg(draw_history(history, runs[0].calibration().get("best_epoch"))) if len(history) else None,
        folds=_fold_rows(system_of(name, single), home.evaluation.classes) if len(runs) > 1 else [],
        facts=_fact_rows(facts, home.metrics),
        commands=_commands(runs, facts, externals),
    )


def read_home(runs: Sequence[Run]) -> Scored:
    """The test evaluations of the runs, put together.

    Raises:
        DataError: one is missing, or an image was tested twice.
    """
    folders = tuple(run.path / HOME_FOLDER for run in runs)
    evaluations = [read_evaluation(folder) for folder in folders]
    if len(evaluations) == 1:
        return Scored(evaluations[0], folders)
    table = pd.concat([evaluation.per_image for evaluation in evaluations], ignore_index=True)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} images, such as {twice.iloc[0]}, were tested by two of the runs; give one run per fold"
        )
    pooled = evaluate_table(table)
    pooled.metrics["provenance"] = pooled_provenance([evaluation.metrics["provenance"] for evaluation in evaluations])
    return Scored(pooled, folders)


def pooled_provenance(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One value where the runs agree, else the list of theirs."""
    pooled = {}
    for key in sources[0]:
        values = [source.get(key) for source in sources]
        pooled[key] = values[0] if all(value == values[0] for value in values) else values
    return pooled | {"created": max(source["created"] for source in sources)}


def read_externals(run: Run) -> list[Scored]:
    """The external cohorts that a run was evaluated on with its own network, by name."""
    found = []
    for folder in sorted(run.path.glob(f"{HOME_FOLDER}-*")):
        if not (folder / METRICS_FILE).exists():
            continue
        evaluation = read_evaluation(folder)
        source = evaluation.metrics.get("provenance", {})
        if source.get("part") == "external" and source.get("model") == run.model_path.name:
            found.append(Scored(evaluation, (folder,)))
    return found


def template(name: str) -> Any:
    """A template of this package. HTML is escaped, and an undefined name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("busmt.evaluation"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _section(scored: Scored, kind: str, cohort: str, sentences: list[str]) -> dict[str, Any]:
    metrics = scored.metrics
    lines = headline(metrics)
    drawn = {name: _svg(draw(scored.evaluation)) for name, draw in figures_of(scored.evaluation).items()}
    tasks = []
    for task in TASKS:
        rows = [line for line in lines if line.task == task]
        figures = [
            {"image": drawn[name], "caption": caption, "name": name}
            for name, (owner, caption) in _FIGURES.items()
            if owner == task and name in drawn
        ]
        if rows:
            tasks.append({"name": task, "rows": rows, "figures": figures})
    counts = ", ".join(f"{count} {name}" for name, count in metrics["class_counts"].items() if count)
    return {
        "heading": f"{kind}: {cohort}",
        "sentences": [
            f"{metrics['images']} images of {metrics['groups']} groups were scored: {counts}.",
            *narrative.task_sentences(metrics),
            *sentences,
        ],
        "cards": _cards(metrics),
        "tasks": tasks,
        "subgroups": _subgroup_rows(metrics["subgroups"]),
        "cases": _case_groups(scored),
    }


def _cards(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    cards = []
    for block, key, name in _CARDS:
        values = metrics[block] or {}  # None where the network lacks the task
        estimate = values.get("measures", values).get(key)
        if estimate:
            cards.append({"name": name, "value": number(estimate["value"]), "interval": interval(estimate)})
    return cards


def _subgroup_rows(subgroups: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for column, values in subgroups.items():
        for value, part in values.items():
            measures = part["segmentation"]["measures"]
            dice, hd95 = measures.get("dice"), measures.get("hd95_px")
            rows.append(
                {
                    "column": _SUBGROUP_NAMES.get(column, column.replace("_", " ")),
                    "value": value,
                    "images": part["images"],
                    "groups": part["groups"],
                    "dice": number(dice["value"]) if dice else "",
                    "dice_interval": interval(dice) if dice else "",
                    "dice_median": number(dice["median"]["value"]) if dice else "",
                    "missed": part["segmentation"]["missed"] if dice else "",
                    "hd95": number(hd95["median"]["value"]) if hd95 else "",
                    "accuracy": number(part["accuracy"]["value"]) if part["accuracy"] else "",
                    "accuracy_interval": interval(part["accuracy"]) if part["accuracy"] else "",
                }
            )
    return rows


def _case_groups(scored: Scored) -> list[dict[str, Any]]:
    """Cases by kind with their pictures; only images that were drawn when the run was evaluated."""
    pictures: dict[str, Path] = {}
    for folder in scored.folders:
        pictures |= read_pictures(folder / CASES_FOLDER, stamp(read_evaluation(folder).metrics))
    cases = choose_cases(scored.evaluation.per_image, among=pictures)
    groups = []
    for kind, heading in CASE_KINDS.items():
        own = [_case(case, pictures[case.image_id]) for case in cases if case.kind == kind]
        if own:
            groups.append({"heading": heading, "cases": own})
    return groups


def _case(case: Case, picture: Path) -> dict[str, str]:
    buffer = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
    return {"image_id": case.image_id, "caption": case.caption, "image": _data_uri(buffer.getvalue(), "image/jpeg")}


def _fold_rows(system: System, classes: Sequence[str]) -> list[dict[str, Any]]:
    names = {"dice": "Dice", "accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy"}
    return [
        {
            "name": names[key],
            "mean": number(values["mean"]),
            "sd": number(values["sd"]),
            "folds": [number(value) for value in values["folds"]],
        }
        for key, values in fold_by_fold(system, classes).items()
    ]


def _fact_rows(facts: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    first, source = facts[0], metrics["provenance"]
    rows = [("busmt", first["versions"].get("busmt"))]
    rows += [(name, version) for name, version in first["versions"].items() if name != "busmt" and version]
    rows += [
        ("source commit", first["git"]),
        ("training started", first["started"]),
        ("sha256 of the network", ", ".join(_listed(source["model_sha256"]))),
        ("sha256 of the curated images", first["fingerprint"]),
        ("sha256 of the tested images", source["data_fingerprint"] if len(facts) == 1 else None),
        ("schema of metrics.json", f"{metrics['schema']} version {metrics['schema_version']}"),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _commands(runs: Sequence[Run], facts: Sequence[Mapping[str, Any]], externals: Sequence[Scored]) -> list[str]:
    """The commands that lead to this report, as they were given."""
    commands = [" ".join(fact["command"]) for fact in facts if fact["command"]]
    commands += [f"busmt evaluate {run.path}" for run in runs]
    commands += [" ".join(external.metrics["provenance"]["command"]) for external in externals]
    return [*commands, "busmt report " + " ".join(str(run.path) for run in runs)]


def _svg(figure: Figure) -> str:
    return _data_uri(render(figure, "svg"), "image/svg+xml")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
