"""curate: what is grouped, dropped, kept and flagged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from busmt.config import CurationConfig
from busmt.data import images
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_cohort
from busmt.data.curation import curate, read_name_list
from busmt.errors import ConfigError, DataError

ALL = CurationConfig(duplicates="all")


def decision(curation, name) -> pd.Series:
    return curation.decisions.set_index("image_id").loc[name]


def test_a_clean_cohort_is_left_alone(cohort, scan):
    for seed in range(30):
        cohort.add(f"s{seed}", scan(seed), ("normal", "benign", "malignant")[seed % 3])
    curation = curate(cohort.catalog(), CurationConfig())
    assert curation.catalog.ids == cohort.catalog().ids
    assert curation.catalog.table["group"].tolist() == cohort.catalog().ids
    assert "removed" not in set(curation.decisions["decision"])
    assert curation.pairs.empty


def test_the_larger_copy_is_kept_with_its_evidence(cohort, scan):
    large = scan(1, (240, 300))
    cohort.add("small", cv2.resize(large, (150, 120), interpolation=cv2.INTER_AREA)).add("large", large)
    curation = curate(cohort.add("other", scan(2)).catalog(), CurationConfig())
    assert curation.catalog.ids == ["large", "other"]
    removed = decision(curation, "small")
    assert (removed["decision"], removed["rule"], removed["evidence"]) == ("removed", "duplicate", "large")
    assert removed["similarity"] > 0.9
    assert decision(curation, "large")["group"] == removed["group"]


def test_the_copy_without_marks_is_kept(cohort, scan):
    clean = scan(3, (300, 400))
    marked = clean.copy()
    cv2.putText(marked, "LEFT BREAST", (20, 280), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 2)
    curation = curate(cohort.add("marked", marked).add("clean", clean).catalog(), CurationConfig())
    assert curation.catalog.ids == ["clean"]
    assert "text" in decision(curation, "marked")["boxes"]


def test_all_copies_can_be_kept_in_one_group(cohort, scan):
    cohort.add("a", scan(1)).add("b", scan(1)).add("c", scan(2))
    assert curate(cohort.catalog(), ALL).catalog.table["group"].tolist() == ["a", "a", "c"]


def test_one_picture_under_two_classes_is_removed_whole(cohort, scan):
    cohort.add("a", scan(1)).add("b", scan(1), "malignant").add("c", scan(2))
    curation = curate(cohort.catalog(), CurationConfig())
    assert curation.catalog.ids == ["c"]
    assert decision(curation, "a")["evidence"] == "b"
    assert "malignant" in decision(curation, "a")["reason"]
    kept = curate(cohort.catalog(), CurationConfig(contradictions="keep", duplicates="all"))
    assert len(kept.catalog) == 3
    assert decision(kept, "a")["rule"] == "contradiction"


def test_a_lesion_under_normal_is_a_contradiction(cohort, scan):
    cohort.add("lesion", scan(1)).add("normal", scan(1), "normal").add("c", scan(2))
    assert curate(cohort.catalog(), CurationConfig()).catalog.ids == ["c"]


def test_patient_groups_are_merged_never_split(cohort, scan):
    cohort.add("a", scan(1), group="p1").add("b", scan(2), group="p1").add("c", scan(3), group="p2")
    cohort.add("d", scan(2), group="p3")
    assert curate(cohort.catalog(), ALL).catalog.table["group"].tolist() == ["p1", "p1", "p2", "p1"]


def test_patients_joined_across_official_folds_go_where_most_of_them_are(cohort, scan):
    cohort.add("a", scan(1), group="p1").add("b", scan(2), group="p1").add("c", scan(3), group="p2")
    cohort.add("d", scan(2), group="p3")
    given = Catalog(cohort.catalog().table.assign(fold=[4, 4, 1, 2]))
    assert curate(given, ALL).catalog.table["fold"].tolist() == [4, 4, 1, 4]


def test_a_patient_that_was_split_before_curation_is_not_mended(cohort, scan):
    cohort.add("a", scan(1), group="p1").add("b", scan(2), group="p1").add("c", scan(3), group="p2")
    given = Catalog(cohort.catalog().table.assign(fold=[0, 1, 1]))
    assert curate(given, ALL).catalog.table["fold"].tolist() == [0, 1, 1]


def test_copies_whose_masks_disagree_are_flagged_with_the_iou(cohort, scan):
    mask = np.zeros((120, 150), bool)
    mask[40:80, 100:150] = True
    cohort.add("a", scan(1)).add("b", scan(1), mask=mask)
    curation = curate(cohort.catalog(), CurationConfig())
    assert decision(curation, "a")["rule"] == "masks-disagree"
    assert curation.pairs["mask_iou"][0] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    "mask, label, rule",
    [
        (np.zeros((120, 150), bool), "benign", "mask-empty"),
        (np.ones((120, 150), bool), "benign", "mask-whole"),
        (np.pad(np.zeros((40, 50), bool), 40, constant_values=True)[:120, :150], "benign", "mask-inverted"),
        (np.eye(120, 150, dtype=bool), "normal", "mask-on-normal"),
        (np.ones((50, 50), bool), "malignant", "mask-unreadable"),
    ],
)
def test_unusable_masks_are_removed_and_named(cohort, scan, mask, label, rule):
    mask = mask if mask.shape != (120, 130) else np.pad(mask, ((0, 0), (0, 20)), constant_values=True)
    cohort.add("bad", scan(1), label, mask=mask).add("good", scan(2))
    curation = curate(cohort.catalog(), CurationConfig())
    assert curation.catalog.ids == ["good"]
    assert decision(curation, "bad")["rule"] == rule


def test_missing_and_broken_files_are_removed_and_named(cohort, scan):
    cohort.add("no mask", scan(1)).add("broken", scan(2)).add("good", scan(3))
    Path(cohort.rows[0]["masks"]).unlink()
    Path(cohort.rows[1]["image"]).write_bytes(b"not an image")
    curation = curate(cohort.catalog(), CurationConfig())
    assert curation.catalog.ids == ["good"]
    assert "no such file" in decision(curation, "no mask")["reason"]
    assert decision(curation, "broken")["rule"] == "unreadable"


@pytest.mark.parametrize("kind", ["blank", "noise", "page", "colour"])
def test_what_is_not_a_scan_is_removed(cohort, scan, kind):
    rng = np.random.default_rng(0)
    pixels = {
        "blank": np.full((120, 150), 90, np.uint8),
        "noise": rng.integers(0, 256, (120, 150), dtype=np.uint8),
        "page": np.clip(rng.normal(240, 8, (120, 150)), 0, 255).astype(np.uint8),
        "colour": np.stack([scan(1), np.zeros((120, 150), np.uint8), 255 - scan(1)], axis=-1),
    }[kind]
    curation = curate(cohort.add("odd", pixels).add("good", scan(2)).catalog(), CurationConfig())
    assert curation.catalog.ids == ["good"]
    assert decision(curation, "odd")["rule"] == "not-a-scan"


def test_flags_keep_the_sample_unless_they_are_to_be_dropped(cohort, scan):
    two = np.zeros((120, 150), bool)
    two[20:40, 20:40] = two[80:100, 100:130] = True
    small = np.zeros((120, 150), bool)
    small[60:66, 60:66] = True
    cohort.add("benign (199)", scan(1), cohort="busi").add("two", scan(2), mask=two).add("small", scan(3), mask=small)
    cohort.add("plain", scan(4))
    kept = curate(cohort.catalog(), CurationConfig())
    assert len(kept.catalog) == 4
    rules = [decision(kept, name)["rule"] for name in kept.catalog.ids]
    assert rules == ["axilla", "multifocal", "small", ""]
    dropped = curate(cohort.catalog(), CurationConfig(drop_flags="axilla, small"))
    assert dropped.catalog.ids == ["two", "plain"]
    with pytest.raises(ConfigError, match="unknown flag 'axila'"):
        curate(cohort.catalog(), CurationConfig(drop_flags="axila"))


def test_a_person_wins_and_is_recorded(cohort, scan, tmp_path):
    cohort.add("a", scan(1)).add("b", scan(1)).add("c", scan(2)).add("d", scan(3))
    file = tmp_path / "overrides.csv"
    file.write_text("image_id,action,group,note\nb,keep,,clearer\nc,remove,,\nd,regroup,a,same visit\n")
    curation = curate(cohort.catalog(), CurationConfig(), overrides=file)
    assert curation.catalog.ids == ["a", "b", "d"]
    assert curation.catalog.table["group"].tolist() == ["a", "a", "a"]
    told = decision(curation, "b")
    assert told["rule"] == "override"
    assert "clearer" in told["reason"]
    assert "duplicate of a" in told["reason"]


def test_a_person_can_part_what_the_rules_joined(cohort, scan, tmp_path):
    cohort.add("a", scan(1)).add("b", scan(1), "malignant").add("c", scan(2))
    file = tmp_path / "overrides.csv"
    file.write_text("image_id,action,group\nb,regroup,b alone\n")
    curation = curate(cohort.catalog(), CurationConfig(), overrides=file)
    assert curation.catalog.table["group"].tolist() == ["a", "b alone", "c"]


@pytest.mark.parametrize(
    "line, message",
    [
        ("z,keep,", "no image 'z'"),
        ("a,delete,", "action must be one of"),
        ("a,regroup,", "needs a group"),
        ("a,keep,g", "takes no group"),
    ],
)
def test_wrong_overrides_are_refused_with_their_line(cohort, scan, tmp_path, line, message):
    file = tmp_path / "overrides.csv"
    file.write_text(f"image_id,action,group\n{line}\n")
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        curate(cohort.add("a", scan(1)).catalog(), CurationConfig(), overrides=file)


def test_a_name_list_decides_alone(cohort, scan, tmp_path):
    cohort.add("benign (1)", scan(1)).add("benign (2)", scan(1)).add("normal (3)", scan(3), "normal")
    listing = tmp_path / "list.csv"
    listing.write_text("class;id\nbenign;1\nbenign;2\nbenign;9\n")
    curation = curate(cohort.catalog(), CurationConfig(curated=str(listing)))
    assert curation.catalog.ids == ["benign (1)", "benign (2)"]
    assert curation.catalog.table["group"].nunique() == 1
    assert "benign (9)" in curation.notes[0]
    assert decision(curation, "benign (2)")["reason"].startswith("listed, though duplicate")
    listing.write_text("image_id,decision\nbenign (1),kept\nnormal (3),removed\n")
    assert curate(cohort.catalog(), CurationConfig(curated=str(listing))).catalog.ids == ["benign (1)"]


def test_a_list_of_another_cohort_is_refused(cohort, scan, tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("image_id\nunknown\n")
    cohort.add("a", scan(1))
    with pytest.raises(DataError, match="none of the 1 samples"):
        curate(cohort.catalog(), CurationConfig(curated=str(listing)))
    with pytest.raises(DataError, match="nor a built-in list"):
        curate(cohort.catalog(), CurationConfig(curated="no-such-list"))


def test_nothing_left_is_an_error_with_a_reason(cohort, scan):
    cohort.add("a", scan(1)).add("b", scan(1), "malignant")
    with pytest.raises(DataError, match="nothing is left: a was removed"):
        curate(cohort.catalog(), CurationConfig())


def test_the_result_is_the_same_every_time_and_with_a_cache(cohort, scan, tmp_path):
    for seed in range(12):
        cohort.add(f"s{seed}", scan(seed % 7))
    first = curate(cohort.catalog(), CurationConfig())
    for _ in range(2):
        again = curate(cohort.catalog(), CurationConfig(), cache_dir=tmp_path / "cache")
        pd.testing.assert_frame_equal(first.decisions, again.decisions)
        pd.testing.assert_frame_equal(first.pairs, again.pairs)
        pd.testing.assert_frame_equal(first.catalog.table, again.catalog.table)


def test_the_cache_notices_a_changed_file(cohort, scan, tmp_path):
    cohort.add("a", scan(1)).add("b", scan(2))
    assert len(curate(cohort.catalog(), CurationConfig(), cache_dir=tmp_path / "cache").catalog) == 2
    images.write_png(cohort.rows[1]["image"], scan(1))
    assert len(curate(cohort.catalog(), CurationConfig(), cache_dir=tmp_path / "cache").catalog) == 1


def test_progress_ends_at_the_number_of_images(cohort, scan):
    calls: list[tuple[int, int]] = []
    for seed in range(5):
        cohort.add(f"s{seed}", scan(seed // 2))
    curate(cohort.catalog(), CurationConfig(), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5, 5)
    assert calls == sorted(calls)


@pytest.mark.slow
@pytest.mark.real_data
def test_busi_is_curated_as_the_packaged_list_says(busi_dir):
    cohort = read_cohort(busi_dir)
    curation = curate(cohort, CurationConfig())
    assert (curation.pairs["kind"] != "frame").sum() >= 200
    crossed = curation.pairs[curation.pairs["first_label"] != curation.pairs["second_label"]]
    assert len(crossed) >= 6
    for name in ("benign (433)", "malignant (145)"):
        assert decision(curation, name)["rule"] == "contradiction"
    assert set(read_name_list("busi-curated-v1").ids) == set(curation.catalog.ids)
