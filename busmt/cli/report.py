"""busmt report"""

from __future__ import annotations

from pathlib import Path

import click

from busmt.cli.common import json_option, print_json, say
from busmt.errors import ConfigError


@click.command(
    epilog="""\b
Examples:
  busmt report runs/busi
  busmt report runs/busi-fold0 runs/busi-fold1 runs/busi-fold2 --out report.html
  busmt report runs/final --crossval results/p1
"""
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="HTML file  [default: in the run]")
@click.option(
    "--crossval",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="For a RUN without a test part: its model card, with the figures of this cross-validation.",
)
@json_option
def report(runs: tuple[Path, ...], out: Path | None, crossval: Path | None, as_json: bool) -> None:
    """Write the report and the model card of an evaluated RUN, or of the runs of several folds.

    The report is one HTML file that needs no network. External cohorts that the first run was evaluated on
    are part of it. The model card is written beside the run's files, as Markdown and as JSON. For several
    runs, their metrics and per-image table together are written beside the report.
    """
    from busmt.evaluation.card import write_card
    from busmt.evaluation.report import write_report
    from busmt.training.run import Run

    opened = [Run.open(run) for run in runs]
    if crossval:
        from busmt.training.crossval import metrics_for

        if len(opened) > 1 or out:
            raise ConfigError(
                "--crossval writes the model card of one run, and no report: leave out --out and other runs"
            )
        files = write_card(opened[0], pooled=metrics_for(opened[0], crossval))
        _say(None, files, as_json)
        return
    page = write_report(opened, out)
    cards = [file for run in opened for file in write_card(run)]
    _say(page, cards, as_json)


def _say(page: Path | None, cards: list[Path], as_json: bool) -> None:
    if as_json:
        print_json({"report": page and str(page), "model_cards": [str(file) for file in cards]})
        return
    if page:
        say(f"report: {page}")
    for file in cards:
        say(f"model card: {file}")
