"""Attention maps, class activation map, and the randomisation check."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from disc_cohort import make_cohort

from busmt.cli.main import cli
from busmt.config import CLASSES, NetworkConfig
from busmt.data.images import Letterbox
from busmt.errors import RunError
from busmt.evaluation.explain import (
    CAM,
    STAGES,
    Explainer,
    draw_explanation,
    draw_sanity,
    grad_cam,
    overlaid,
    sanity_scores,
    similarity,
)


@pytest.fixture(scope="module")
def network():
    import keras

    from busmt.model.network import build_network

    keras.utils.set_random_seed(0)
    return build_network(NetworkConfig(input_size=64, width=4, depth=3))


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).random((64, 64, 1), dtype=np.float32)


def test_grad_cam_by_hand():
    """Two channels; the gradient likes the first twice as much as it dislikes the second."""
    features = np.zeros((2, 2, 2))
    features[0, 0] = (4, 0)
    features[0, 1] = (2, 2)
    features[1, 0] = (0, 5)
    gradient = np.full((2, 2, 2), (2.0, -1.0))
    assert grad_cam(features, gradient).tolist() == [[1.0, 0.25], [0.0, 0.0]]
    assert (grad_cam(features, -np.abs(gradient)) == 0).all()


def test_maps_lie_on_the_networks_grid(network, picture):
    result = Explainer(network).explain(picture)
    assert list(result.maps) == [CAM, "attention2", "attention1", "attention0"]
    for values in result.maps.values():
        assert values.shape == (64, 64)
        assert 0 <= values.min() <= values.max() <= 1
    assert result.target == result.probabilities.argmax()
    answer = network.predict_on_batch(picture[None])
    assert result.probabilities == pytest.approx(answer["label"][0], abs=1e-5)
    assert result.mask_map == pytest.approx(answer["mask"][0, ..., 0], abs=1e-5)


def test_attention_maps_are_the_gates_coefficients(network, picture):
    from busmt.model.network import attention_model

    finest = attention_model(network).predict_on_batch(picture[None])["attention0"][0, ..., 0]
    assert Explainer(network).explain(picture).maps["attention0"] == pytest.approx(finest, abs=1e-5)


def test_each_class_has_its_own_map(network, picture):
    explainer = Explainer(network)
    maps = [explainer.explain(picture, target).maps[CAM] for target in range(len(CLASSES))]
    assert not np.allclose(maps[0], maps[1])
    assert explainer.explain(picture, 2).target == 2


def test_the_map_marks_the_only_place_the_class_head_looks_at(network):
    """Features are zero but in one cell, and every class weight is positive: the map must peak there."""
    features = np.zeros((8, 8, 3))
    features[2, 5] = 1
    heat = grad_cam(features, np.ones((8, 8, 3)))
    assert np.unravel_index(heat.argmax(), heat.shape) == (2, 5)


def test_randomisation_changes_maps_and_leaves_the_network_as_it_was(network, picture):
    before = [weight.copy() for weight in network.get_weights()]
    results = Explainer(network).randomised(picture)
    assert tuple(results) == STAGES
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    scores = sanity_scores(results)
    assert all(score == pytest.approx(1) for score in scores["trained"].values())
    assert scores["class head shuffled"]["attention0"] == pytest.approx(1)  # gates do not depend on the class head
    assert scores["and decoder"]["attention0"] < 0.99
    again = sanity_scores(Explainer(network).randomised(picture))
    assert again == scores


def test_weights_come_back_after_a_failure(network, picture, monkeypatch):
    explainer = Explainer(network)
    before = [weight.copy() for weight in network.get_weights()]
    calls = []

    def fail(picture, target=None):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("stopped")
        return Explainer.explain(explainer, picture, target)

    monkeypatch.setattr(explainer, "explain", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        explainer.randomised(picture)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


def test_network_without_gates_has_a_class_map_alone(picture):
    from busmt.model.network import build_network

    plain = build_network(NetworkConfig(input_size=64, width=4, depth=2, attention=False))
    assert list(Explainer(plain).explain(picture).maps) == [CAM]


def test_a_foreign_network_is_named():
    import keras

    inputs = keras.Input((8,))
    with pytest.raises(RunError, match="was it made by busmt"):
        Explainer(keras.Model(inputs, keras.layers.Dense(1)(inputs)))


def test_similarity():
    ramp = np.arange(12.0).reshape(3, 4)
    assert similarity(ramp, ramp**3) == pytest.approx(1)
    assert similarity(ramp, -ramp) == pytest.approx(-1)
    assert similarity(ramp, np.ones((3, 4))) == 0


def test_overlay_leaves_what_is_not_marked():
    image = np.full((4, 4, 3), 90, dtype=np.uint8)
    values = np.zeros((4, 4))
    values[1, 1] = 1
    shown = overlaid(image, values)
    assert (shown != 90).any(axis=2).sum() == 1
    assert shown[1, 1].tolist() != [90, 90, 90]


def test_figures_have_a_panel_for_every_map(network, picture):
    explainer, image, letterbox = Explainer(network), np.zeros((50, 80, 3), np.uint8), Letterbox(50, 80, 64)
    results = explainer.randomised(picture)
    assert len(draw_explanation(image, letterbox, results["trained"]).axes) == 5
    assert len(draw_sanity(image, letterbox, results).axes) == 16


def test_command_explains_the_good_images_and_names_the_bad(network, tmp_path):
    model = tmp_path / "model.keras"
    network.save(model)
    catalog = make_cohort(tmp_path / "images", per_class=1, classes=("benign",))
    (tmp_path / "broken.png").write_bytes(b"no image")
    arguments = ["explain", catalog[0].image, str(tmp_path / "broken.png"), "--model", str(model), "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert result.return_value == 1, result.output
    rows = json.loads(result.stdout)["explanations"]
    assert rows == json.loads((tmp_path / "out" / "explanations.json").read_text())["explanations"]
    assert set(rows[0]["similarity_after_shuffling"]) == set(STAGES)
    assert "broken.png" in rows[1]["error"]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == [
        "benign (1)_explain.png",
        "benign (1)_sanity.png",
    ]
    for wrong in (tmp_path / "model.tflite", tmp_path / "images"):
        arguments[arguments.index("--model") + 1] = str(wrong)
        assert isinstance(CliRunner().invoke(cli, arguments).exception, RunError)
