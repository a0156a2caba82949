"""Folds: groups stay whole, classes are spread, official and earlier folds are honoured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from busmt.config import CLASSES, FoldsConfig
from busmt.data.catalog import Catalog
from busmt.data.cohorts import read_bus_bra, read_busi
from busmt.data.folds import COLUMNS, check_folds, make_folds, read_folds, write_folds
from busmt.errors import ConfigError, DataError


def catalog_of(labels, groups, **columns) -> Catalog:
    names = [f"image {number}" for number in range(len(labels))]
    return Catalog(
        pd.DataFrame({"image_id": names, "image": names, "masks": names, "label": labels, "group": groups} | columns)
    )


@st.composite
def catalogs(draw, count=3):
    """Groups of one to five images; most of one class, some mixed; at least `count` + 3 groups of each class."""
    labels, groups = [], []
    for name in CLASSES[draw(st.integers(0, 1)) :]:
        sizes = draw(st.lists(st.integers(1, 5), min_size=2 * count + 2, max_size=20))
        for number, size in enumerate(sizes):
            members = [name] * size
            if draw(st.integers(0, 9)) == 0:
                members[0] = draw(st.sampled_from(CLASSES))
            labels += members
            groups += [f"{name} {number}"] * size
    order = draw(st.permutations(range(len(labels))))
    return catalog_of([labels[i] for i in order], [groups[i] for i in order])


@given(catalogs(), st.integers(0, 2), st.integers(0, 1000), st.sampled_from([0.2, 0.34, 0.5]))
@settings(max_examples=60, deadline=None)
def test_groups_are_never_split_and_every_image_is_in_one_part(catalog, fold, seed, share):
    try:
        table = make_folds(catalog, FoldsConfig(count=3, fold=fold, seed=seed, validation_share=share))
    except DataError as error:
        assume("independent groups" not in str(error))
        raise
    assert table["image_id"].tolist() == catalog.ids
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    assert (table.groupby("group")["part"].nunique() == 1).all()
    assert set(table["part"]) == {"train", "validation", "test"}
    assert ((table["part"] == "test") == (table["fold"] == fold)).all()
    assert set(table["fold"]) == {0, 1, 2}


@given(catalogs(), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_folds(catalog, seed):
    config = FoldsConfig(count=3, seed=seed, validation_share=0.5)
    try:
        first = make_folds(catalog, config)
    except DataError:
        assume(False)
    pd.testing.assert_frame_equal(first, make_folds(catalog, config))


@pytest.fixture
def patients() -> Catalog:
    """300 images of 150 patients: 60, 160 and 80."""
    labels = np.repeat(CLASSES, [60, 160, 80])
    return catalog_of(labels, [f"patient {number // 2}" for number in range(300)])


def test_classes_are_spread_evenly_over_folds_and_parts(patients):
    table = make_folds(patients, FoldsConfig())
    shares = table.groupby("fold")["label"].value_counts().unstack()
    assert (shares.max() - shares.min() <= 2).all()
    validation = table[table["part"] == "validation"]["label"].value_counts()
    rest = table[table["part"] != "test"]["label"].value_counts()
    assert (validation / rest - 1 / 7).abs().max() < 0.03


def test_every_fold_can_be_the_test_part_and_they_cover_the_catalog_once(patients):
    tests = [make_folds(patients, FoldsConfig(fold=fold)) for fold in range(5)]
    held_out = np.array([(table["part"] == "test").to_numpy() for table in tests])
    assert (held_out.sum(axis=0) == 1).all()
    assert all((table["fold"] == tests[0]["fold"]).all() for table in tests)


def test_another_seed_gives_other_folds(patients):
    one, other = (make_folds(patients, FoldsConfig(seed=seed))["fold"] for seed in (0, 1))
    assert (one != other).any()


def test_a_fold_that_does_not_exist_is_refused(patients):
    with pytest.raises(ConfigError, match=r"folds.fold is 5, but the folds are \[0, 1, 2, 3, 4\]"):
        make_folds(patients, FoldsConfig(fold=5))


def test_too_few_independent_groups_are_refused_by_class(patients):
    few = catalog_of(["normal"] * 8 + ["benign"] * 20, ["one patient"] * 8 + [f"b{n}" for n in range(20)])
    with pytest.raises(DataError, match="folds.count is 5, but the class normal has only 1 independent groups"):
        make_folds(few, FoldsConfig())


def test_official_folds_are_honoured(patients):
    given = (np.arange(300) // 2 * 7) % 4
    catalog = Catalog(patients.table.assign(fold=given))
    table = make_folds(catalog, FoldsConfig(fold=3, count=9))
    assert table["fold"].tolist() == given.tolist()
    assert ((table["part"] == "test") == (given == 3)).all()


def test_official_folds_that_split_a_patient_are_refused(patients):
    with pytest.raises(DataError, match="the group 'patient 0' is split"):
        make_folds(Catalog(patients.table.assign(fold=np.arange(300) % 5)), FoldsConfig())


@pytest.mark.parametrize("wrong", ["first", "1.7", "", "inf"])
def test_an_official_fold_that_is_no_whole_number_is_named(wrong, patients):
    given = ["0"] * 300
    given[17] = wrong
    with pytest.raises(DataError, match="image 17: no valid number in the column fold"):
        make_folds(Catalog(patients.table.assign(fold=given)), FoldsConfig())


def test_a_folds_file_gives_the_same_split_again(patients, tmp_path):
    table = make_folds(patients, FoldsConfig(fold=2, seed=9))
    write_folds(table, tmp_path / "folds.csv")
    again = make_folds(patients, FoldsConfig(fold=2, seed=0, count=3, file=str(tmp_path / "folds.csv")))
    pd.testing.assert_frame_equal(again, table)


def test_a_folds_file_can_be_used_with_another_fold_held_out(patients, tmp_path):
    table = make_folds(patients, FoldsConfig(fold=2))
    write_folds(table, tmp_path / "folds.csv")
    other = make_folds(patients, FoldsConfig(fold=4, file=str(tmp_path / "folds.csv")))
    assert (other["fold"] == table["fold"]).all()
    assert ((other["part"] == "test") == (table["fold"] == 4)).all()
    pd.testing.assert_frame_equal(other, make_folds(patients, FoldsConfig(fold=4)))


def test_a_folds_file_of_more_images_fits_a_smaller_catalog(patients, tmp_path):
    write_folds(make_folds(patients, FoldsConfig()), tmp_path / "folds.csv")
    smaller = patients.take(np.arange(0, 300, 2)[::-1])
    table = make_folds(smaller, FoldsConfig(file=str(tmp_path / "folds.csv")))
    assert table["image_id"].tolist() == smaller.ids


def test_a_folds_file_that_lacks_images_names_the_first_and_counts_them(patients, tmp_path):
    write_folds(make_folds(patients, FoldsConfig()).iloc[3:], tmp_path / "folds.csv")
    with pytest.raises(DataError, match=r"folds.csv: has no row for 'image 0' \(3 of 300 images are missing\)"):
        make_folds(patients, FoldsConfig(file=str(tmp_path / "folds.csv")))


def test_a_folds_file_that_splits_a_group_of_the_catalog_is_refused(patients, tmp_path):
    table = make_folds(patients, FoldsConfig())
    write_folds(table.assign(group=table["image_id"]), tmp_path / "folds.csv")
    first = table["group"].iloc[0]
    other = table.loc[table["part"] == "train", "group"].iloc[0]
    merged = patients.table["group"].replace({other: first})
    if table.loc[table["group"] == first, "fold"].iloc[0] == table.loc[table["group"] == other, "fold"].iloc[0]:
        other = table.loc[table["fold"] != table["fold"].iloc[0], "group"].iloc[0]
        merged = patients.table["group"].replace({other: first})
    with pytest.raises(DataError, match=f"the group '{first}' is split over two values of fold"):
        make_folds(Catalog(patients.table.assign(group=merged)), FoldsConfig(file=str(tmp_path / "folds.csv")))


def test_a_folds_file_that_splits_a_patient_is_refused_when_it_is_read(patients, tmp_path):
    table = make_folds(patients, FoldsConfig())
    table.loc[0, "fold"] = (table.loc[0, "fold"] + 1) % 5
    write_folds(table, tmp_path / "folds.csv")
    with pytest.raises(DataError, match=r"folds.csv: the group 'patient 0' is split over two values of fold"):
        read_folds(tmp_path / "folds.csv")


def test_a_folds_file_without_training_images_is_refused(patients, tmp_path):
    table = make_folds(patients, FoldsConfig())
    write_folds(table[table["part"] != "validation"], tmp_path / "folds.csv")
    smaller = patients.select(table.loc[table["part"] != "validation", "image_id"])
    with pytest.raises(DataError, match="folds.csv: no image in the part validation"):
        make_folds(smaller, FoldsConfig(file=str(tmp_path / "folds.csv")))


def _rows(**changes) -> str:
    row = {"image_id": "a", "group": "g", "label": "benign", "fold": "0", "part": "train"} | changes
    return ",".join(row) + "\n" + ",".join(row.values()) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable folds file"),
        ("image_id,group,label,fold\na,a,normal,0\n", "the column part is missing"),
        (_rows(part="exam"), "the column part holds something else"),
        (_rows(fold="first"), "no whole number in the column fold"),
        (_rows(fold="1.5"), "no whole number in the column fold"),
        (_rows(fold=""), "no whole number in the column fold"),
        (_rows() + "a,g,benign,0,train\n", "the image_id 'a' occurs twice"),
    ],
)
def test_a_bad_folds_file_gives_one_line_with_its_name(content, message, tmp_path):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(DataError, match=rf"bad\.csv: .*{message}"):
        read_folds(tmp_path / "bad.csv")


def test_a_binary_or_missing_folds_file_gives_one_line_with_its_name(tmp_path):
    (tmp_path / "bad.csv").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match=r"bad\.csv"):
        read_folds(tmp_path / "bad.csv")
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_folds(tmp_path / "none.csv")
    with pytest.raises(DataError, match="it is a folder"):
        read_folds(tmp_path)


def test_names_that_look_like_missing_values_or_numbers_come_back_as_written(tmp_path):
    names = ["NA", "null", "001", "1e3", "benign (1)", 'quoted "x", comma', "nan"]
    table = pd.DataFrame({"image_id": names, "group": names, "label": "benign", "fold": 0, "part": "train"})
    write_folds(table, tmp_path / "folds.csv")
    assert read_folds(tmp_path / "folds.csv")["image_id"].tolist() == names
    assert list(read_folds(tmp_path / "folds.csv").columns) == list(COLUMNS)


def test_check_folds_accepts_whole_groups():
    check_folds(pd.DataFrame({"group": ["a", "a", "b"], "fold": [0, 0, 1], "part": ["test", "test", "train"]}))


@pytest.mark.real_data
def test_bus_bra_keeps_its_official_folds_by_patient(bus_bra_dir):
    catalog = read_bus_bra(bus_bra_dir)
    official = pd.read_csv(bus_bra_dir / "5-fold-cv.csv").set_index("ID")["kFold"]
    for fold in (0, 3):
        table = make_folds(catalog, FoldsConfig(fold=fold))
        assert (table["fold"].to_numpy() == official.loc[table["image_id"]].to_numpy() - 1).all()
        assert set(table.loc[table["part"] == "test", "fold"]) == {fold}
        patients = pd.read_csv(bus_bra_dir / "bus_data.csv").set_index("ID")["Case"].loc[table["image_id"]]
        parts = pd.DataFrame({"patient": patients.to_numpy(), "part": table["part"]})
        assert (parts.groupby("patient")["part"].nunique() == 1).all()


@pytest.mark.real_data
def test_busi_is_split_in_its_proportions(busi_dir):
    catalog = read_busi(busi_dir)
    table = make_folds(catalog, FoldsConfig())
    shares = table.groupby("fold")["label"].value_counts(normalize=True).unstack()
    assert (shares.max() - shares.min()).max() < 0.01


@given(catalogs(), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_without_a_held_out_fold_every_image_is_trained_or_validated_on(catalog, seed):
    try:
        table = make_folds(catalog, FoldsConfig(count=3, fold=None, seed=seed, validation_share=0.5))
    except DataError as error:
        assume("independent groups" not in str(error))
        raise
    assert set(table["part"]) == {"train", "validation"}
    assert (table.groupby("group")["part"].nunique() == 1).all()
