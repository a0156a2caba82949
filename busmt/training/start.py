"""Start a network from the weights of an earlier one: pretraining on another cohort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from busmt.config import LABEL_LOGITS_OUTPUT
from busmt.data.folds import PARTS
from busmt.data.images import file_hash
from busmt.errors import RunError
from busmt.evaluation.evaluate import images_also_trained_on
from busmt.model.network import REFINEMENT_LAYER
from busmt.prediction import load_network
from busmt.training.run import FOLDS, Run


def start_from(network: keras.Model, source: str | os.PathLike[str]) -> dict[str, Any]:
    """Copy the weights of a finished network, layer by layer, where name and shapes agree.

    The refinement layer keeps its own start: what it holds was fitted on the other cohort's validation part.

    Args:
        network: the new network; changed in place.
        source: a finished run folder, or a .keras file.

    Returns:
        For the record: the file, its sha256, the number of layers copied and the names of those that were not.

    Raises:
        RunError: the source is not there or not finished, or no layer but the last of the class head fits.
    """
    path = Run.open(source).model_path if Path(source).is_dir() else Path(source)
    if not path.exists():
        raise RunError(f"{path}: no such run folder or .keras file to start from")
    given = {layer.name: layer for layer in load_network(path).layers if layer.weights}
    copied, left = [], []
    for layer in network.layers:
        if not layer.weights or layer.name == REFINEMENT_LAYER:
            continue
        values = [np.asarray(weight) for weight in given[layer.name].weights] if layer.name in given else []
        if [value.shape for value in values] == [tuple(weight.shape) for weight in layer.weights]:
            for weight, value in zip(layer.weights, values, strict=True):
                weight.assign(value)
            copied.append(layer.name)
        else:
            left.append(layer.name)
    if set(copied) <= {LABEL_LOGITS_OUTPUT}:  # the last layer of the class head fits every network
        raise RunError(f"{path}: no layer of it fits the new network; start from a run of the same network section")
    return {
        "file": str(path),
        "sha256": file_hash(path),
        "layers": len(copied),
        "left": left,
    }


def refuse_seen(run: Run, source: str | os.PathLike[str]) -> None:
    """Raise RunError where the run to start from has used images, byte by byte, that the new run is tested on.

    A .keras file does not tell what it was trained on, and images that are no longer there cannot be compared.
    """
    folds = run.folds()
    if not (Path(source) / FOLDS).exists() or not (folds["part"] == PARTS[2]).any():
        return
    seen = images_also_trained_on(Run.open(source), run.part(PARTS[2]), missing_ok=True)
    if seen:
        raise RunError(
            f"{source}: was trained on {seen} of the images that {run.path} is tested on; start from a run that held "
            "the same fold out ({fold} in the name stands for its number)"
        )
