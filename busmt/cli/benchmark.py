"""busmt benchmark"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from busmt.cli.common import json_option, print_json, progress, quiet_start, require_plain_name, say
from busmt.config import ARCHITECTURES, OURS, merge
from busmt.errors import ConfigError


def _data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a table of trainings: how much, on what."""
    for option in (
        click.option("--cohort", type=click.Choice(["auto", "busi", "bus-bra", "csv"]), help="How to read --data."),
        click.option(
            "--data", metavar="PATH", help="BUSI or BUS-BRA folder, or a catalog CSV. Default for quick: phantoms."
        ),
        click.option(
            "--preset", type=click.Choice(["quick", "full"]), default="quick", show_default=True, help="How much."
        ),
    ):
        command = option(command)
    return command


def _table_options(name: str, row: str, seeds: tuple[int, ...]) -> Callable[..., Any]:
    """Options of a table of trainings: settings and places; what a row is and the table's name go into the help."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            json_option,
            click.option("--runs", default="runs", show_default=True, metavar="DIR", help="Where run folders go."),
            click.option("--results", default="results", show_default=True, metavar="DIR", help="Where results go."),
            click.option("--name", help=f"Of the table; it goes to RESULTS/NAME/accuracy.md. Default: {name}-PRESET."),
            click.option(
                "--config", "config_file", metavar="FILE", help=f"YAML file on top of the preset, for every {row}."
            ),
            click.option("--epochs", type=int, help="Largest number of epochs."),
            click.option(
                "--seed", "seeds", type=int, multiple=True, default=seeds, show_default=True, help="Repeatable."
            ),
        ):
            command = option(command)
        return command

    return decorate


@click.group(
    epilog="""\b
Examples:
  busmt benchmark latency runs/busi
  busmt benchmark latency runs/busi --export exports/busi --json
  busmt benchmark accuracy --preset quick --system unet
"""
)
def benchmark() -> None:
    """Measure a model on this machine, or systems against each other."""


@benchmark.command(
    epilog="""\b
Examples:
  busmt benchmark latency runs/busi
  busmt benchmark latency runs/busi --export exports/busi --rounds 100 --json
\b
Every contender is called in every round, in turn: compare the ratios within a table. ONNX Runtime and
OpenVINO need the extra "benchmark"; what is not installed is named. TensorFlow uses its own number of threads.
"""
)
@click.argument("run", metavar="RUN")
@click.option("--export", metavar="DIR", help="An export of the run. Default: make one first, which takes minutes.")
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 256),
    default=(1, 2),
    show_default=True,
    help="Threads of TFLite, ONNX Runtime and OpenVINO; may be given more than once.",
)
@click.option("--rounds", type=click.IntRange(3), default=40, show_default=True, help="Calls that are counted.")
@json_option
def latency(run: str, export: str | None, threads: tuple[int, ...], rounds: int, as_json: bool) -> None:
    """Time for one image: Keras, SavedModel, TFLite variants, and other runtimes."""
    quiet_start()
    from busmt.deployment.latency import benchmark_run
    from busmt.errors import ExportError
    from busmt.training.run import Run

    opened = Run.open(run)
    if export is not None and not Path(export).is_dir():
        raise ExportError(f"{export}: no such folder; make it with: busmt export {run} --to {export}")
    with tempfile.TemporaryDirectory() as scratch, progress("Measuring") as advance:
        result = benchmark_run(opened, Path(export or scratch), threads, rounds, say, advance)
    if as_json:
        print_json(result.to_dict())
        return
    versions = ", ".join(f"{name} {version}" for name, version in result.machine["versions"].items())
    click.echo(f"{result.machine['processor']}, {result.machine['cores']} cores; {versions}")
    click.echo(f"{'one image':<38} {'threads':>7} {'median ms':>10} {'quartiles ms':>16} {'times as fast':>14}")
    for row in result.rows:
        click.echo(_line(row))
    for missing in result.skipped:
        click.echo(f"{missing.name:<38} skipped: {missing.reason}")
    say(f"ratios to {result.rows[0].name}; {result.rows[0].calls} counted calls each, interleaved")


@benchmark.command(
    epilog="""\b
Examples:
  busmt benchmark accuracy --preset quick
  busmt benchmark accuracy --preset quick --system unet --system classifier --json
  busmt benchmark accuracy --preset full --data path/to/Dataset_BUSI_with_GT --name busi
  busmt benchmark accuracy --preset full --data path/to/Dataset_BUSI_with_GT --fold 0 --fold 1 --name two-folds
  KERAS_BACKEND=torch busmt benchmark accuracy --preset full --data path/to/Dataset_BUSI_with_GT --published-widths
