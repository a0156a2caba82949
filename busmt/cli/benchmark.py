"""busmt benchmark"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from busmt.cli.common import json_option, print_json, progress, quiet_start, say


@click.group(
    epilog="""\b
Examples:
  busmt benchmark latency runs/busi
  busmt benchmark latency runs/busi --export exports/busi --json
"""
)
def benchmark() -> None:
    """Measure a model on this machine."""


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


def _line(row: Any) -> str:
    threads = "default" if row.threads is None else str(row.threads)
    spread = f"{row.low:.1f} to {row.high:.1f}"
    return f"{row.name:<38} {threads:>7} {row.median:>10.1f} {spread:>16} {row.ratio:>14.1f}"
