"""Paired comparison of systems."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from disc_cohort import fake_predictions, make_cohort

from busmt.config import CLASSES
from busmt.errors import DataError
from busmt.evaluation.compare import COMPARED, System, compare, paired_statistic, right_alone, verdict
from busmt.evaluation.protocol import evaluate_table, score_predictions


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("compare"), per_class=30)


def table_of(catalog, **options):
    pairs = zip(catalog, fake_predictions(catalog, **options), strict=True)
    return score_predictions(pairs, catalog.table, resamples=10).per_image


@pytest.fixture(scope="module")
def weak(catalog):
    return table_of(catalog, skill=0.5, shift=4)


@pytest.fixture(scope="module")
def strong(catalog):
    return table_of(catalog, skill=4.0, shift=1)


def test_a_better_system_is_said_to_be_better_and_by_how_much(weak, strong):
    result = compare([System("weak", (weak,)), System("strong", (strong,))], resamples=400)
    measures = result["comparisons"][0]["measures"]
    lesions = weak["lesion_pixels"] > 0
    gain = strong["dice"][lesions].mean() - weak["dice"][lesions].mean()
    assert measures["dice"]["difference"]["value"] == pytest.approx(gain)
    assert measures["dice"]["first"] == pytest.approx(weak["dice"].mean())
    assert measures["dice"]["difference"]["low"] > 0
    for name in ("dice", "accuracy", "auroc_macro", "hd95_px", "brier"):
        assert measures[name]["verdict"] == "better", name
        assert measures[name]["p_value"] < 0.05, name
    assert measures["hd95_px"]["difference"]["value"] < 0


def test_the_other_way_round_is_worse_by_as_much(weak, strong):
    forth = compare([System("w", (weak,)), System("s", (strong,))], resamples=200)["comparisons"][0]["measures"]
    back = compare([System("s", (strong,)), System("w", (weak,))], resamples=200)["comparisons"][0]["measures"]
    for name in COMPARED:
        there, here = forth[name]["difference"], back[name]["difference"]
        assert there["value"] == pytest.approx(-here["value"], abs=1e-9)
        assert there["low"] == pytest.approx(-here["high"], abs=1e-9)
    assert back["dice"]["verdict"] == "worse"


def test_images_that_one_alone_gets_right_are_what_accuracies_differ_by(weak, strong):
    (found,) = compare([System("weak", (weak,)), System("strong", (strong,))], resamples=100)["comparisons"]
    alone = found["right_alone"]
    right = {name: table["label"] == table["predicted"] for name, table in (("first", weak), ("second", strong))}
    assert alone["first"] == (right["first"] & ~right["second"]).sum()
    gap = (alone["second"] - alone["first"]) / len(weak)
    assert gap == pytest.approx(found["measures"]["accuracy"]["difference"]["value"])
    masks = weak.assign(predicted=np.nan, **{name: np.nan for name in weak if name.startswith(("p_", "raw_p_"))})
    assert right_alone(weak, masks) is None


def test_a_system_does_not_differ_from_itself(weak):
    result = compare([System("a", (weak,)), System("b", (weak.sample(frac=1, random_state=0),))], resamples=200)
    for values in result["comparisons"][0]["measures"].values():
        assert values["difference"]["value"] == pytest.approx(0, abs=1e-9)
        assert values["verdict"] == "not shown to differ"
        assert values["p_value"] == 1


def test_values_are_those_of_the_evaluation(weak, strong):
    measures = compare([System("w", (weak,)), System("s", (strong,))], resamples=100)["comparisons"][0]["measures"]
    alone = evaluate_table(strong, resamples=10).metrics
    assert measures["dice"]["second"] == pytest.approx(alone["segmentation"]["measures"]["dice"]["value"])
    for name in ("balanced_accuracy", "auroc_malignant", "macro_f1"):
        assert measures[name]["second"] == pytest.approx(alone["classification"]["measures"][name]["value"])
    assert measures["false_positive_rate"]["second"] == alone["normals"]["false_positive_rate"]["value"]


def test_missing_a_lesion_does_not_improve_the_distance(weak):
    """A system that misses the worst outlined lesion keeps the same HD95 difference of 0."""
    misses = weak.copy()
    worst = misses["hd95_px"].idxmax()
    misses.loc[worst, ["hd95_px", "asd_px"]] = np.nan
    misses.loc[worst, ["dice", "iou", "surface_dice", "predicted_pixels"]] = 0
    ones, none = np.ones((1, len(weak))), np.zeros((1, len(weak)))
    statistic = paired_statistic(weak, misses, CLASSES)
    first, second = statistic(np.hstack((ones, none))), statistic(np.hstack((none, ones)))
    assert first["hd95_px"] == pytest.approx(second["hd95_px"])
    assert first["dice"] > second["dice"]


def test_folds_are_pooled(weak, strong):
    halves = (weak.iloc[::2], weak.iloc[1::2])
    together = compare([System("w", halves), System("s", (strong,))], resamples=100)
    alone = compare([System("w", (weak,)), System("s", (strong,))], resamples=100)
    assert together["comparisons"][0]["measures"]["dice"] == alone["comparisons"][0]["measures"]["dice"]
    folds = together["folds"]["w"]["dice"]
    assert folds["folds"] == [pytest.approx(half["dice"].mean()) for half in halves]
    assert folds["sd"] == pytest.approx(np.std(folds["folds"], ddof=1))


def test_one_image_in_two_folds_is_refused(weak, strong):
    with pytest.raises(DataError, match="scored by two of its runs"):
        compare([System("w", (weak, weak.head(1))), System("s", (strong,))])


def test_different_images_need_consent(weak, strong):
    fewer = strong.iloc[5:]
    with pytest.raises(DataError, match=r"85 of 90 in common.*--common"):
        compare([System("w", (weak,)), System("s", (fewer,))])
    result = compare([System("w", (weak,)), System("s", (fewer,))], common=True, resamples=100)
    assert (result["images"], result["left_out"]) == (85, 5)
    with pytest.raises(DataError, match="none in common"):
        compare([System("w", (weak.head(5),)), System("s", (strong.tail(5),))], common=True)


def test_other_classes_and_single_systems_are_refused(weak):
    renamed = weak.assign(label=["benign" if label == "normal" else label for label in weak["label"]])
    with pytest.raises(DataError, match="another class"):
        compare([System("a", (weak,)), System("b", (renamed,))])
    other = weak.assign(lesion_pixels=weak["lesion_pixels"] + 1)
    with pytest.raises(DataError, match="another lesion mask in b than in a: not the same images"):
        compare([System("a", (weak,)), System("b", (other,))])
    with pytest.raises(DataError, match="at least two"):
        compare([System("a", (weak,))])


def test_cohort_without_normals(weak, strong):
    lesions = [table[table["label"] != "normal"] for table in (weak, strong)]
    result = compare([System("w", (lesions[0],)), System("s", (lesions[1],))], resamples=100)
    assert "false_positive_rate" not in result["comparisons"][0]["measures"]
    assert result["classes"] == ["benign", "malignant"]


@pytest.mark.parametrize(
    "low, high, p_value, more, expected",
    [
        (0.1, 0.2, 0.01, True, "better"),
        (0.1, 0.2, 0.01, False, "worse"),
        (-0.2, -0.1, 0.01, False, "better"),
        (-0.1, 0.1, 0.01, True, "not shown to differ"),
        (0.1, 0.2, 0.06, True, "not shown to differ"),
        (np.nan, np.nan, np.nan, True, "not shown to differ"),
    ],
)
def test_verdict(low, high, p_value, more, expected):
    assert verdict(low, high, p_value, more) == expected


def test_tables_that_were_written_and_read(weak, tmp_path):
    weak.to_csv(tmp_path / "table.csv", index=False)
    read = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, na_values=[""])
    result = compare([System("a", (weak,)), System("b", (read,))], resamples=100)
    assert result["comparisons"][0]["measures"]["dice"]["difference"]["value"] == pytest.approx(0, abs=1e-9)
