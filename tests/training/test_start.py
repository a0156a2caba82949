"""Starting from an earlier network: what fits is copied, what does not is named, what is wrong is refused."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from busmt.config import Config, NetworkConfig
from busmt.data.folds import read_folds
from busmt.deployment.export import parity_images
from busmt.errors import RunError
from busmt.model.network import REFINEMENT_LAYER, build_network
from busmt.prediction import load_network
from busmt.training.loop import train
from busmt.training.prepare import prepare_run
from busmt.training.start import start_from


@pytest.fixture(scope="module")
def network_settings(tiny_run_folder) -> NetworkConfig:
    return Config.from_yaml(tiny_run_folder / "config.yaml").network


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_every_layer_but_the_refinement_is_copied(tiny_run_folder, network_settings):
    network, given = build_network(network_settings), load_network(tiny_run_folder / "model.keras")
    before = network.get_layer(REFINEMENT_LAYER).get_weights()
    record = start_from(network, tiny_run_folder)
    with_weights = [layer.name for layer in given.layers if layer.weights and layer.name != REFINEMENT_LAYER]
    assert record["layers"] == len(with_weights)
    assert record["left"] == []
    assert all(same(network.get_layer(name), given.get_layer(name)) for name in with_weights)
    after = network.get_layer(REFINEMENT_LAYER).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_layers_of_another_shape_keep_their_start_and_are_named(tiny_run_folder, network_settings):
    deeper = dataclasses.replace(network_settings, depth=network_settings.depth + 1)
    network = build_network(deeper)
    record = start_from(network, tiny_run_folder / "model.keras")
    assert record["left"]
    assert record["layers"]
    given = {layer.name: layer for layer in load_network(tiny_run_folder / "model.keras").layers}
    for name in record["left"]:
        shapes = [w.shape for w in given[name].weights] if name in given else None
        assert shapes != [w.shape for w in network.get_layer(name).weights]


def test_what_does_not_fit_or_is_not_there_is_refused(tiny_run_folder, tmp_path):
    other = build_network(NetworkConfig(input_size=32, width=5, depth=2))
    with pytest.raises(RunError, match="no layer of it fits"):
        start_from(other, tiny_run_folder)
    with pytest.raises(RunError, match="no such run folder or .keras file"):
        start_from(other, tmp_path / "absent")
    (tmp_path / "broken.keras").write_bytes(b"not a zip")
    with pytest.raises(RunError, match="cannot be loaded"):
        start_from(other, tmp_path / "broken.keras")


def test_a_run_without_test_part_starts_from_another_and_says_so(phantom_folder, tiny_run_folder, tmp_path):
    settings = Config.from_yaml(tiny_run_folder / "config.yaml").replace(
        {
            "data": {"path": str(phantom_folder)},
            "folds": {"fold": None},
            "training": {"epochs": 1, "deterministic": False, "start": str(tiny_run_folder)},
        }
    )
    run = train(prepare_run(settings, tmp_path / "run"))
    assert set(read_folds(run.path / "folds.csv")["part"]) == {"train", "validation"}
    assert run.environment()["start"]["left"] == []
    with pytest.raises(RunError, match="no image is in the part test"):
        run.part("test")
    inputs, _, source = parity_images(run, count=3)
    assert len(inputs) == 3
    assert source == "validation images"


def test_the_fold_in_the_name_stands_for_its_number_and_the_test_images_must_be_new(tiny_run_folder, tmp_path):
    shutil.copytree(tiny_run_folder, tmp_path / "first-fold0")
    template = str(tmp_path / "first-fold{fold}")
    first = Config.from_yaml(tiny_run_folder / "config.yaml")
    assert first.folds.fold == 0
    settings = first.replace({"training": {"epochs": 1, "deterministic": False, "start": template}})
    run = train(prepare_run(settings, tmp_path / "second-fold0"))
    assert run.environment()["start"]["file"] == str(tmp_path / "first-fold0" / "model.keras")
    assert run.config.training.start == template
    wrong = settings.replace({"folds": {"fold": 1}, "training": {"start": str(tmp_path / "first-fold0")}})
    run = prepare_run(wrong, tmp_path / "wrong-fold1")
    with pytest.raises(RunError, match=f"was trained on {len(run.part('test'))} of the images that .* is tested on"):
        train(run)
    with pytest.raises(RunError, match="first-fold1: no such run folder"):
        train(prepare_run(settings.replace({"folds": {"fold": 1}}), tmp_path / "second-fold1"))
