"""Synthetic volumes, and volumes from .npz files."""

from __future__ import annotations

import numpy as np
import pytest

from busmt.data.volumes import make_volume, make_volumes, read_volumes
from busmt.errors import DataError


@pytest.mark.parametrize("label", ["normal", "benign", "malignant"])
def test_a_volume_is_a_pure_function_of_its_arguments(label):
    volume, again, other = (make_volume(label, seed, 24) for seed in (4, 4, 5))
    assert np.array_equal(volume.image, again.image)
    assert np.array_equal(volume.mask, again.mask)
    assert not np.array_equal(volume.image, other.image)
    assert volume.image.dtype == np.float32
    assert (volume.image.min() >= 0, float(volume.image.max())) == (True, 1.0)
    assert volume.mask.any() == (label != "normal")


def test_the_lesion_is_darker_than_what_is_around():
    for volume in make_volumes(9, seed=0, side=32):
        if volume.mask.any():
            assert volume.image[volume.mask].mean() < 0.8 * volume.image[~volume.mask].mean()


def test_classes_come_in_turn():
    assert [volume.label for volume in make_volumes(7, seed=0, side=16)] == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(DataError, match="side 8"):
        make_volume("benign", 0, 8)


def save(folder, name="a", **changes):
    image = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    np.savez(folder / f"{name}.npz", **{"image": image, "mask": image > 0.5, "label": 2, **changes})


def test_volumes_are_read_by_name(tmp_path):
    save(tmp_path, "b", label=0)
    save(tmp_path, "a", image=np.full((16, 16, 16), 255, np.uint8))
    first, second = read_volumes(tmp_path)
    assert (first.label, second.label) == (2, 0)
    assert first.image.dtype == np.float32
    assert first.image.max() == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((16, 16), np.float32)}, "must be cubes of one size"),
        ({"mask": np.zeros((16, 16, 8), bool)}, "must be cubes of one size"),
        ({"image": np.full((16, 16, 16), 300.0)}, r"must be in \[0, 1\]"),
        ({"image": np.full((16, 16, 16), np.nan)}, r"must be in \[0, 1\]"),
        ({"label": 3}, "the label one of 0 to 2"),
        ({"image": np.array([{}], object)}, "not a volume"),
    ],
)
def test_a_bad_file_is_named(tmp_path, changes, message):
    save(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"a\.npz: .*{message}"):
        read_volumes(tmp_path)


def test_an_empty_folder_and_unequal_sizes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.npz file"):
        read_volumes(tmp_path)
    save(tmp_path, "a")
    save(tmp_path, "b", image=np.zeros((8, 8, 8), np.float32), mask=np.zeros((8, 8, 8), bool))
    with pytest.raises(DataError, match=r"b\.npz: its shape \(8, 8, 8\) is not that of"):
        read_volumes(tmp_path)
