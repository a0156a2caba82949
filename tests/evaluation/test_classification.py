"""Classification measures against scikit-learn, by hand, and with weights against repetition."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from busmt.config import CLASSES
from busmt.evaluation import classification as c


def case(seed, images=60, classes=3, levels=20):
    """Labels with every class, and probabilities with many ties."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate((np.arange(classes), generator.integers(0, classes, images - classes)))
    raw = np.round(generator.dirichlet(np.ones(classes), images) * levels) + 0.5
    raw[np.arange(images), labels] += generator.integers(0, 6, images)
    return labels, raw / raw.sum(axis=1, keepdims=True)


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_three_classes_equal_scikit_learn(seed):
    labels, probabilities = case(seed)
    got = {name: value[0] for name, value in c.classification_measures(labels, probabilities, CLASSES).items()}
    called = probabilities.argmax(axis=1)
    truth = np.eye(3)[labels]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": metrics.accuracy_score(labels, called),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
            "macro_f1": metrics.f1_score(labels, called, average="macro"),
            "kappa": metrics.cohen_kappa_score(labels, called),
            "auroc_macro": metrics.roc_auc_score(truth, probabilities, average="macro"),
            "auroc_malignant": metrics.roc_auc_score(labels == 2, probabilities[:, 2]),
            "average_precision_macro": metrics.average_precision_score(truth, probabilities, average="macro"),
            "recall_benign": metrics.recall_score(labels == 1, called == 1),
            "specificity_malignant": metrics.recall_score(labels != 2, called != 2),
        }
        for name, value in expected.items():
            assert got[name] == pytest.approx(value), name
        if (called == 1).any():
            assert got["precision_benign"] == pytest.approx(metrics.precision_score(labels == 1, called == 1))
    assert np.array_equal(c.confusion(labels, called, 3)[0], metrics.confusion_matrix(labels, called))


@given(seeds)
def test_operating_points_equal_a_search_over_scikit_learns_curve(seed):
    labels, probabilities = case(seed, classes=2)
    got = c.classification_measures(labels, probabilities, ("benign", "malignant"))
    false_positive_rate, sensitivity, _ = metrics.roc_curve(labels, probabilities[:, 1], drop_intermediate=False)
    for point in (90, 95):
        share = point / 100 - 1e-9
        assert got[f"sensitivity_at_{point}_specificity"][0] == sensitivity[1 - false_positive_rate >= share].max()
        best = (1 - false_positive_rate)[sensitivity >= share].max()
        assert got[f"specificity_at_{point}_sensitivity"][0] == pytest.approx(best)


@given(seeds)
def test_weights_are_repetitions(seed):
    labels, probabilities = case(seed, images=40)
    weights = np.random.default_rng(seed + 1).integers(0, 4, (3, len(labels)))
    weights[:, :3] += 1  # every class stays present
    together = c.classification_measures(labels, probabilities, CLASSES, weights)
    for row, weight in enumerate(weights):
        repeated = np.repeat(np.arange(len(labels)), weight)
        alone = c.classification_measures(labels[repeated], probabilities[repeated], CLASSES)
        for name, value in alone.items():
            assert together[name][row] == pytest.approx(value[0], nan_ok=True), name


def test_perfect_and_useless_by_hand():
    labels = np.array([0, 0, 1, 1])
    perfect = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    got = c.classification_measures(labels, perfect, ("benign", "malignant"))
    for name in ("accuracy", "kappa", "macro_f1", "auroc_malignant", "sensitivity_at_95_specificity"):
        assert got[name] == 1, name
    flat = c.classification_measures(labels, np.full((4, 2), 0.5), ("benign", "malignant"))
    assert flat["auroc_malignant"] == 0.5
    assert flat["average_precision_malignant"] == 0.5
    assert flat["sensitivity_at_90_specificity"] == 0
    assert flat["kappa"] == 0


def test_undefined_is_nan_and_not_a_number_made_up():
    got = c.classification_measures(np.array([1, 1]), np.array([[0.2, 0.8], [0.6, 0.4]]), ("benign", "malignant"))
    for name in ("auroc_malignant", "auroc_macro", "specificity_malignant", "recall_benign"):
        assert np.isnan(got[name]), name
    assert got["balanced_accuracy"] == 0.5


def test_two_class_cohort_is_scored_on_its_classes():
    probabilities = np.array([[0.5, 0.1, 0.4], [0.0, 0.3, 0.7], [1.0, 0.0, 0.0]])
    kept = c.restrict(probabilities, ("benign", "malignant"))
    assert kept == pytest.approx(np.array([[0.2, 0.8], [0.3, 0.7], [0.5, 0.5]]))
    assert c.restrict(probabilities, CLASSES) == pytest.approx(probabilities)
