"""busmt info"""

from __future__ import annotations

from typing import Any

import click

from busmt.cli.common import json_option, print_json


@click.command(
    epilog="""\b
Examples:
  busmt info runs/busi
  busmt info runs/busi --json
"""
)
@click.argument("run", metavar="RUN")
@json_option
def info(run: str, as_json: bool) -> None:
    """Show what a run was trained on, and its result."""
    from busmt.training.run import Run

    facts = collect(Run.open(run))
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def collect(run: Any) -> dict[str, Any]:
    """The facts of a run as plain types."""
    import json

    folds, history, environment = run.folds(), run.history(), run.environment()
    counts = folds.groupby(["part", "label"]).size().unstack(fill_value=0)
    metrics_path = run.path / "metrics.json"
    return {
        "run": str(run.path),
        "state": "finished" if run.finished else f"interrupted after {len(history)} epochs",
        "started": environment.get("started"),
        "command": environment.get("command"),
        "data": {"path": run.config.data.path or "synthetic phantoms", **environment.get("data", {})},
        "test_fold": None if run.config.folds.fold is None else f"{run.config.folds.fold} of {folds['fold'].nunique()}",
        "parts": {part: {name: int(n) for name, n in row.items()} for part, row in counts.iterrows()},
        "network": run.config.to_dict()["network"],
        "epochs": len(history),
        "seed": run.config.training.seed,
        "versions": {"busmt": environment.get("busmt"), **environment.get("packages", {})},
        "validation": run.calibration(),
        "test": json.loads(metrics_path.read_text(encoding="utf-8")) if metrics_path.exists() else None,
    }


def _print(facts: dict[str, Any]) -> None:
    from busmt.training.session import scores_in_words

    data = facts["data"]
    click.echo(f"{facts['run']}: {facts['state']}, {facts['epochs']} epochs, seed {facts['seed']}")
    click.echo(f"started    {facts['started']}  {' '.join(facts['command'] or [])}")
    click.echo(f"data       {data['path']} ({data.get('images')} images after curation)")
    for part in ("train", "validation", "test"):
        row = facts["parts"].get(part, {})
        text = ", ".join(f"{count} {name}" for name, count in row.items())
        click.echo(f"{part:<10} {sum(row.values())} images ({text})")
    network = facts["network"]
    tasks = "mask and label" if network["tasks"] == "both" else f"{network['tasks']} alone"
    click.echo(
        f"network    {network['architecture']}, {tasks}, {network['encoder']}, "
        f"{network['input_size']}x{network['input_size']}, "
        f"attention {'on' if network['attention'] else 'off'}, refinement {network['refinement']}"
    )
    validation = facts["validation"].get("validation")
    if validation:
        best = facts["validation"]["best_epoch"] + 1
        click.echo(f"validation {scores_in_words(validation)} (best epoch {best})")
    _print_test(facts)


def _print_test(facts: dict[str, Any]) -> None:
    if facts["test"] is None:
        click.echo(f"test       not evaluated yet: busmt evaluate {facts['run']}")
        return
    from busmt.evaluation.headline import headline

    for line in headline(facts["test"]):
        if line.main:
            click.echo(f"test       {line.name:<32} {line.value:>7}  {line.interval}")
