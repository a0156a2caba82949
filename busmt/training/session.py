"""Train, or take up what is there: what a script or a notebook can call again and again."""

from __future__ import annotations

import os
from collections.abc import Mapping

from busmt.config import Config
from busmt.training.prepare import open_or_prepare
from busmt.training.run import Run


def train_or_resume(config: Config, folder: str | os.PathLike[str], *, verbose: bool = True) -> Run:
    """A finished run of this configuration: trained anew, continued, or found as it is.

    Args:
        config: the whole configuration.
        folder: the run folder; made where it does not exist.
        verbose: print a line per epoch.

    Raises:
        RunError: the folder holds a run of another configuration, or training fails.
        DataError, ConfigError: the data or the split cannot be used.
    """
    run = open_or_prepare(config, folder)
    if not run.finished:
        from busmt.training.loop import SilentReporter, train

        train(run, EpochPrinter() if verbose else SilentReporter())
    return run


class EpochPrinter:
    """A `busmt.training.loop.Reporter` that prints a line per epoch; a star marks the best so far."""

    def step(self, epoch: int, step: int, losses: dict[str, float]) -> None:
        """Nothing is printed within an epoch."""

    def epoch(self, row: dict[str, float], best: bool) -> None:
        """Losses and the scores on validation."""
        scores = f"validation {scores_in_words(row)}{' *' if best else ''}"
        print(f"epoch {int(row['epoch']) + 1}: loss {row['loss']:.3f}, {scores}")

    def warn(self, text: str) -> None:
        """A message for the user."""
        print(f"warning: {text}")


def scores_in_words(scores: Mapping[str, float]) -> str:
    """Dice and balanced accuracy on validation, as far as the network has the task."""
    names = {"val_dice": "Dice", "val_balanced_accuracy": "balanced accuracy"}
    return ", ".join(f"{title} {scores[name]:.3f}" for name, title in names.items() if name in scores)
