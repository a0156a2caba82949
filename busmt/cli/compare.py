"""busmt compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from busmt.cli.common import json_option, print_json, say

if TYPE_CHECKING:
    import pandas as pd

    from busmt.evaluation.compare import System


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="RUN_A RUN_B …")
@click.option("--on", "cohort", help="Compare on an external cohort that the runs were evaluated on, by its name.")
@click.option("--common", is_flag=True, help="Compare on the images that all have, where they differ.")
@click.option("--resamples", default=2000, show_default=True, type=click.IntRange(100), help="Resamples, permutations.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the comparison to this JSON file.")
@json_option
def compare(
    systems: tuple[str, ...], cohort: str | None, common: bool, resamples: int, out: Path | None, as_json: bool
) -> None:
    """Compare evaluated runs with the first one, on the same images.

    A system is a run folder, or the runs of its folds joined by commas or matched by a quoted pattern; an
    optional NAME= in front names it. Run `busmt evaluate` on each run first. The results folder of a
    cross-validation is a system, too, and needs no runs.

    \b
    Examples:
      busmt compare runs/plain runs/attention
      busmt compare "plain=runs/plain-fold*" "attention=runs/attention-fold*"
      busmt compare results/plain results/attention
    """
    from busmt.evaluation.compare import compare as compare_systems
    from busmt.evaluation.protocol import write_metrics

    result = compare_systems([read_system(text, cohort) for text in systems], common, resamples)
    if out:
        write_metrics(result, out)
        say(f"comparison: {out}")
    if as_json:
        print_json(result)
        return
    if result["left_out"]:
        say(f"{result['left_out']} images were not scored by all systems and are left out")
    for comparison in result["comparisons"]:
        _print(result, comparison)
    print_folds(result["folds"])


def read_system(text: str, cohort: str | None) -> System:
    """A system from its argument: [NAME=]RUN[,RUN…], each RUN a folder or a pattern.

    Raises:
        DataError: nothing matches, a run was not evaluated, or a fold file is damaged.
    """
    import glob

    from busmt.errors import DataError
    from busmt.evaluation.compare import System
    from busmt.evaluation.protocol import PER_IMAGE_FILE, read_evaluation
    from busmt.training.crossval import fold_files, fold_tables

    name, _, paths = text.rpartition("=")
    folders: list[Path] = []
    for pattern in paths.split(","):
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not found:
            raise DataError(f"{pattern}: no run folder matches")
        folders += map(Path, found)
    inside = f"evaluation-{cohort}" if cohort else "evaluation"
    tables: list[pd.DataFrame] = []
    for folder in folders:
        if fold_files(folder):
            if cohort:
                raise DataError(f"{folder}: has no scores on {cohort}, only those of its own folds; name the runs")
            tables += fold_tables(folder)
        else:
            place = folder if (folder / PER_IMAGE_FILE).exists() else folder / inside
            tables.append(read_evaluation(place).per_image)
    return System(name or ", ".join(folder.name for folder in folders), tuple(tables))


def _print(result: dict[str, Any], comparison: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from busmt.evaluation.compare import COMPARED
    from busmt.evaluation.headline import interval, number

    heading = (
        f"{comparison['second']} against {comparison['first']}: {result['images']} images of {result['groups']} groups"
    )
    table = Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("first", "second", "difference", "95 % interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("second is")
    for key, values in comparison["measures"].items():
        gap = values["difference"]
        p_value = values["p_value"]
        table.add_row(
            COMPARED[key][0],
            number(values["first"]),
            number(values["second"]),
            f"{gap['value']:+.3f}",
            interval(gap),
            "-" if p_value != p_value else f"{p_value:.4f}",
            values["verdict"],
        )
    _console().print(table)
    alone = comparison["right_alone"]
    if alone:
        click.echo(f"class right in one alone: {alone['first']} images in first, {alone['second']} in second")


def print_folds(folds: dict[str, Any]) -> None:
    """Figures of each fold with mean and spread, as `busmt.evaluation.compare.fold_by_fold` gives them, by system."""
    from rich import box
    from rich.table import Table

    if all(len(values["folds"]) < 2 for measures in folds.values() for values in measures.values()):
        return
    table = Table(title="Fold by fold", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "measure", "mean", "sd", "folds"):
        table.add_column(name)
    for system, measures in folds.items():
        for name, values in measures.items():
            each = " ".join(f"{value:.3f}" for value in values["folds"])
            table.add_row(system, name.replace("_", " "), f"{values['mean']:.3f}", f"{values['sd']:.3f}", each)
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 140
    return console
