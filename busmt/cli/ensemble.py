"""busmt ensemble"""

from __future__ import annotations

from pathlib import Path

import click

from busmt.cli.common import json_option, print_json, quiet_start, require_plain_name, say


@click.command(
    epilog="""\b
Examples:
  busmt ensemble runs/p1-fold0 runs/p1-fold1 runs/p1-fold2 --name p1-ensemble
  busmt ensemble runs/p1-fold* --weights --name p1-average
  busmt ensemble runs/busi --mirror --name busi-mirror
  busmt evaluate runs/p1-ensemble --data path/to/BUS-BRA
"""
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option("--name", required=True, help="Of the new run.")
@click.option("--runs", "parent", default="runs", show_default=True, metavar="DIR", help="Where its folder goes.")
@click.option("--mirror", is_flag=True, help="Average over each image and its mirror image as well; twice the time.")
@click.option("--weights", is_flag=True, help="Average weights instead of answers: as small and quick as one member.")
@json_option
def ensemble(runs: tuple[Path, ...], name: str, parent: str, mirror: bool, weights: bool, as_json: bool) -> None:
    """Put finished runs on the same images together: one network that averages theirs.

    The new run is used as any other: predict, evaluate, export, serve. Images that a member was trained on are no test
    for it: the runs of all folds of a cohort can be tested on another cohort alone.

    Answers can be averaged of any networks with the same input; the result takes as long as its members together.
    Weights can be averaged where networks set out from the same ones: one configuration and training seed, other folds.
    """
    quiet_start()
    from busmt.training.ensemble import make_ensemble
    from busmt.training.run import Run

    require_plain_name(name, "--runs")
    made = make_ensemble([Run.open(run) for run in runs], Path(parent) / name, mirror=mirror, weights=weights)
    parts = made.folds()["part"].value_counts()
    if as_json:
        print_json({"run": str(made.path), "members": [str(run) for run in runs], "parts": parts.to_dict()})
        return
    what = "weights" if weights else "answers, also to mirror images," if mirror else "answers"
    say(f"{made.path}: {what} of {len(runs)} networks averaged; {parts.get('test', 0)} images are new to all of them")
