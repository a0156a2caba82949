"""busmt reproduce"""

from __future__ import annotations

from pathlib import Path

import click

from busmt.cli.common import json_option, print_json, quiet_start, say


@click.command(
    epilog="""\b
Examples:
  busmt reproduce runs/busi
  busmt reproduce runs/busi --to /tmp/busi-again --json
\b
Exit code 0: every number of history.csv, calibration.json and model.keras is the same, bit for bit.
Exit code 1: they differ; the first difference is named.
"""
)
@click.argument("run", metavar="RUN")
@click.option("--to", metavar="DIR", help="Folder for the repetition; must not exist.  [default: RUN-again]")
@json_option
def reproduce(run: str, to: str | None, as_json: bool) -> int:
    """Train a finished run again and tell whether it comes out the same.

    The repetition uses the run's configuration, images, folds and start.
    """
    quiet_start()
    from busmt.cli.display import TrainingDisplay
    from busmt.training.reproduce import describe_difference
    from busmt.training.reproduce import reproduce as repeat
    from busmt.training.run import Run

    opened = Run.open(run)
    folder = Path(to) if to else opened.path.resolve().with_name(f"{opened.name}-again")
    with TrainingDisplay(opened) as display:
        result = repeat(opened, folder, display)
    for difference in result.environment:
        say(f"another environment: {difference}")
    if as_json:
        print_json(result.to_dict())
    elif result.matches:
        click.echo(f"{opened.path} and {result.again} match: history, calibration and all weights, bit for bit")
    else:
        click.echo(f"{opened.path} and {result.again} differ, first in {describe_difference(result.differences[0])}")
        if not result.promised:
            say("the run was trained with training.deterministic: false, which promises no match")
    return 0 if result.matches else 1
