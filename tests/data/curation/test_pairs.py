"""Search and verification: changed copies are found, other scans are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.config import CurationConfig
from busmt.data.curation import curate
from busmt.data.curation.alignment import align, block_agreement, correlation, mask_iou, window_matrix
from busmt.data.curation.candidates import descriptors
from busmt.data.curation.groups import merged_groups

SIZE = (240, 300)


def crop(image):
    return image[30:225, 45:285].copy()


CHANGES = {
    "rescaled": lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "cropped": crop,
    "mirrored": lambda image: image[:, ::-1].copy(),
    "mirrored and cropped": lambda image: crop(image)[:, ::-1].copy(),
    "brighter": lambda image: cv2.add(image, 30),
    "gamma": lambda image: (255 * (image / 255.0) ** 0.6).astype(np.uint8),
    "contrast": lambda image: np.clip((image.astype(float) - 100) * 0.7 + 100, 0, 255).astype(np.uint8),
    "recompressed": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 40])[1], cv2.IMREAD_GRAYSCALE),
    "captioned": lambda image: cv2.putText(image.copy(), "RT UOQ", (20, 220), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_others(cohort, scan, change):
    for seed in range(6):
        cohort.add(f"s{seed}", scan(seed, SIZE), "normal")
    cohort.add("copy", CHANGES[change](scan(2, SIZE)), "normal")
    pairs = curate(cohort.catalog(), CurationConfig(duplicates="all")).pairs
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [("s2", "copy")]
    assert pairs["kind"][0] == "near-duplicate"
    assert pairs["mirrored"][0] == ("mirrored" in change)


def test_another_encoding_of_the_same_pixels_is_exact(cohort, scan):
    cohort.add("grey", scan(1), "normal").add("colour", np.repeat(scan(1)[..., None], 3, axis=-1), "normal")
    assert curate(cohort.catalog(), CurationConfig()).pairs["kind"].tolist() == ["exact"]


def test_a_deformed_frame_is_grouped_but_kept(cohort, scan):
    still = scan(1, SIZE)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    moved = cv2.remap(still, columns + 5 * np.sin(rows / 25), rows + 4 * np.sin(columns / 20), cv2.INTER_LINEAR)
    curation = curate(cohort.add("a", still).add("b", moved).catalog(), CurationConfig())
    assert curation.pairs["kind"].tolist() == ["frame"]
    assert curation.catalog.ids == ["a", "b"]
    assert curation.catalog.table["group"].nunique() == 1


def test_same_anatomy_with_other_speckle_is_not_a_copy(cohort):
    """Two scans whose coarse structure agrees in part but whose detail does not."""
    layers = cv2.GaussianBlur(np.repeat(np.linspace(60, 160, 240)[:, None], 300, axis=1), (0, 0), 9)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        speckle = cv2.GaussianBlur(rng.rayleigh(1.0, SIZE), (0, 0), 2.5)
        blobs = cv2.resize(rng.normal(0, 40, (6, 8)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        pixels = np.clip((layers + blobs) * (speckle / speckle.mean()) ** 2, 0, 255).astype(np.uint8)
        cohort.add(f"s{seed}", pixels, "normal")
    assert curate(cohort.catalog(), CurationConfig()).pairs.empty


def test_more_images_than_are_compared_exhaustively(cohort, scan, monkeypatch):
    from busmt.data.curation import candidates

    monkeypatch.setattr(candidates, "_EXACT", 20)
    for seed in range(40):
        cohort.add(f"s{seed}", scan(seed), "normal")
    cohort.add("copy", cv2.resize(scan(7), (130, 100), interpolation=cv2.INTER_AREA), "normal")
    pairs = curate(cohort.catalog(), CurationConfig()).pairs
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [("s7", "copy")]


@settings(max_examples=25, deadline=None)
@given(gamma=st.floats(0.4, 2.5), seed=st.integers(0, 5))
def test_descriptors_hardly_change_under_a_rising_curve(scan, gamma, seed):
    image = cv2.resize(scan(seed), (96, 96), interpolation=cv2.INTER_AREA)
    curved = (255 * (image / 255.0) ** gamma).round().astype(np.uint8)
    one, other = descriptors([image, curved], whole_only=True)[:, 0]
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ other > 0.95


def test_descriptors_do_not_depend_on_the_other_images(scan):
    thumbnails = [cv2.resize(scan(seed), (96, 96), interpolation=cv2.INTER_AREA) for seed in range(3)]
    together = descriptors(thumbnails)
    for thumbnail, found in zip(thumbnails, together, strict=True):
        np.testing.assert_allclose(descriptors([thumbnail])[0], found, atol=1e-5)


def test_other_tissue_is_given_up_after_few_steps(scan, monkeypatch):
    steps, full = [], cv2.findTransformECC

    def counted(*given):
        steps.append(given[4][1])
        return full(*given)

    monkeypatch.setattr(cv2, "findTransformECC", counted)
    first, second = (cv2.resize(scan(seed, SIZE), (96, 96), interpolation=cv2.INTER_AREA) for seed in (1, 2))
    whole = window_matrix(0, False)
    assert align(first, second, whole) is None
    assert sum(steps) <= 3
    assert align(first, first, whole)[1] == pytest.approx(1, abs=1e-3)
    assert sum(steps) > 3


def test_agreement_is_one_for_the_same_picture_and_small_for_others(scan):
    same = np.eye(2, 3, dtype=np.float32)
    one, other = (cv2.resize(scan(seed, SIZE), (192, 192)) for seed in (1, 2))
    assert block_agreement(one, one, same) == pytest.approx(1, abs=1e-3)
    assert block_agreement(one, other, same) < 0.4


def test_correlation_of_a_constant_is_zero():
    assert correlation(np.ones((4, 4)), np.arange(16.0).reshape(4, 4)) == 0


def test_mask_iou_by_hand():
    same = np.eye(2, 3, dtype=np.float32)
    left, right = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    left[10:20, 10:30], right[10:20, 20:40] = True, True
    assert mask_iou(left, right, same, False) == pytest.approx(1 / 3, abs=1e-3)
    assert mask_iou(left, left[:, ::-1].copy(), same, True) == 1
    assert np.isnan(mask_iou(~left & left, right & ~right, same, False))


@given(
    groups=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12),
    links=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=8),
)
def test_groups_are_only_ever_merged(groups, links):
    links = [(a, b) for a, b in links if a < len(groups) and b < len(groups)]
    merged = merged_groups(groups, links)
    for a in range(len(groups)):
        for b in range(len(groups)):
            if groups[a] == groups[b]:
                assert merged[a] == merged[b]
    for a, b in links:
        assert merged[a] == merged[b]
    if not links:
        assert merged == groups
