"""busmt crossval"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from busmt.cli.common import json_option, print_json, progress, quiet_start, require_plain_name, say
from busmt.config import ARCHITECTURES, PRESETS
from busmt.errors import ConfigError


@click.command(
    epilog="""\b
Examples:
  busmt crossval --data path/to/Dataset_BUSI_with_GT --name p1
  busmt crossval --data path/to/Dataset_BUSI_with_GT --name p1 --fold 3 --fold 4
  busmt crossval --data path/to/Dataset_BUSI_with_GT --name p1x3 --members 3
  busmt crossval --data path/to/BUS-BRA --start runs/p3-fold{fold} --config larger.yaml --name p3-larger
  busmt crossval --name p1 --merge
  busmt crossval --average p1 --average p1x3 --name both
  busmt crossval --average p3 --mirror --name p3-mirror
  busmt crossval --data path/to/BUS-BRA --config p3.yaml --name p3 --json
  busmt crossval --data path/to/Dataset_BUSI_with_GT --model unet --name unet
"""
)
@click.option("--name", required=True, help="Of the experiment; results go to RESULTS/NAME/fold_K.json.")
@click.option("--data", metavar="PATH", help="BUSI or BUS-BRA folder, or a catalog CSV. Default: synthetic phantoms.")
@click.option("--cohort", type=click.Choice(["auto", "busi", "bus-bra", "csv"]), help="How to read --data.")
@click.option(
    "--model", type=click.Choice(ARCHITECTURES), metavar="NAME", help="What to train; see busmt train --help."
)
@click.option("--preset", type=click.Choice(PRESETS), help="Size of it all. Default: small; tiny for phantoms.")
@click.option("--config", "config_file", metavar="FILE", help="YAML file on top of the preset; options win over it.")
@click.option("--curated", metavar="FILE", help="Name list of the samples to use, or a built-in list's name.")
@click.option("--folds", metavar="FILE", help="folds.csv of an earlier run, to use the same split.")
@click.option(
    "--fold", "only", type=int, multiple=True, help="A fold to compute, from 0; may be repeated. Default: all."
)
@click.option("--epochs", type=int, help="Largest number of epochs.")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation.")
@click.option("--members", type=int, help="Trainings of each fold whose weights are averaged. Default: 1.")
@click.option(
    "--start",
    metavar="RUN",
    help="Start every fold from the weights of this finished run; {fold} in its name stands for the fold's number.",
)
@click.option(
    "--average",
    metavar="NAME",
    multiple=True,
    help="Train nothing: the network of each fold averages the answers of those of this and other experiments.",
)
@click.option("--mirror", is_flag=True, help="With --average: over each image and its mirror image as well.")
@click.option("--results", default="results", show_default=True, metavar="DIR", help="Where results go.")
@click.option("--runs", default="runs", show_default=True, metavar="DIR", help="Where run folders go.")
@click.option("--merge", is_flag=True, help="Compute nothing: put the fold files that are there together.")
@json_option
def crossval(
    name: str,
    preset: str | None,
    config_file: str | None,
    only: tuple[int, ...],
    results: str,
    runs: str,
    average: tuple[str, ...],
    mirror: bool,
    merge: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train and test every fold, and pool the results.

    Each fold picks its checkpoint, threshold and temperature on validation images of its own training side; its
    test images are scored once. A finished fold leaves a small file that can be shared; finished folds are
    skipped, and an interrupted one goes on, when the same command is given again. Fold files of one experiment that
    were computed elsewhere count as finished here.
    """
    from busmt.training.crossval import average_experiments, cross_validate, pool_folds, run_fold

    require_plain_name(name, "--results")
    if mirror and not average:
        raise ConfigError("--mirror averages answers of finished networks; name their experiment with --average")
    settings = {"config": config_file, "preset": preset, **flags}
    if merge:
        _refuse({"fold": only, "average": average, **settings}, "--merge computes nothing")
        outcome = pool_folds(Path(results) / name)
    elif average:
        _refuse(settings, "--average trains nothing")
        quiet_start()
        outcome = average_experiments(average, name, mirror=mirror, results=results, runs=runs, only=only, say=say)
    else:
        from busmt.cli.display import TrainingDisplay
        from busmt.cli.train import configure, with_available_encoder

        quiet_start()
        config = with_available_encoder(configure(preset, config_file, flags))
        run_one = partial(run_fold, stage=progress, display=TrainingDisplay)
        outcome = cross_validate(config, name, run_one, results=results, runs=runs, only=only, say=say)
    if as_json:
        print_json(outcome.evaluation.metrics)
        return
    _print(outcome)


def _refuse(options: dict[str, Any], why: str) -> None:
    given = [option for option, value in options.items() if value not in (None, ())]
    if given:
        raise ConfigError(f"{why}; leave out --{given[0]}")


def _print(outcome: Any) -> None:
    from busmt.cli.compare import print_folds
    from busmt.cli.evaluate import print_table
    from busmt.evaluation.headline import headline
    from busmt.evaluation.protocol import METRICS_FILE

    metrics = outcome.evaluation.metrics
    facts = metrics["cross_validation"]
    counts = f"{metrics['images']} test images of {metrics['groups']} groups"
    print_table(headline(metrics), f"{outcome.name}: {counts}, {len(outcome.done)} folds")
    print_folds({outcome.name: facts["by_fold"]})
    if facts["cpu_hours"] is not None:
        say(f"training took {facts['cpu_hours']:.2f} CPU hours")
    if outcome.missing:
        say(f"not finished: folds {', '.join(map(str, outcome.missing))}; the same command computes them")
    say(f"metrics: {outcome.folder / METRICS_FILE}")
