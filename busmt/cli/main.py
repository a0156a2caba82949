"""The `busmt` command. Commands are imported when they are called, so that --help is quick."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from busmt._version import __version__
from busmt.cli.common import say
from busmt.errors import BusmtError, MissingPackageError

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("busmt.cli.train", "Train a model on phantoms, BUSI, BUS-BRA or a CSV."),
    "crossval": ("busmt.cli.crossval", "Train and test every fold, and pool the results."),
    "ensemble": ("busmt.cli.ensemble", "Average the networks of finished runs."),
    "evaluate": ("busmt.cli.evaluate", "Score a trained model on its test fold."),
    "report": ("busmt.cli.report", "Write the report and the model card of evaluated runs."),
    "compare": ("busmt.cli.compare", "Compare evaluated runs on the same images."),
    "predict": ("busmt.cli.predict", "Segment and classify images."),
    "explain": ("busmt.cli.explain", "Show where the network looked."),
    "export": ("busmt.cli.export", "Write a SavedModel, TFLite files or the tablet app."),
    "serve": ("busmt.cli.serve", "Serve a SavedModel on this machine."),
    "benchmark": ("busmt.cli.benchmark", "Measure a model on this machine."),
    "reproduce": ("busmt.cli.reproduce", "Train a run again and tell whether it comes out the same."),
    "info": ("busmt.cli.info", "Show what a run was trained on, and its result."),
    "curate": ("busmt.cli.curate", "Find duplicates and contradictions in a cohort."),
    "volumes": ("busmt.cli.volumes", "Train the 3-D network on synthetic or own volumes."),
    "phantoms": ("busmt.cli.phantoms", "Write a folder of synthetic ultrasound images."),
    "data": ("busmt.cli.data", "Download public cohorts."),
}
"""Command name to its module, which holds a click command of the same name, and its line in --help."""


class LazyGroup(click.Group):
    """A click group that imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[name][0]), name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Not a medical device: for research, not for diagnosis.",
)
@click.version_option(__version__, prog_name="busmt")
def cli() -> None:
    """Breast-ultrasound multi-task learning: lesion mask and class in one pass.

    \b
    Examples:
      busmt train                                       # synthetic phantoms, minutes
      busmt train --data path/to/Dataset_BUSI_with_GT   # the real thing
      busmt evaluate runs/NAME
      busmt predict image.png --model runs/NAME
      busmt export runs/NAME --to exports/
    """


def main() -> None:
    """Console entry: expected errors become one line on stderr and exit code 2."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except BusmtError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "busmt").split(".")[0] == "busmt":
            raise
        _fail(MissingPackageError.of(error, " ".join(["busmt", *sys.argv[1:2]])))
    except (click.Abort, KeyboardInterrupt):
        click.echo("busmt: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def _fail(error: BusmtError) -> NoReturn:
    say(f"busmt: error: {error}")
    sys.exit(2)


if __name__ == "__main__":
    main()
