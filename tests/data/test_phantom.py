"""Phantoms: deterministic, varied, with masks that fit, and no telltale of the class."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.config import CLASSES
from busmt.data.cohorts import read_busi
from busmt.data.phantom import make_phantom, write_phantoms


@given(st.sampled_from(CLASSES), st.integers(0, 10**6), st.integers(64, 260), st.integers(64, 320))
@settings(max_examples=25, deadline=None)
def test_shapes_types_and_masks(label, seed, height, width):
    phantom = make_phantom(label, seed, (height, width))
    assert phantom.image.shape == phantom.mask.shape == (height, width)
    assert phantom.image.dtype == np.uint8
    assert phantom.mask.dtype == bool
    assert phantom.mask.any() == (label != "normal")
    assert phantom.mask.mean() < 0.5
    assert phantom.image.std() > 5


@pytest.mark.parametrize("label", CLASSES)
def test_pure_function_of_its_arguments(label):
    first, again, other = (make_phantom(label, seed, (96, 120)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert np.abs(first.image.astype(int) - other.image).mean() > 5


def test_unknown_class():
    with pytest.raises(Exception, match="cyst"):
        make_phantom("cyst", 0)


def test_lesions_are_darker_than_what_surrounds_them():
    import cv2

    darker = []
    for seed in range(40):
        phantom = make_phantom(CLASSES[1 + seed % 2], seed, (160, 200))
        mask = phantom.mask.astype(np.uint8)
        ring = cv2.dilate(mask, np.ones((15, 15), np.uint8)).astype(bool) & ~phantom.mask
        darker.append(phantom.image[phantom.mask].mean() < phantom.image[ring].mean())
    assert np.mean(darker) > 0.9


def test_benign_is_wider_and_smoother_than_malignant():
    from skimage.measure import label as components
    from skimage.measure import regionprops

    shapes = {}
    for name in CLASSES[1:]:
        regions = [regionprops(components(make_phantom(name, seed, (160, 200)).mask))[0] for seed in range(40)]
        shapes[name] = np.mean([region.solidity for region in regions])
    assert shapes["benign"] > shapes["malignant"] + 0.03


def test_global_statistics_do_not_give_the_class_away():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = [], []
    for seed in range(240):
        phantom = make_phantom(CLASSES[seed % 3], seed, (96, 120))
        histogram = np.histogram(phantom.image, bins=12, range=(0, 256), density=True)[0]
        features.append([phantom.image.mean(), phantom.image.std(), *histogram * 1000])
        labels.append(seed % 3)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    assert cross_val_score(model, features, labels, cv=5).mean() < 0.75


def test_written_cohort_is_a_busi_folder_and_repeats_itself(tmp_path):
    digests = []
    for name in ("one", "two"):
        folder = write_phantoms(tmp_path / name, per_class={"normal": 1, "benign": 3, "malignant": 2}, seed=5)
        catalog = read_busi(folder)
        assert catalog.counts() == {"normal": 1, "benign": 3, "malignant": 2}
        catalog.verify()
        files = sorted(path for path in folder.rglob("*.png"))
        digests.append(hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    assert digests[0] == digests[1]


def test_sizes_vary_like_in_a_cohort(tmp_path):
    folder = write_phantoms(tmp_path / "x", per_class=6, seed=2)
    from busmt.data.images import image_size

    assert len({image_size(sample.image) for sample in read_busi(folder)}) > 6
