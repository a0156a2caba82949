"""Photographs are told from scans."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from busmt.config import CurationConfig
from busmt.data import images
from busmt.data.cohorts import read_cohort
from busmt.data.curation import curate
from busmt.data.curation.scan import PHOTOGRAPH, scan_score
from busmt.data.phantom import make_phantom


def photograph(name: str) -> np.ndarray:
    picture = np.asarray(getattr(skimage.data, name)())
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture


@pytest.mark.parametrize("name", ["camera", "astronaut", "cat", "moon", "retina", "rocket"])
def test_grey_photographs_are_no_scans(name):
    assert scan_score(photograph(name)) < PHOTOGRAPH


def test_a_grey_photograph_is_removed_with_its_reason(cohort, scan):
    curation = curate(cohort.add("cat", photograph("cat")).add("good", scan(2)).catalog(), CurationConfig())
    assert curation.catalog.ids == ["good"]
    told = curation.decisions.set_index("image_id").loc["cat"]
    assert told["rule"] == "not-a-scan"
    assert "photograph" in told["reason"]


@pytest.mark.parametrize("label", ["normal", "benign", "malignant"])
def test_phantoms_are_scans_at_any_brightness_and_contrast(label):
    image = make_phantom(label, 3, size=(128, 160)).image
    for change in (image, image // 2, image // 2 + 100, image[:, ::-1]):
        assert scan_score(np.ascontiguousarray(change)) > PHOTOGRAPH


@pytest.mark.parametrize("image", [np.zeros((50, 60), np.uint8), np.full((9, 9), 200, np.uint8)])
def test_where_nothing_can_be_told_nothing_is(image):
    assert scan_score(image) == 0.0


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["busi_dir", "bus_bra_dir"])
def test_real_scans_are_scans(folder, request):
    samples = list(read_cohort(request.getfixturevalue(folder)))[::8]
    assert min(scan_score(images.read_grey(sample.image)) for sample in samples) > PHOTOGRAPH
