"""The training itself: epochs, validation, checkpoints, resume, and the finished network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import pandas as pd

from busmt.data.pipeline import read_samples, steps_per_epoch, training_dataset
from busmt.data.tables import write_table
from busmt.errors import DataError, RunError
from busmt.model.network import build_network
from busmt.training import determinism
from busmt.training.checkpoint import read_checkpoint, write_checkpoint
from busmt.training.environment import describe, differences
from busmt.training.interrupt import Interrupts
from busmt.training.run import CALIBRATION, CHECKPOINTS, ENVIRONMENT, HISTORY, LOGS, MODEL, Run
from busmt.training.start import refuse_seen, start_from
from busmt.training.trainer import MultiTaskTrainer, compile_trainer
from busmt.training.validation import ValidationSet, calibrate

_KEPT = 2
"""Checkpoints that are kept, so that one may be damaged."""


class Reporter(Protocol):
    """What a display of the training is told."""

    def step(self, epoch: int, step: int, losses: dict[str, float]) -> None: ...

    def epoch(self, row: dict[str, float], best: bool) -> None: ...

    def warn(self, text: str) -> None: ...


class SilentReporter:
    """Says nothing."""

    def step(self, epoch: int, step: int, losses: dict[str, float]) -> None:
        """Called after each step."""

    def epoch(self, row: dict[str, float], best: bool) -> None:
        """Called after each epoch with its row of the history."""

    def warn(self, text: str) -> None:
        """Called with a message for the user."""


def train(run: Run, reporter: Reporter | None = None) -> Run:
    """Train a prepared or interrupted run to its end.

    After each epoch the averaged weights are scored on the validation part, and the whole state is written:
    a run that is stopped at any moment goes on from its last epoch, and ends as if it had never been
    stopped, because the data of an epoch depend on nothing but (catalog, seed, epoch).

    Raises:
        RunError: already finished, being trained by another process, no sound checkpoint fits the network, the loss
            is no longer a number, a file cannot be read or written (a full disk, say), or the data are no longer
            those of its start.
    """
    reporter = reporter or SilentReporter()
    if run.finished:
        raise RunError(f"{run.path}: training has finished; evaluate it with: busmt evaluate {run.path}")
    with _one_line_errors(run), run.locked():
        _train(run, reporter)
    return run


def _train(run: Run, reporter: Reporter) -> None:
    config = run.config
    recorded = run.environment()
    threads, cores = recorded.get("threads", {}).get("intra_op"), determinism.usable_cores()
    determinism.prepare(config.training.seed, config.training.deterministic, threads)
    if config.training.deterministic and (threads or 0) > cores:
        reporter.warn(
            f"training uses {threads} threads, as recorded, on fewer usable cores ({cores}): the result is the same, "
            "but it takes longer"
        )
    if config.training.deterministic and not determinism.possible():
        reporter.warn(
            f"with Keras on {keras.backend.backend()}, a repetition comes near this result, not to the same bits; "
            "training.deterministic holds for TensorFlow"
        )
    size, batch = config.network.input_size, config.training.batch_size
    training, validation = run.part("train"), run.part("validation")
    network = build_network(config.network)
    if config.training.start and not any((run.path / CHECKPOINTS).glob("epoch_*.npz")):
        _start(run, network)
    steps = steps_per_epoch(training, config)
    trainer = compile_trainer(network, config, steps)
    keeper = _Keeper(run, trainer, ValidationSet(*read_samples(validation, size), validation.labels, batch), reporter)
    first = keeper.restore()
    if "backend" in recorded:  # a training was here before
        _note_resume(run, reporter, first)
    else:
        _record(run, _device())
    if first < config.training.epochs and not keeper.exhausted:
        data = training_dataset(training, config, first_epoch=first)
        board = keras.callbacks.TensorBoard(run.path / LOGS, write_graph=False)
        with Interrupts() as interrupts:
            trainer.fit(
                data,
                epochs=config.training.epochs,
                initial_epoch=first,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=[keeper, board, _Steps(reporter), interrupts],
            )
    _finish(run, keeper)


class _Keeper(keras.callbacks.Callback):
    """Validates, keeps the best weights, writes history and checkpoints, stops early."""

    def __init__(self, run: Run, trainer: MultiTaskTrainer, validation: ValidationSet, reporter: Reporter):
        super().__init__()
        self.run, self.trainer, self.validation, self.reporter = run, trainer, validation, reporter
        self.history: list[dict[str, float]] = []
        self.spent, self.started = run.environment().get("cpu_seconds", 0.0), time.process_time()
        self.best_score, self.best_epoch = -np.inf, -1

    @property
    def folder(self) -> Path:
        return self.run.path / CHECKPOINTS

    def best_path(self, epoch: int) -> Path:
        """File of the averaged weights of an epoch that was the best so far."""
        return self.folder / f"best_{epoch:05d}.npz"

    @property
    def exhausted(self) -> bool:
        """Whether no epoch was better for as long as is allowed."""
        return len(self.history) - 1 - self.best_epoch >= self.run.config.training.patience

    @property
    def cpu_seconds(self) -> float:
        """Processor time of this training up to now, of all its sittings, over all cores."""
        return self.spent + time.process_time() - self.started

    def restore(self) -> int:
        """Load the newest sound state; returns the epoch to go on with."""
        for path in sorted(self.folder.glob("epoch_*.npz"), reverse=True):
            try:
                meta = read_checkpoint(path, self._state())
            except RunError as error:
                self.reporter.warn(f"{error}; trying the one before")
                continue
            self.history = meta["history"]
            self.best_score, self.best_epoch = meta["best_score"], meta["best_epoch"]
            self._write_history()
            return len(self.history)
        if any(self.folder.glob("epoch_*.npz")):
            raise RunError(f"{self.folder}: no checkpoint can be used; start again with another --name")
        return 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs if logs is not None else {}
        if not np.isfinite(logs.get("loss", 0.0)):
            raise RunError(
                f"{self.run.path}: the loss is not a number in epoch {epoch + 1}; "
                "start again with a lower training.learning_rate or training.clip_norm"
            )
        with averaged_weights(self.trainer):
            outputs = self.validation.outputs(self.trainer.network)
            scores = self.validation.score_answers(outputs) | {"val_loss": self.validation.loss(self.trainer, outputs)}
            value = self._merit({"epoch": epoch, **scores})
            best = value > self.best_score
            if best:
                self.best_score, self.best_epoch = value, epoch
                write_checkpoint(self.best_path(epoch), {"network": self.trainer.network.weights}, {"epoch": epoch})
        logs.update(scores)  # shared with the TensorBoard callback
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        self.history.append(row)
        self._write_history()
        meta = {"history": self.history, "best_score": self.best_score, "best_epoch": self.best_epoch}
        _record(self.run, {"cpu_seconds": round(self.cpu_seconds, 1)})  # no part of the state, which is compared
        write_checkpoint(self.folder / f"epoch_{epoch:05d}.npz", self._state(), meta)
        self._tidy()
        self.reporter.epoch(row, best)
        if self.exhausted:
            self.trainer.stop_training = True

    def _tidy(self) -> None:
        """Keep the newest checkpoints, and the best weights that each of them speaks of."""
        checkpoints = sorted(self.folder.glob("epoch_*.npz"))
        for old in checkpoints[:-_KEPT]:
            old.unlink()
        values = [self._merit(row) for row in self.history]
        last = [int(path.stem.removeprefix("epoch_")) for path in checkpoints[-_KEPT:]]
        needed = {self.best_path(int(np.argmax(values[: epoch + 1]))) for epoch in last}
        for old in set(self.folder.glob("best_*.npz")) - needed:
            old.unlink()

    def _merit(self, row: dict[str, float]) -> float:
        """What is largest in the epoch whose weights are kept."""
        choose = self.run.config.training.choose
        if choose == "last":
            return row["epoch"]
        return row["val_score"] if choose == "score" else -row["val_loss"]

    def _state(self) -> dict[str, list[Any]]:
        extra = [] if self.trainer.log_variances is None else [self.trainer.log_variances]
        return {
            "network": self.trainer.network.variables,
            "tasks": extra,
            "optimizer": self.trainer.optimizer.variables,
        }

    def _write_history(self) -> None:
        write_table(self.run.path / HISTORY, pd.DataFrame(self.history))


class _Steps(keras.callbacks.Callback):
    def __init__(self, reporter: Reporter):
        super().__init__()
        self.reporter, self.epoch = reporter, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.reporter.step(self.epoch, batch + 1, logs or {})


@contextlib.contextmanager
def averaged_weights(trainer: MultiTaskTrainer) -> Iterator[None]:
    """Put the exponential moving average of the weights in place, and the weights back afterwards."""
    averages = getattr(trainer.optimizer, "_model_variables_moving_average", None)
    if not trainer.optimizer.use_ema or not averages:
        yield
        return
    variables = trainer.trainable_variables
    own = [np.array(variable.numpy()) for variable in variables]
    for variable, average in zip(variables, averages, strict=True):
        # on JAX the network's step frees its weights: give it a copy
        variable.assign(np.array(average.numpy()))
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def _finish(run: Run, keeper: _Keeper) -> None:
    """Best weights, threshold and temperature from validation, final network under its final name."""
    network, validation = keeper.trainer.network, keeper.validation
    read_checkpoint(keeper.best_path(keeper.best_epoch), {"network": network.weights})
    run.write_json(CALIBRATION, calibrate(network, validation) | {"best_epoch": keeper.best_epoch})
    _record(run, {"cpu_seconds": round(keeper.cpu_seconds, 1)})
    draft = run.path / f".draft.{MODEL}"
    network.save(draft)
    draft.replace(run.path / MODEL)


@contextlib.contextmanager
def _one_line_errors(run: Run) -> Iterator[None]:
    """What busmt, Keras and TensorFlow raise where files cannot be read or written; the run can go on after it."""
    import tensorflow as tf

    try:
        yield
    except (DataError, OSError, tf.errors.OpError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        named = reason if isinstance(error, DataError) else f"{run.path}: training stopped ({reason})"
        raise RunError(f"{named}; mend that, then continue with: busmt train --resume {run.path}") from error


def _start(run: Run, network: keras.Model) -> None:
    """Weights of the earlier run that is named in the configuration; the same ones after an interruption."""
    assert run.config.training.start is not None
    source = run.config.in_fold(run.config.training.start)
    refuse_seen(run, source)
    facts = start_from(network, source)
    known = run.environment().get("start", facts)
    if known["sha256"] != facts["sha256"]:
        raise RunError(f"{facts['file']}: has changed since {run.path} was started from it; start again")
    _record(run, {"start": facts})


def _note_resume(run: Run, reporter: Reporter, epoch: int) -> None:
    """Refuse other data, warn of another environment, and write down that the run went on."""
    recorded = run.environment()
    catalog = run.catalog()
    known = recorded.get("data", {}).get("fingerprint")
    if known not in (None, catalog.fingerprint()):
        raise RunError(f"{run.path}: images, masks or classes have changed since it was started; start again")
    now = describe(run.config, None) | _device()
    for difference in differences(recorded, now):
        reporter.warn(f"the run was started with another environment: {difference}")
    _record(run, {"resumed": [*recorded.get("resumed", []), {"epoch": epoch, **now}]})


def _device() -> dict[str, Any]:
    """What the training is computed with, for environment.json."""
    return {
        "backend": keras.backend.backend(),
        "accelerator": determinism.accelerator(),
        "threads": determinism.thread_settings(),
    } | ({} if determinism.possible() else {"deterministic": False})


def _record(run: Run, facts: dict[str, Any]) -> None:
    run.write_json(ENVIRONMENT, run.environment() | facts)
