"""curate: what is grouped, dropped and kept."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from busmt.config import CurationConfig
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import curate
from busmt.errors import DataError


def scan(seed: int, size: tuple[int, int] = (120, 150)) -> np.ndarray:
    """A smooth random scene with speckle, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(20, 220, (7, 9)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    speckle = cv2.GaussianBlur(rng.rayleigh(1.0, size), (0, 0), size[0] / 80)
    return np.clip(coarse * (speckle / speckle.mean()) ** 2, 0, 255).astype(np.uint8)


class Cohort:
    """Builds a catalog of written files row by row."""

    def __init__(self, folder):
        self.folder, self.rows = folder, []

    def add(self, name, pixels, label="benign", mask=None, group=None):
        if mask is None:
            mask = np.zeros(pixels.shape[:2], bool)
            mask[40:80, 50:100] = label != "normal"
        images.write_png(self.folder / f"{name}.png", pixels)
        images.write_png(self.folder / f"{name}_mask.png", mask)
        self.rows.append({"image_id": name, "image": str(self.folder / f"{name}.png"),
                          "masks": str(self.folder / f"{name}_mask.png"), "label": label,
                          "group": group or name})  # fmt: skip
        return self

    def catalog(self) -> Catalog:
        return Catalog(pd.DataFrame(self.rows))


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)


def decision(curation, name) -> pd.Series:
    return curation.decisions.set_index("image_id").loc[name]


def test_a_clean_cohort_is_left_alone(cohort):
    for seed in range(30):
        cohort.add(f"s{seed}", scan(seed), ("normal", "benign", "malignant")[seed % 3])
    curation = curate(cohort.catalog(), CurationConfig())
    assert curation.catalog.ids == cohort.catalog().ids
    assert curation.catalog.table["group"].tolist() == cohort.catalog().ids
    assert set(curation.decisions["decision"]) == {"kept"}
    assert curation.pairs.empty


def test_the_larger_copy_is_kept_with_its_evidence(cohort):
    large = scan(1, (240, 300))
    cohort.add("small", cv2.resize(large, (150, 120), interpolation=cv2.INTER_AREA)).add("large", large)
    curation = curate(cohort.add("other", scan(2)).catalog(), CurationConfig())
    assert curation.catalog.ids == ["large", "other"]
    removed = decision(curation, "small")
    assert (removed["decision"], removed["evidence"]) == ("removed", "large")
    assert removed["similarity"] > 0.9
    assert decision(curation, "large")["group"] == removed["group"]


def test_all_copies_can_be_kept_in_one_group(cohort):
    cohort.add("a", scan(1)).add("b", scan(1)).add("c", scan(2))
    curation = curate(cohort.catalog(), CurationConfig(duplicates="all"))
    assert curation.catalog.table["group"].tolist() == ["a", "a", "c"]


def test_one_picture_under_two_classes_is_removed_whole(cohort):
    cohort.add("a", scan(1)).add("b", scan(1), "malignant").add("c", scan(2))
    curation = curate(cohort.catalog(), CurationConfig())
    assert curation.catalog.ids == ["c"]
    assert decision(curation, "a")["evidence"] == "b"
    assert "malignant" in decision(curation, "a")["reason"]
    kept = curate(cohort.catalog(), CurationConfig(contradictions="keep", duplicates="all"))
    assert len(kept.catalog) == 3


def test_patient_groups_are_merged_never_split(cohort):
    cohort.add("a", scan(1), group="p1").add("b", scan(2), group="p1").add("c", scan(3), group="p2")
    cohort.add("d", scan(2), group="p3")
    curation = curate(cohort.catalog(), CurationConfig(duplicates="all"))
    assert curation.catalog.table["group"].tolist() == ["p1", "p1", "p2", "p1"]


def test_a_name_list_decides_alone(cohort, tmp_path):
    cohort.add("benign (1)", scan(1)).add("benign (2)", scan(1)).add("normal (3)", scan(3), "normal")
    listing = tmp_path / "list.csv"
    listing.write_text("class;id\nbenign;1\nbenign;2\nbenign;9\n")
    curation = curate(cohort.catalog(), CurationConfig(curated=str(listing)))
    assert curation.catalog.ids == ["benign (1)", "benign (2)"]
    assert curation.catalog.table["group"].nunique() == 1
    assert "benign (9)" in curation.notes[0]
    listing.write_text("image_id,decision\nbenign (1),kept\nnormal (3),removed\n")
    assert curate(cohort.catalog(), CurationConfig(curated=str(listing))).catalog.ids == ["benign (1)"]


def test_a_list_of_another_cohort_is_refused(cohort, tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("image_id\nunknown\n")
    with pytest.raises(DataError, match="none of the 1 samples"):
        curate(cohort.add("a", scan(1)).catalog(), CurationConfig(curated=str(listing)))
    with pytest.raises(DataError, match="nor a built-in list"):
        curate(cohort.catalog(), CurationConfig(curated="no-such-list"))


def test_the_result_is_the_same_every_time(cohort):
    for seed in range(12):
        cohort.add(f"s{seed}", scan(seed % 7))
    first, second = (curate(cohort.catalog(), CurationConfig()) for _ in range(2))
    pd.testing.assert_frame_equal(first.decisions, second.decisions)
    pd.testing.assert_frame_equal(first.catalog.table, second.catalog.table)


@pytest.mark.real_data
def test_busi_pixel_identical_contradiction(busi_dir):
    curation = curate(read_cohort(busi_dir), CurationConfig())
    assert len(curation.pairs) >= 200
    for name in ("benign (433)", "malignant (145)"):
        assert decision(curation, name)["rule"] == "contradiction"
