"""Training on other backends of Keras: the same command, and a network that TensorFlow goes on with."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from busmt.prediction import Predictor
from busmt.training import determinism

SETTINGS = {
    "folds": {"count": 4, "validation_share": 0.25},
    "network": {"input_size": 32, "width": 4, "depth": 2},
    "training": {"epochs": 2, "batch_size": 8, "patience": 2, "ema": 0.9},
}


def train(folder, backend, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "busmt", "train", *map(str, arguments)],
        cwd=folder,
        # quick to compile, since it computes next to nothing
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def test_a_processor_is_no_accelerator(monkeypatch):
    assert determinism.accelerator() is None
    for kind in ("logical", "physical"):
        monkeypatch.setattr(f"tensorflow.config.list_{kind}_devices", lambda kind: [kind])
    monkeypatch.setattr("tensorflow.config.experimental.get_device_details", lambda _: {"device_name": "Abacus 5"})
    assert determinism.accelerator() == "Abacus 5"


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("theano", "KERAS_BACKEND: must be one of tensorflow, jax, torch, got 'theano'"),
        ("torch", "busmt train needs torch, which is not installed: pip install torch"),
    ],
)
def test_a_backend_that_is_not_there_is_named_in_one_line(backend, message, tmp_path):
    if importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is installed")
    answer = train(tmp_path, backend)
    assert answer.returncode == 2
    assert answer.stderr.strip() == f"busmt: error: {message}"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_network_trained_with_another_backend_serves_with_tensorflow(backend, phantom_folder, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; for jax: pip install busmt[jax]")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SETTINGS))
    answer = train(tmp_path, backend, "--data", phantom_folder, "--config", "small.yaml", "--name", "other")
    assert answer.returncode == 0, answer.stderr
    assert f"Keras on {backend}" in answer.stderr  # no promise of the same bits
    run = tmp_path / "runs" / "other"
    record = json.loads((run / "environment.json").read_text())
    assert (record["backend"], record["deterministic"]) == (backend, False)
    history = pd.read_csv(run / "history.csv")
    assert len(history) == 2
    assert history["loss"].iloc[1] < history["loss"].iloc[0]
    newest = np.load(run / "checkpoints" / "epoch_00001.npz")
    assert all(np.isfinite(newest[name]).all() for name in newest.files if newest[name].dtype.kind == "f")

    parts = pd.read_csv(run / "folds.csv").set_index("image_id")["part"]
    catalog = pd.read_csv(run / "catalog.csv").set_index("image_id")
    predictor = Predictor.load(run)  # here with TensorFlow
    for name in parts.index[parts == "test"][:3]:
        said = predictor.predict_file(catalog.loc[name, "image"])
        assert said.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
        assert 0.0 <= said.probability_map.min() <= said.probability_map.max() <= 1.0
