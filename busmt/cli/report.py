"""busmt report"""

from __future__ import annotations

from pathlib import Path

import click

from busmt.cli.common import json_option, print_json, say


@click.command(
    epilog="""\b
Examples:
  busmt report runs/busi
  busmt report runs/busi-fold0 runs/busi-fold1 runs/busi-fold2 --out report.html
"""
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="HTML file  [default: in the run]")
@json_option
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write the report and the model card of an evaluated RUN, or of the runs of several folds.

    The report is one HTML file that needs no network. External cohorts that the first run was evaluated on
    are part of it. The model card is written beside the run's files, as Markdown and as JSON. For several
    runs, their metrics and per-image table together are written beside the report.
    """
    from busmt.evaluation.card import write_card
    from busmt.evaluation.report import write_report
    from busmt.training.run import Run

    opened = [Run.open(run) for run in runs]
    page = write_report(opened, out)
    cards = [file for run in opened for file in write_card(run)]
    if as_json:
        print_json({"report": str(page), "model_cards": [str(file) for file in cards]})
    else:
        say(f"report: {page}")
        for file in cards:
            say(f"model card: {file}")
