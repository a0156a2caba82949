"""busmt evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from busmt.cli.common import json_option, print_json, progress, quiet_start, say

if TYPE_CHECKING:
    from busmt.evaluation.headline import Line


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Another cohort to score the run on, whole.")
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Part of the run's data.",
)
@click.option("--model", type=click.Path(path_type=Path), help="An export of the run to score instead of it.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results  [default: inside the run]")
@click.option("--resamples", default=2000, show_default=True, type=click.IntRange(100), help="Bootstrap resamples.")
@click.option("--no-pictures", is_flag=True, help="Write metrics.json and per_image.csv only.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Images per step.")
@json_option
def evaluate(
    run: Path,
    data: Path | None,
    part: str,
    model: Path | None,
    out: Path | None,
    resamples: int,
    no_pictures: bool,
    batch_size: int,
    as_json: bool,
) -> None:
    """Score RUN on its test fold, or on another cohort.

    Writes metrics.json, per_image.csv, figures and pictures of the best, median and worst cases, and prints
    the metrics with their 95 % intervals (bootstrap over groups).

    \b
    Examples:
      busmt evaluate runs/NAME
      busmt evaluate runs/NAME --data path/to/BUS-BRA --json
    """
    from busmt.data.cohorts import read_cohort
    from busmt.errors import ConfigError
    from busmt.evaluation.evaluate import default_folder, evaluate_run
    from busmt.evaluation.headline import headline
    from busmt.evaluation.narrative import task_sentences
    from busmt.training.run import Run

    opened = Run.open(run)
    if data is not None and part != "test":
        raise ConfigError("--part belongs to the run's own data; leave it out with --data")
    external = read_cohort(data) if data else None
    if model is not None and out is None:
        out = opened.path / f"{default_folder(part, external)}-{model.name}"
    quiet_start()
    from busmt.prediction import Predictor

    predictor = Predictor.load(model or opened.path)
    with progress("Scoring") as bar:
        result = evaluate_run(
            opened,
            predictor,
            part=part,
            external=external,
            model=model,
            out=out,
            batch_size=batch_size,
            resamples=resamples,
            pictures=not no_pictures,
            progress=bar,
        )
    metrics = result.evaluation.metrics
    if metrics["provenance"].get("images_also_trained_on"):
        say(f"warning: {metrics['provenance']['images_also_trained_on']} of these images were used in training")
    if as_json:
        print_json(metrics)
    else:
        print_table(headline(metrics), title(metrics))
    for sentence in task_sentences(metrics):
        say(sentence)
    say(f"metrics, table and figures: {result.folder}")
    if result.cases:
        say(f"pictures of {len(result.cases)} cases: {result.folder / 'cases'}")


def title(metrics: dict[str, Any]) -> str:
    """What was scored, in one line."""
    source = metrics["provenance"]
    counts = ", ".join(f"{count} {name}" for name, count in metrics["class_counts"].items() if count)
    part = f"external cohort {source['cohort']}" if source["part"] == "external" else f"{source['part']} part"
    return f"{source['run']}, {part}: {metrics['images']} images of {metrics['groups']} groups ({counts})"


def print_table(lines: list[Line], heading: str) -> None:
    """Metrics for people, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in (("", "left"), ("value", "right"), ("95 % interval", "right"), ("", "left")):
        table.add_column(name, justify=side, no_wrap=side == "right")  # type: ignore[arg-type]
    task = None
    for line in lines:
        if line.task != task:
            task = line.task
            table.add_row(f"[bold]{task}")
        table.add_row(f"  {line.name}", line.value, line.interval, line.note, style=None if line.main else "dim")
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a pipe or a file has no width of its own; nothing is folded there
    console.print(table)
