"""The display of a training: a live bar with the time that is left, and one line per epoch."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from busmt.cli.common import one_line

if TYPE_CHECKING:
    from busmt.training.run import Run


_LOSSES = {"loss": "loss", "mask_loss": "mask", "label_loss": "class"}
_SCORES = {
    "val_dice": "Dice", "val_balanced_accuracy": "balanced accuracy", "val_auroc": "AUROC", "val_score": "score",
}  # fmt: skip
"""Columns of the history to their titles; a network with one task lacks some."""


class TrainingDisplay:
    """A `busmt.training.loop.Reporter` on stderr."""

    def __init__(self, run: Run):
        self.epochs = run.config.training.epochs
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self.task = self.bar.add_task("starting", total=float(self.epochs), completed=len(run.history()))
        self.steps = 0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(self, epoch: int, step: int, losses: dict[str, float]) -> None:
        """Move the bar; the length of an epoch is known after the first."""
        within = min(step / self.steps, 1.0) if self.steps else 0.0
        text = f"epoch {epoch + 1}/{self.epochs} step {step} loss {losses.get('loss', float('nan')):.3f}"
        self.bar.update(self.task, completed=epoch + within, description=text)
        self.last_step = step

    def epoch(self, row: dict[str, float], best: bool) -> None:
        """One line per epoch; a star marks the best so far."""
        self.steps = self.last_step
        losses, scores = (
            "  ".join(f"{title} {row[name]:.3f}" for name, title in names.items() if name in row)
            for names in (_LOSSES, _SCORES)
        )
        self.console.print(
            f"epoch {int(row['epoch']) + 1:3d}/{self.epochs}  {losses}  |  validation: {scores}{' *' if best else ''}"
        )
        self.bar.update(self.task, completed=row["epoch"] + 1)

    def warn(self, text: str) -> None:
        """A message above the bar."""
        self.console.print(one_line(f"warning: {text}"), markup=False)
