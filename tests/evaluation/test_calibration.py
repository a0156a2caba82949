"""Calibration error, Brier score, temperature and referral."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from busmt.errors import DataError
from busmt.evaluation import calibration as k


def draws(seed, images=4000, sharpness=1.0):
    """Labels drawn from the probabilities themselves: calibrated by construction at sharpness 1."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, 3)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > generator.random((images, 1))).argmax(axis=1)
    return labels, logits * sharpness


def test_expected_calibration_error_by_hand():
    """Two bins: 0.9 with 2 of 4 right (gap 0.4), 0.6 with 1 of 1 right (gap 0.4)."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    labels = np.array([0, 0, 1, 1, 0])
    got = k.calibration_measures(labels, probabilities)
    assert got["ece"][0] == pytest.approx((4 * 0.4 + 1 * 0.4) / 5)
    assert got["brier"][0] == pytest.approx((2 * 0.02 + 2 * 1.62 + 0.32) / 5)


def test_brier_and_likelihood_equal_scikit_learn():
    labels, logits = draws(1, 300)
    probabilities = k.apply_temperature(logits, 1.0)
    got = k.calibration_measures(labels, probabilities)
    assert got["nll"][0] == pytest.approx(log_loss(labels, probabilities))
    assert got["brier"][0] == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))


def test_weights_are_repetitions():
    labels, logits = draws(2, 50)
    probabilities = k.apply_temperature(logits, 1.0)
    weights = np.random.default_rng(3).integers(0, 3, (2, 50))
    together = k.calibration_measures(labels, probabilities, weights)
    for row, weight in enumerate(weights):
        index = np.repeat(np.arange(50), weight)
        for name, value in k.calibration_measures(labels[index], probabilities[index]).items():
            assert together[name][row] == pytest.approx(value[0])


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_sharpness_from_logits_and_from_probabilities(sharpness):
    labels, logits = draws(4, sharpness=sharpness)
    temperature = k.fit_temperature(logits, labels)
    assert temperature == pytest.approx(sharpness, rel=0.08)
    assert k.fit_temperature(k.apply_temperature(logits, 1.0), labels) == pytest.approx(temperature, rel=1e-3)
    calibrated = k.apply_temperature(logits, temperature)
    assert k.calibration_measures(labels, calibrated)["ece"][0] < 0.03


def test_faultless_validation_images_do_not_make_the_model_certain_of_everything():
    labels = np.arange(30) % 3
    probabilities = np.full((30, 3), 0.1)
    probabilities[np.arange(30), labels] = 0.8
    temperature = k.fit_temperature(probabilities, labels)
    assert temperature == pytest.approx(k.TEMPERATURES[0], rel=1e-3)
    assert k.apply_temperature(probabilities, temperature).max() < 0.995


def test_temperature_keeps_the_order_of_classes():
    _, logits = draws(5, 100)
    assert (k.apply_temperature(logits, 3.7).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_temperature_refuses_what_does_not_fit():
    with pytest.raises(DataError, match="do not fit together"):
        k.fit_temperature(np.zeros((3, 3)), np.array([0, 1]))
    with pytest.raises(DataError, match="do not fit together"):
        k.fit_temperature(np.zeros((0, 3)), np.array([], dtype=int))


REFERRAL = np.array(
    [
        [0.1, 0.2, 0.7],  # malignant, called so
        [0.1, 0.6, 0.3],  # malignant, called benign: caught from 0.3 down
        [0.2, 0.7, 0.1],  # malignant, called benign: caught from 0.1 down
        [0.1, 0.5, 0.4],  # benign
        [0.8, 0.15, 0.05],  # normal
    ]
)
TRUTH = np.array([2, 2, 2, 1, 0])


def test_referral_takes_the_highest_threshold_that_reaches_the_target():
    rule = k.fit_referral(REFERRAL, TRUTH, target=0.99)
    assert (rule.threshold, rule.sensitivity, rule.referred, rule.malignant) == (0.1, 1.0, 0.6, 3)
    rule = k.fit_referral(REFERRAL, TRUTH, target=0.6)
    assert (rule.threshold, rule.sensitivity, rule.referred) == (0.3, pytest.approx(2 / 3), 0.4)
    assert k.is_referred(REFERRAL, 0.1).tolist() == [False, True, True, True, False]


def test_referral_refers_nothing_where_nothing_is_missed():
    rule = k.fit_referral(REFERRAL[:1], TRUTH[:1])
    assert (rule.referred, rule.sensitivity) == (0, 1)
    with pytest.raises(DataError, match="no malignant case"):
        k.fit_referral(REFERRAL[3:], TRUTH[3:])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_referral_reaches_its_target_and_no_higher_threshold_does(seed, target):
    labels, logits = draws(seed, 80)
    probabilities = k.apply_temperature(logits, 1.0)
    if not (labels == 2).any():
        return
    rule = k.fit_referral(probabilities, labels, target)
    assert rule.sensitivity >= target - 1e-12
    shares, found = k.referral_curve(probabilities, labels)
    assert shares[found >= target - 1e-12][0] == pytest.approx(rule.referred)
    assert (np.diff(shares) >= 0).all()
    assert (np.diff(found) >= 0).all()
    assert found[-1] == 1


def test_risk_and_coverage_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.7, 0.3]])
    coverages, risks = k.risk_coverage(np.array([0, 1, 0, 0]), probabilities)
    assert coverages.tolist() == [0.25, 0.5, 1.0]
    assert risks.tolist() == [0, 0.5, 0.25]
    assert k.area_under_risk(coverages, risks) == pytest.approx(0.25 * 0 + 0.25 * 0.5 + 0.5 * 0.25)
