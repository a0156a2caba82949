"""Validation scores and the threshold that is fitted on them."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from busmt.model.refinement import ConsistencyRefinement
from busmt.training.validation import ValidationSet, class_scores, dice_per_image


class MapNetwork:
    """Takes its images for probability maps; labels are looked up by the first pixel."""

    def __init__(self, labels, offset=0.0):
        self.labels, self.sizes = labels, []
        self.layer = ConsistencyRefinement()
        self.layer.build([(None, 8, 8, 1), (None, 3)])
        self.layer.mask_offset.assign(offset)

    def predict_on_batch(self, images):
        self.sizes.append(len(images))
        start = sum(self.sizes[:-1]) % len(self.labels)
        return {"mask": images, "label": self.labels[start : start + len(images)]}

    def get_layer(self, name):
        assert name == "refinement"
        return self.layer


def graded(levels):
    """Maps with value levels[k] in column k of 8; the truth is columns 2 to 4."""
    maps = np.broadcast_to(np.array(levels, np.float32)[None, None, :, None], (2, 8, 8, 1)).copy()
    truth = np.zeros((2, 8, 8, 1), np.uint8)
    truth[:, :, 2:5] = 1
    return maps, truth


def test_dice_by_hand():
    truth = np.zeros((3, 2, 2, 1), bool)
    predicted = truth.copy()
    truth[0, 0] = predicted[0, :, 0] = True  # one of two pixels each
    predicted[1, 0, 0] = True
    assert dice_per_image(truth, predicted).tolist() == [0.5, 0.0, 1.0]


def test_scores_by_hand():
    maps, truth = graded([0, 0, 1, 1, 0, 0, 0, 0])
    labels = np.array([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], np.float32)
    truth[1] = 0
    maps[1] = 0
    scores = ValidationSet(maps, truth, np.array([1, 0]), 2).score(MapNetwork(labels))
    assert scores["val_dice"] == pytest.approx(0.8)  # of the lesion alone
    assert scores["val_balanced_accuracy"] == 1.0
    assert scores["val_auroc"] == 1.0
    assert scores["val_score"] == pytest.approx(0.9)


@pytest.mark.parametrize(("backend", "sizes"), [("tensorflow", [4, 4, 2]), ("jax", [4, 4, 4])])
def test_every_image_is_scored_once_in_batches(backend, sizes, monkeypatch):
    """JAX compiles for each shape: there the last batch is filled up, and what is said of the filling is left out."""
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    maps, truth = (np.concatenate([array] * 5) for array in graded([0.9] * 8))
    labels = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    network = MapNetwork(labels)
    answers = ValidationSet(maps, truth, np.arange(10) % 3, 4).predict(network)
    assert network.sizes == sizes
    assert np.array_equal(answers["mask"], maps)
    assert np.array_equal(answers["label"], labels[:10])


@pytest.mark.parametrize(
    ("levels", "threshold"),
    [
        ([0.1, 0.3, 0.9, 0.9, 0.8, 0.32, 0.2, 0.1], 0.5),
        ([0.1, 0.1, 0.9, 0.38, 0.37, 0.22, 0.2, 0.1], 0.35),
        ([0.1, 0.66, 0.9, 0.9, 0.8, 0.69, 0.2, 0.1], 0.7),
    ],
)
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_the_threshold_with_the_best_dice_becomes_one_half(levels, threshold, offset):
    maps, truth = graded(levels)
    network = MapNetwork(np.eye(3, dtype=np.float32)[[1, 2]], offset)
    assert ValidationSet(maps, truth, np.array([1, 2]), 8).fit_threshold(network) == pytest.approx(threshold)
    moved = float(network.layer.mask_offset) - offset
    assert moved == pytest.approx(-math.log(threshold / (1 - threshold)), abs=1e-6)
    folded = keras.ops.sigmoid(np.log(maps / (1 - maps)) + moved)
    assert np.array_equal(np.asarray(folded) > 0.5, maps > threshold)


def test_images_called_normal_take_no_part_in_the_threshold():
    maps, truth = graded([0.1, 0.1, 0.9, 0.38, 0.37, 0.22, 0.2, 0.1])
    network = MapNetwork(np.eye(3, dtype=np.float32)[[0, 0]])
    assert ValidationSet(maps, truth, np.array([1, 2]), 8).fit_threshold(network) == 0.5
    assert float(network.layer.mask_offset) == 0


def test_class_scores_by_hand():
    labels = np.array([0, 0, 1, 1, 1, 1])
    probabilities = np.array(
        [[0.8, 0.2, 0], [0.3, 0.7, 0], [0.1, 0.9, 0], [0.4, 0.6, 0], [0.45, 0.15, 0.4], [0.2, 0.3, 0.5]]
    )
    accuracy, auroc = class_scores(labels, probabilities)
    assert accuracy == pytest.approx((1 / 2 + 2 / 4) / 2)
    # normal against benign by the probability of each: pairs in the right order
    normal = np.mean([[a > b for b in (0.1, 0.4, 0.45, 0.2)] for a in (0.8, 0.3)])
    benign = np.mean([[a > b for b in (0.2, 0.7)] for a in (0.9, 0.6, 0.15, 0.3)])
    assert auroc == pytest.approx((normal + benign) / 2)


def test_a_single_class_can_be_scored():
    assert class_scores(np.array([1, 1]), np.array([[0, 1.0, 0], [1.0, 0, 0]])) == (0.5, 1.0)
