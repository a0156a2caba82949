"""Catalog: validation at the edge, selection, writing and reading back."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_busi, read_cohort, read_csv
from busmt.data.phantom import write_phantoms
from busmt.errors import DataError


def table(**columns) -> pd.DataFrame:
    rows = {
        "image_id": ["a", "b"], "image": ["a.png", "b.png"], "masks": ["", "b_mask.png"], "label": ["normal", "benign"],
    }  # fmt: skip
    return pd.DataFrame(rows | columns)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"label": ["normal", "cyst"]}, "b.*'cyst'"),
        ({"image_id": ["a", "a"]}, "'a' occurs twice"),
        ({"masks": ["", ""]}, "b is benign but has no mask"),
        ({"image": ["a.png", ""]}, "row 2"),
    ],
)
def test_refusals(change, words):
    with pytest.raises(DataError, match=words):
        Catalog(table(**change))


def test_missing_column():
    with pytest.raises(DataError, match="column label"):
        Catalog(table().drop(columns="label"))


def test_no_rows():
    with pytest.raises(DataError, match="no image"):
        Catalog(table().iloc[:0])


def test_group_defaults_to_the_image():
    assert Catalog(table()).table["group"].tolist() == ["a", "b"]


def test_rows_counts_and_selection():
    catalog = Catalog(table())
    assert catalog.counts() == {"normal": 1, "benign": 1, "malignant": 0}
    assert catalog.classes == ("normal", "benign")
    assert catalog.labels.tolist() == [0, 1]
    assert catalog[1].masks == ("b_mask.png",)
    assert catalog.take([1, 0]).ids == ["b", "a"]
    assert catalog.select(["b"]).ids == ["b"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("cohort") / "phantoms", per_class=3, seed=1, size=(64, 80))


def test_written_catalog_reads_back_and_moves_with_its_folder(cohort, tmp_path):
    place = shutil.copytree(cohort, tmp_path / "first")
    read_busi(place).to_csv(place / "catalog.csv")
    moved = place.rename(tmp_path / "second")
    again = read_csv(moved / "catalog.csv")
    assert again.fingerprint() == read_busi(moved).fingerprint() == read_busi(cohort).fingerprint()
    assert all(str(moved) in sample.image for sample in again)


def test_fingerprint_sees_pixels_and_labels(cohort, tmp_path):
    place = shutil.copytree(cohort, tmp_path / "copy")
    before = read_busi(place)
    relabelled = before.table.copy()
    relabelled.loc[relabelled["label"] == "benign", "label"] = "malignant"
    assert Catalog(relabelled).fingerprint() != before.fingerprint()
    (place / "normal" / "normal (1).png").write_bytes((place / "normal" / "normal (2).png").read_bytes())
    assert read_busi(place).fingerprint() != read_busi(cohort).fingerprint()


def test_verify_counts_all_faults_and_names_the_first(cohort, tmp_path):
    place = shutil.copytree(cohort, tmp_path / "copy")
    for number in (1, 2):
        victim = place / "benign" / f"benign ({number}).png"
        victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(DataError, match=r"benign \(1\)\.png.*1 more"):
        read_cohort(place).verify()


def test_verify_reports_progress(cohort):
    steps: list[tuple[int, int]] = []
    read_cohort(cohort).verify(lambda done, total: steps.append((done, total)))
    assert steps == [(done, 9) for done in range(1, 10)]