\b
The systems are those of `busmt train --help`; busmt itself is always among them. quick: phantoms, two folds, four
epochs, to see that all works. full: all folds and epochs of the preset small of `busmt train`, on --data. The same
command goes on where it was interrupted.
"""
)
@_data_options
@click.option("--curated", metavar="FILE", help="Name list of the samples to use, or a built-in list's name.")
@click.option("--folds", metavar="FILE", help="folds.csv of an earlier run, to use the same split.")
@click.option("--system", "systems", type=click.Choice(ARCHITECTURES), multiple=True, help="Repeatable. Default: all.")
@click.option("--fold", "only", type=int, multiple=True, help="A fold to compute, from 0; repeatable. Default: all.")
@click.option(
    "--published-widths",
    is_flag=True,
    help="Systems as wide as published, where that is known, instead of all as wide as ours: mostly for GPUs.",
)
@click.option("--rounds", type=click.IntRange(0), default=20, show_default=True, help="Timed calls; 0: no times.")
@_table_options("accuracy", "system", seeds=(0,))
def accuracy(
    preset: str,
    systems: tuple[str, ...],
    only: tuple[int, ...],
    published_widths: bool,
    seeds: tuple[int, ...],
    config_file: str | None,
    name: str | None,
    rounds: int,
    results: str,
    runs: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Systems under one protocol: the same images, folds, budget and seeds, in one table."""
    size, base = _begin(preset, flags["data"], name)
    from busmt.cli.display import TrainingDisplay
    from busmt.cli.train import configure, with_available_encoder
    from busmt.deployment.accuracy import benchmark_accuracy
    from busmt.model.baselines import published_width
    from busmt.training.crossval import run_fold

    configs = {
        system: with_available_encoder(
            configure(
                size,
                config_file,
                {**flags, "model": system},
                base=merge(base, published_width(system) if published_widths else {}),
            )
        )
        for system in dict.fromkeys((OURS, *(systems or ARCHITECTURES)))
    }
    table = benchmark_accuracy(
        configs,
        name or f"accuracy-{preset}",
        partial(run_fold, stage=progress, display=TrainingDisplay),
        seeds=tuple(dict.fromkeys(seeds)),
        only=tuple(dict.fromkeys(only)),
        results=results,
        runs=runs,
        rounds=rounds,
        say=say,
    )
    _show(table, as_json)


@benchmark.command(
    epilog="""\b
Examples:
  busmt benchmark ablation
  busmt benchmark ablation --part hard-rules --part no-refinement --json
  busmt benchmark ablation --data path/to/Dataset_BUSI_with_GT --start runs/bus-bra --name parts
\b
Rows: no-attention, hard-rules, no-refinement, no-repetition, mask-alone, class-alone, no-curation, no-imagenet, and
with --start cohort-pretraining. All have the same folds, in which nothing is on both sides of a split, and are
compared on the images that the curation keeps. The same command goes on where it was interrupted.
"""
)
@_data_options
@click.option("--part", "parts", multiple=True, metavar="NAME", help="A row; repeatable. Default: all that there are.")
@click.option("--start", metavar="RUN", help="A finished run on another cohort, for the row cohort-pretraining.")
@click.option("--fold", "only", type=int, multiple=True, default=(0, 1), show_default=True, help="Repeatable.")
@_table_options("ablation", "row", seeds=(0, 1))
def ablation(
    preset: str,
    parts: tuple[str, ...],
    start: str | None,
    only: tuple[int, ...],
    seeds: tuple[int, ...],
    config_file: str | None,
    name: str | None,
    results: str,
    runs: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Our system and the same without one of its parts, in one table."""
    size, base = _begin(preset, flags["data"], name)
    from busmt.cli.display import TrainingDisplay
    from busmt.cli.train import configure, with_available_encoder
    from busmt.deployment.ablation import ablate
    from busmt.training.crossval import run_fold

    table = ablate(
        with_available_encoder(configure(size, config_file, flags, base=base)),
        name or f"ablation-{preset}",
        partial(run_fold, stage=progress, display=TrainingDisplay),
        parts=tuple(dict.fromkeys(parts)),
        start=start,
        seeds=tuple(dict.fromkeys(seeds)),
        only=tuple(dict.fromkeys(only)),
        rounds=0,
        results=results,
        runs=runs,
        say=say,
    )
    _show(table, as_json)


def _begin(preset: str, data: str | None, name: str | None) -> tuple[str, Mapping[str, Any]]:
    """Check what can be checked before TensorFlow is there; the preset of `busmt train`, and what is set beneath it."""
    if preset == "full" and not data:
        raise ConfigError("--preset full compares on real images; name them with --data")
    if name:
        require_plain_name(name, "--results")
    quiet_start()
    from busmt.deployment.accuracy import QUICK

    return ("tiny", QUICK) if preset == "quick" else ("small", {})


def _show(table: dict[str, Any], as_json: bool) -> None:
    from busmt.deployment.accuracy import as_markdown

    if as_json:
        print_json(table)
    else:
        click.echo(as_markdown(table), nl=False)
    say(f"table: {Path(table['folder']) / 'accuracy.md'}, .csv and .json; figure: accuracy.png and .svg")


def _line(row: Any) -> str:
    threads = "default" if row.threads is None else str(row.threads)
    spread = f"{row.low:.1f} to {row.high:.1f}"
    return f"{row.name:<38} {threads:>7} {row.median:>10.1f} {spread:>16} {row.ratio:>14.1f}"
