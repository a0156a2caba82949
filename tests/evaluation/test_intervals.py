"""Group bootstrap and paired comparison."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from busmt.evaluation.intervals import (
    bootstrap,
    paired_difference,
    resample,
    weighted_mean,
    weighted_median,
)


def mean_of(values):
    return lambda weights: {"mean": weighted_mean(values, weights)}


def test_interval_of_a_mean_equals_scipys_bootstrap():
    values = np.random.default_rng(0).normal(size=80)
    ours = bootstrap(mean_of(values), np.arange(80), resamples=8000)["mean"]
    scipys = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=8000, rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=0.015)


def test_groups_stay_together():
    groups = np.repeat(np.arange(12), 5)
    for weights in resample(groups, 50, seed=3):
        assert (weights.reshape(len(weights), 12, 5).std(axis=2) == 0).all()
        assert (weights.reshape(len(weights), 12, 5)[:, :, 0].sum(axis=1) == 12).all()


def test_copies_of_an_image_narrow_the_interval_only_when_groups_are_ignored():
    values = np.random.default_rng(1).normal(size=30)
    alone = bootstrap(mean_of(values), np.arange(30))["mean"]
    copies = np.repeat(values, 10)
    grouped = bootstrap(mean_of(copies), np.repeat(np.arange(30), 10))["mean"]
    naive = bootstrap(mean_of(copies), np.arange(300))["mean"]
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_coverage_is_close_to_the_level():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        estimate = bootstrap(mean_of(generator.normal(size=60)), np.arange(60), resamples=400, seed=trial)["mean"]
        covered += estimate.low <= 0 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_one_group_has_none():
    values = np.arange(10.0)
    assert bootstrap(mean_of(values), np.arange(10), seed=5) == bootstrap(mean_of(values), np.arange(10), seed=5)
    single = bootstrap(mean_of(values), np.zeros(10))["mean"]
    assert single.value == 4.5
    assert np.isnan(single.low)
    assert np.isnan(single.high)


def test_undefined_resamples_are_left_out():
    values = np.array([1.0, np.nan, np.nan])
    estimate = bootstrap(mean_of(values), np.arange(3))["mean"]
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_nothing_or_all_is_not_known_exactly(value):
    """Scipy's exact interval, with groups as trials."""
    result = bootstrap(mean_of(np.full(32, value)), np.repeat(np.arange(16), 2), shares={"mean": 16})["mean"]
    exact = stats.binomtest(int(16 * value), 16).proportion_ci(method="exact")
    assert (result.low, result.high) == pytest.approx((exact.low, exact.high))


@given(
    st.lists(st.tuples(st.floats(-5, 5) | st.just(np.nan), st.integers(0, 4)), min_size=1, max_size=12),
)
def test_weighted_median_and_mean_are_those_of_repetitions(pairs):
    values, counts = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    repeated = np.repeat(values, counts)
    repeated = repeated[~np.isnan(repeated)]
    weights = counts[None].astype(float)
    if len(repeated):
        assert weighted_median(values, weights)[0] == pytest.approx(np.median(repeated))
        assert weighted_mean(values, weights)[0] == pytest.approx(repeated.mean(), abs=1e-9)
    else:
        assert np.isnan(weighted_median(values, weights)[0])
        assert np.isnan(weighted_mean(values, weights)[0])


def paired(first, second, groups):
    return paired_difference(mean_of(np.concatenate((first, second))), groups, resamples=2000)["mean"]


def test_paired_difference_sees_a_small_constant_gain_through_large_spread():
    generator = np.random.default_rng(3)
    hard = generator.normal(scale=10, size=100)
    first = hard + 0.2 + generator.normal(scale=0.1, size=100)
    result = paired(first, hard, np.arange(100))
    assert result.difference.value == pytest.approx((first - hard).mean())
    assert 0.15 < result.difference.low < result.difference.high < 0.25
    assert result.p_value < 0.002
    assert result.first - result.second == pytest.approx(result.difference.value)


def test_paired_test_agrees_with_scipys_permutation_test():
    generator = np.random.default_rng(4)
    first = generator.normal(size=40)
    second = first + generator.normal(loc=-0.15, scale=0.6, size=40)
    ours = paired(first, second, np.arange(40)).p_value
    scipys = stats.permutation_test(
        (first, second), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=4000, rng=0
    ).pvalue
    assert ours == pytest.approx(scipys, abs=0.04)


def test_equal_systems_do_not_differ():
    values = np.random.default_rng(5).normal(size=50)
    result = paired(values, values, np.arange(50))
    assert (result.difference.value, result.difference.low, result.difference.high) == pytest.approx(
        (0, 0, 0), abs=1e-12
    )
    assert result.p_value == 1


def test_p_values_are_uniform_when_nothing_differs():
    generator = np.random.default_rng(6)
    small = sum(
        paired_difference(mean_of(generator.normal(size=60)), np.repeat(np.arange(15), 2), resamples=200)[
            "mean"
        ].p_value
        <= 0.1
        for _ in range(200)
    )
    assert 6 <= small <= 36
