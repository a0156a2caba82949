"""Train the three-dimensional, boundary-aware network on volumes: synthetic ones, or a folder of .npz files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, Config
from busmt.data.volumes import Volume
from busmt.errors import DataError
from busmt.model.baselines.boundary_aware import build_volumes
from busmt.training.interrupt import Interrupts
from busmt.training.trainer import compile_trainer
from busmt.training.validation import ValidationSet


def train_volumes(
    volumes: Sequence[Volume],
    out: str | os.PathLike[str],
    *,
    width: int = 8,
    depth: int = 3,
    epochs: int = 20,
    batch_size: int = 2,
    learning_rate: float = 2e-3,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train on four of five volumes, score the fifth, save the network as a .keras file.

    Volumes are taken as they come: curation, patients and augmentation are for images, and are up to the user here.

    Args:
        volumes: at least ten, cubes of one side S that is divisible by 2 ** depth.
        out: the .keras file; its network is `busmt.model.baselines.boundary_aware.build_volumes`.
        width, depth: of the network.
        epochs, batch_size, learning_rate, seed: of the training.
        say: called with a line of text after each epoch.

    Returns:
        "volumes" by part, "parameters", "losses" by epoch, and the scores of the volumes that were held out.

    Raises:
        DataError: too few volumes, or a side that cannot be halved so often.
    """
    side = len(volumes[0].image) if volumes else 0
    if len(volumes) < 10 or side % 2**depth:
        raise DataError(
            f"{len(volumes)} volumes of side {side}: at least 10 are needed, and a side that 2 ** {depth} divides"
        )
    keras.utils.set_random_seed(seed)
    images = np.stack([volume.image for volume in volumes])[..., None]
    masks = np.stack([volume.mask for volume in volumes])[..., None]
    labels = np.array([volume.label for volume in volumes])
    held = np.arange(len(volumes)) % 5 == 4
    truth = {
        MASK_OUTPUT: masks[~held].astype(np.float32),
        LABEL_OUTPUT: np.eye(len(CLASSES), dtype=np.float32)[labels[~held]],
    }
    training = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_epochs": 1,
        "ema": 0,
    }
    config = Config.from_dict({"training": training})
    steps = -(-int((~held).sum()) // batch_size)
    trainer = compile_trainer(build_volumes(side, width, depth), config, steps)
    display = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: say(_line(epoch, epochs, logs)))
    with Interrupts() as interrupts:
        history = trainer.fit(images[~held], truth, batch_size, epochs, verbose=0, callbacks=[display, interrupts])
    scores = ValidationSet(images[held], masks[held], labels[held], batch_size).score(trainer.network)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    draft = Path(out).with_name(f".draft.{Path(out).name}")
    trainer.network.save(draft)
    draft.replace(out)
    return {
        "model": str(out),
        "side": side,
        "volumes": {"train": int((~held).sum()), "held_out": int(held.sum())},
        "parameters": trainer.network.count_params(),
        "losses": [float(loss) for loss in history.history["loss"]],
        "held_out": {name.removeprefix("val_"): value for name, value in scores.items()},
    }


def _line(epoch: int, epochs: int, logs: dict[str, float]) -> str:
    parts = f"mask {logs['mask_loss']:.3f}  class {logs['label_loss']:.3f}"
    return f"epoch {epoch + 1}/{epochs}  loss {logs['loss']:.3f}  {parts}"
