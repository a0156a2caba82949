"""The balanced order: exact counts, a fixed rotation, and nothing but its arguments decides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.data.balance import class_quota, epoch_length, epoch_order, position_hash

LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)
TARGETS = st.floats(0.1, 1.0)


@given(LABELS, SEEDS, st.integers(0, 500), TARGETS)
def test_class_counts_are_exactly_the_quota(labels, seed, epoch, target):
    order = epoch_order(labels, seed, epoch, target)
    assert Counter(labels[order].tolist()) == class_quota(labels, target)
    assert len(order) == epoch_length(labels, target)


@given(LABELS, SEEDS, st.integers(0, 500))
def test_by_default_every_class_is_as_frequent_as_the_largest(labels, seed, epoch):
    counts = Counter(labels[epoch_order(labels, seed, epoch)].tolist())
    assert set(counts.values()) == {int(np.bincount(labels).max())}


@given(LABELS, SEEDS, st.integers(0, 500), TARGETS)
def test_every_sample_of_the_largest_class_comes_exactly_once(labels, seed, epoch, target):
    order = epoch_order(labels, seed, epoch, target)
    largest = np.bincount(labels).argmax()
    assert sorted(order[labels[order] == largest].tolist()) == np.flatnonzero(labels == largest).tolist()


@given(LABELS, SEEDS, st.integers(0, 500), TARGETS)
def test_no_sample_is_left_out_and_siblings_differ_by_one_at_most(labels, seed, epoch, target):
    uses = np.bincount(epoch_order(labels, seed, epoch, target), minlength=len(labels))
    for name in np.unique(labels):
        siblings = uses[labels == name]
        assert siblings.min() >= 1
        assert siblings.max() - siblings.min() <= 1


@given(LABELS, SEEDS, TARGETS, st.integers(1, 25))
def test_over_many_epochs_siblings_still_differ_by_one_at_most(labels, seed, target, epochs):
    uses = np.zeros(len(labels), dtype=int)
    for epoch in range(epochs):
        uses += np.bincount(epoch_order(labels, seed, epoch, target), minlength=len(labels))
        for name in np.unique(labels):
            siblings = uses[labels == name]
            assert siblings.max() - siblings.min() <= 1


@given(LABELS, SEEDS, st.integers(0, 500))
def test_without_a_target_an_epoch_is_one_shuffled_pass(labels, seed, epoch):
    assert sorted(epoch_order(labels, seed, epoch, None).tolist()) == list(range(len(labels)))
    assert epoch_length(labels, None) == len(labels)


def test_a_class_above_the_target_keeps_all_its_samples():
    labels = np.repeat([0, 1, 2], [2, 10, 8])
    assert class_quota(labels, 0.5) == {0: 5, 1: 10, 2: 8}


def test_a_class_that_does_not_occur_is_not_invented():
    assert class_quota(np.array([1, 1, 2])) == {1: 2, 2: 2}


@pytest.mark.parametrize("target", [0.0, -1.0, 1.01, float("nan")])
def test_a_target_outside_its_range_is_refused_with_its_value(target):
    with pytest.raises(ValueError, match=r"target must be in \(0, 1\]"):
        class_quota(np.array([0, 1]), target)


def test_no_labels_are_refused():
    with pytest.raises(ValueError, match="labels must not be empty"):
        class_quota(np.array([], dtype=int))


@given(LABELS.filter(lambda labels: len(labels) >= 12), SEEDS)
@settings(max_examples=30)
def test_seed_and_epoch_change_the_order(labels, seed):
    order = epoch_order(labels, seed, 0)
    assert not np.array_equal(order, epoch_order(labels, seed, 1))
    assert not np.array_equal(order, epoch_order(labels, seed + 1, 0))


def test_the_caller_cannot_change_an_order_through_the_global_generator():
    labels = np.repeat([0, 1, 2], [5, 9, 7])
    np.random.seed(1)  # noqa: NPY002
    first = epoch_order(labels, 3, 4)
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(first, epoch_order(labels, 3, 4))


def test_positions_are_well_mixed():
    """Over 400 epochs each of 20 samples comes first about 20 times (chi-square, 19 degrees of freedom)."""
    first = [int(epoch_order(np.zeros(20, int), 0, epoch)[0]) for epoch in range(400)]
    observed = np.bincount(first, minlength=20)
    assert float(((observed - 20) ** 2 / 20).sum()) < 43.8  # p = 0.001


def test_hashes_of_neighbours_share_no_bits():
    bits = np.unpackbits(position_hash(0, 0, np.arange(4096)).view(np.uint8).reshape(4096, 8), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.05
    assert abs(np.mean(bits[1:] != bits[:-1]) - 0.5) < 0.01
    assert len(np.unique(position_hash(0, 0, np.arange(4096)))) == 4096


GOLDEN_LABELS = np.repeat([0, 1, 2], [133, 437, 210])
GOLDEN = "4de635ea068bdd7cb628fddcd836166e1a5630b8333e4cfd95d8b1db7953432d"


def test_the_order_is_the_one_that_earlier_versions_gave():
    """A changed order would silently break the resuming and the repeating of old runs."""
    digest = hashlib.sha256()
    for seed, epoch, target in ((0, 0, 1.0), (7, 3, 1.0), (2**31, 59, 0.5), (0, 0, None)):
        digest.update(epoch_order(GOLDEN_LABELS, seed, epoch, target).astype("<i8").tobytes())
    assert digest.hexdigest() == GOLDEN


def test_a_small_order_is_spelt_out():
    assert epoch_order(np.array([0, 1, 1, 1, 2, 2]), seed=1, epoch=0).tolist() == [0, 3, 4, 0, 1, 4, 0, 2, 5]


def test_the_order_is_the_same_in_another_process(python):
    code = (
        "import json, numpy as np; from busmt.data.balance import epoch_order; "
        "labels = np.repeat([0, 1, 2], [13, 43, 21]); "
        "print(json.dumps([epoch_order(labels, 5, epoch).tolist() for epoch in range(3)]))"
    )
    other = json.loads(python(code, PYTHONHASHSEED="12345").stdout)
    labels = np.repeat([0, 1, 2], [13, 43, 21])
    assert other == [epoch_order(labels, 5, epoch).tolist() for epoch in range(3)]


def test_round_repeats_each_class_by_its_share_whole():
    """Curated BUSI of Aumente-Maestro et al.: benign x2, malignant x3, normal x7."""
    labels = np.repeat([1, 2, 0], [222, 164, 64])
    assert class_quota(labels, mode="round") == {0: 64 * 7, 1: 222 * 2, 2: 164 * 3}
    for epoch in (0, 3):
        uses = np.bincount(epoch_order(labels, 5, epoch, mode="round"), minlength=len(labels))
        assert uses.tolist() == [2] * 222 + [3] * 164 + [7] * 64
    assert epoch_length(labels, mode="round") == 64 * 7 + 222 * 2 + 164 * 3
    assert class_quota(np.array([1, 1, 2, 2]), mode="round") == {1: 4, 2: 4}
    with pytest.raises(ValueError, match="mode must be one of rotation, round, got 'random'"):
        class_quota(labels, mode="random")
