"""Checkpoints: what is written comes back bit for bit; what is damaged is refused and changes nothing."""

from __future__ import annotations

import contextlib
import os

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.errors import RunError
from busmt.training.checkpoint import read_checkpoint, write_checkpoint

META = {"history": [{"epoch": 0, "loss": 0.1 + 0.2}], "best_score": float("-inf"), "best_epoch": -1}


def variables(seed=0, shape=(3, 4)):
    generator = np.random.default_rng(seed)
    return {
        "network": [keras.Variable(generator.normal(size=shape).astype(np.float32)), keras.Variable(1.5)],
        "tasks": [],
        "optimizer": [keras.Variable(seed + 7, dtype="int32"), keras.Variable([1, 2**32 - 1], dtype="uint32")],
    }


def values(groups):
    return [np.asarray(variable) for members in groups.values() for variable in members]


def same(one, other) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "epoch_00000.npz", variables(), META)
    return tmp_path / "epoch_00000.npz"


def test_values_and_bookkeeping_come_back_exactly(path):
    target = variables(seed=1)
    assert not same(values(target), values(variables()))
    assert read_checkpoint(path, target) == META
    assert same(values(target), values(variables()))


def test_nothing_but_the_file_is_left_in_the_folder(path):
    write_checkpoint(path, variables(), META)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "target",
    [
        variables(shape=(4, 3)),
        {**variables(), "tasks": [keras.Variable(0.0)]},
        {key: value for key, value in variables().items() if key != "optimizer"},
    ],
    ids=["other shape", "one more", "one less"],
)
def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(path, target):
    before = values(target)
    with pytest.raises(RunError, match=r"epoch_00000\.npz: checkpoint of another network or optimiser"):
        read_checkpoint(path, target)
    assert same(before, values(target))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"none\.npz: damaged or unreadable checkpoint"):
        read_checkpoint(tmp_path / "none.npz", variables())


def test_other_content_is_refused(path):
    np.savez(path, meta=np.array([{"a": object()}], dtype=object))
    with pytest.raises(RunError, match="damaged or unreadable"):
        read_checkpoint(path, variables())
    for content in (b"", b"text", np.arange(3).tobytes()):
        path.write_bytes(content)
        with pytest.raises(RunError, match="damaged or unreadable"):
            read_checkpoint(path, variables())
    np.save(path.with_suffix(".npy"), np.arange(3))
    os.replace(path.with_suffix(".npy"), path)
    with pytest.raises(RunError, match="damaged or unreadable"):
        read_checkpoint(path, variables())


def test_a_checkpoint_truncated_anywhere_is_refused_and_changes_nothing(path):
    content, target = path.read_bytes(), variables(seed=1)
    before = values(target)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match=r"epoch_00000\.npz"):
            read_checkpoint(path, target)
    assert same(before, values(target))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "sound.npz"
    write_checkpoint(path, variables(), META)
    return path.read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_is_noticed_or_without_consequence(tmp_path_factory, sound, place, bit):
    """Bits that the zip format ignores, such as time stamps, may flip; values never change unnoticed."""
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    content = bytearray(sound)
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(bytes(content))
    target = variables(seed=1)
    with contextlib.suppress(RunError):  # any other error fails
        assert read_checkpoint(path, target) == META
        assert same(values(target), values(variables()))
