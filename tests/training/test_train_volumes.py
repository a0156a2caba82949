"""Three dimensions, end to end: volumes in, a network out that comes back from its file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from busmt.data.volumes import make_volumes
from busmt.errors import DataError
from busmt.prediction import load_network
from busmt.training.volumes import train_volumes


def test_training_on_volumes_lowers_the_loss_and_leaves_a_network(tmp_path, python):
    code = "import sys; from busmt.cli.main import main; sys.argv[0] = 'busmt'; main()"
    arguments = ["--count", 12, "--side", 16, "--width", 2, "--depth", 2, "--epochs", 6, "--batch-size", 4]
    answer = python(code, "volumes", *arguments, "--out", tmp_path / "volumes.keras", "--json")
    result = json.loads(answer.stdout)
    assert result["volumes"] == {"train": 10, "held_out": 2}
    assert len(result["losses"]) == 6
    assert result["losses"][-1] < result["losses"][0]
    assert set(result["held_out"]) == {"dice", "balanced_accuracy", "auroc", "score"}
    assert "epoch 6/6" in answer.stderr
    network = load_network(tmp_path / "volumes.keras")
    assert network.count_params() == result["parameters"]
    volume = make_volumes(2, 0, 16)[1]
    outputs = network.predict_on_batch(volume.image[None, ..., None])
    assert outputs["mask"].shape == (1, 16, 16, 16, 1)
    assert np.isfinite(outputs["label"]).all()


def test_too_few_volumes_and_odd_sides_are_refused(tmp_path):
    with pytest.raises(DataError, match="3 volumes of side 16: at least 10"):
        train_volumes(make_volumes(3, 0, 16), tmp_path / "x.keras")
    with pytest.raises(DataError, match=r"a side that 2 \*\* 4 divides"):
        train_volumes(make_volumes(10, 0, 24), tmp_path / "x.keras", depth=4)
    assert not list(tmp_path.iterdir())
