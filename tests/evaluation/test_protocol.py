"""From predictions to metrics.json and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from disc_cohort import fake_predictions, make_cohort

from busmt.config import CLASSES
from busmt.data.images import plain
from busmt.errors import DataError
from busmt.evaluation import protocol, summary
from busmt.evaluation.segmentation import dice


def scored(catalog, resamples=50, referral_threshold=None, **options):
    pairs = zip(catalog, fake_predictions(catalog, **options), strict=True)
    return protocol.score_predictions(pairs, catalog.table, resamples=resamples, referral_threshold=referral_threshold)


def test_every_row_is_its_own_image(cohort, evaluation):
    table = evaluation.per_image.set_index("image_id")
    assert list(table.index) == cohort.ids
    for sample, prediction in zip(cohort, fake_predictions(cohort), strict=True):
        row = table.loc[sample.image_id]
        assert (row["label"], row["predicted"], row["group"]) == (sample.label, prediction.label, sample.group)
        assert row["predicted_pixels"] == prediction.mask.sum()
        if sample.label == "normal":
            assert np.isnan(row["dice"])
        else:
            assert row["dice"] == pytest.approx(dice(sample.read_mask(), prediction.mask))


def test_summary_is_that_of_the_table(evaluation):
    table, metrics = evaluation.per_image, evaluation.metrics
    lesions = table[table["label"] != "normal"]
    measure = metrics["segmentation"]["measures"]["dice"]
    assert measure["value"] == pytest.approx(lesions["dice"].mean())
    assert measure["median"]["value"] == pytest.approx(lesions["dice"].median())
    assert measure["low"] < measure["value"] < measure["high"]
    missed = int((lesions["predicted_pixels"] == 0).sum())
    assert metrics["segmentation"]["missed"] == missed > 0
    assert metrics["segmentation"]["measures"]["hd95_px"]["undefined"] == missed
    assert measure["undefined"] == 0
    marked = metrics["segmentation"]["measures"]["dice_if_marked"]
    assert marked["value"] == pytest.approx(lesions["dice"][lesions["predicted_pixels"] > 0].mean())
    assert (marked["images"], marked["undefined"]) == (len(lesions) - missed, missed)
    assert (
        metrics["detection"]["iou30"]["sensitivity"]["value"] == lesions["found_iou30"].sum() / lesions["lesions"].sum()
    )
    called = (table["label"] == table["predicted"]).mean()
    assert metrics["classification"]["measures"]["accuracy"]["value"] == pytest.approx(called)
    assert np.sum(metrics["classification"]["confusion"]) == len(table)


def test_normals_are_never_averaged_into_dice(evaluation):
    normals = evaluation.per_image[evaluation.per_image["label"] == "normal"]
    assert normals["dice"].isna().all()
    block = evaluation.metrics["normals"]
    assert block["with_false_positive"] == (normals["predicted_pixels"] > 0).sum() > 0
    assert block["false_positive_rate"]["value"] == block["with_false_positive"] / len(normals)


def test_agreement_before_and_after(evaluation):
    agreement = evaluation.metrics["agreement"]
    assert agreement["after"] == {"images": 24, "contradictions": 0, "rate": 0}
    assert agreement["before"]["contradictions"] > 0


def test_agreement_counts_contradictions_of_a_system_without_refinement(cohort):
    predictions = [
        dataclasses.replace(prediction, probability_map=np.zeros_like(prediction.probability_map))
        for prediction in fake_predictions(cohort)
    ]
    result = protocol.score_predictions(zip(cohort, predictions, strict=True), resamples=10)
    lesion_called = (result.per_image["predicted"] != "normal").sum()
    assert result.metrics["agreement"]["after"]["contradictions"] == lesion_called


def test_exported_models_have_no_raw_outputs(cohort):
    result = scored(cohort, raw=False)
    assert result.metrics["agreement"]["before"] is None


def test_subgroups(evaluation):
    groups = evaluation.metrics["subgroups"]
    assert set(groups) == {"label", "lesion_size", "device"}
    assert list(groups["lesion_size"]) == list(summary.SIZES)
    assert list(groups["label"]) == list(CLASSES)
    assert sum(part["images"] for part in groups["device"].values()) == 24
    sizes = evaluation.per_image[evaluation.per_image["label"] != "normal"].groupby("lesion_size")["lesion_share"]
    assert sizes.max()["small"] < sizes.min()["medium"]
    assert sizes.max()["medium"] < sizes.min()["large"]
    malignant = evaluation.per_image[evaluation.per_image["label"] == "malignant"]
    block = groups["label"]["malignant"]
    assert block["segmentation"]["measures"]["dice"]["value"] == pytest.approx(malignant["dice"].mean())
    assert block["accuracy"]["value"] == pytest.approx((malignant["predicted"] == "malignant").mean())


def test_the_average_of_other_papers_counts_empty_masks_on_normals(evaluation):
    table = evaluation.per_image
    normals = table["label"] == "normal"
    by_hand = np.where(normals, table["predicted_pixels"] == 0, table["dice"])
    value = evaluation.metrics["for_comparison_only"]["dice_average"]["value"]
    assert value == pytest.approx(by_hand.astype(float).mean())
    assert value != evaluation.metrics["segmentation"]["measures"]["dice"]["value"]


def test_cohort_without_normals_is_scored_on_two_classes(tmp_path):
    catalog = make_cohort(tmp_path, classes=("benign", "malignant"))
    result = scored(catalog)
    assert result.classes == ("benign", "malignant")
    assert result.metrics["normals"] is None
    assert np.shape(result.metrics["classification"]["confusion"]) == (2, 2)
    assert np.shape(result.metrics["classification"]["confusion_as_said"]) == (2, 3)
    assert np.sum(result.metrics["classification"]["confusion_as_said"]) == len(catalog)
    _, probabilities = summary.scored_labels(result.per_image, result.classes)
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_one_class_has_segmentation_and_no_classification(tmp_path):
    result = scored(make_cohort(tmp_path, per_class=4, classes=("benign",)))
    assert result.metrics["classification"] is None
    assert result.metrics["calibration"] is None
    assert result.metrics["segmentation"]["measures"]["dice"]["value"] > 0


def test_only_normals_have_no_segmentation(tmp_path):
    result = scored(make_cohort(tmp_path, per_class=3, classes=("normal",)))
    assert result.metrics["segmentation"] == {"images": 0, "missed": 0, "measures": {}}
    assert result.metrics["normals"]["images"] == 3


def test_spacing_gives_millimetres(tmp_path):
    result = scored(make_cohort(tmp_path, per_class=4, spacing=0.2))
    lesions = result.per_image[result.per_image["hd95_px"].notna()]
    assert lesions["hd95_mm"].to_numpy() == pytest.approx(0.2 * lesions["hd95_px"].to_numpy())
    assert "hd95_mm" in result.metrics["segmentation"]["measures"]


@pytest.mark.parametrize("spacing", ["wide", -0.1, 0.0, np.inf])
def test_bad_spacing_is_named(tmp_path, spacing):
    catalog = make_cohort(tmp_path, per_class=1)
    catalog.table["spacing_mm"] = pd.Series([spacing] * 3, dtype=object)
    with pytest.raises(DataError, match="normal \\(1\\): spacing_mm must be"):
        scored(catalog)


def test_pairs_must_belong_together(cohort):
    predictions = list(fake_predictions(cohort))
    with pytest.raises(DataError, match="cannot be scored against"):
        protocol.score_predictions(zip(cohort, predictions[::-1], strict=True))
    with pytest.raises(DataError, match="no image"):
        protocol.score_predictions([])


def test_masks_are_not_kept(cohort):
    """Memory does not grow with the pixels: no array of an image survives in the result."""
    table = scored(cohort).per_image
    assert all(np.isscalar(value) for row in table.itertuples(index=False) for value in row)


def test_written_files_hold_every_number(tmp_path, evaluation):
    files = protocol.write_evaluation(evaluation, tmp_path / "out")
    names = {file.relative_to(tmp_path / "out").as_posix() for file in files}
    figures = ("dice", "confusion", "roc", "precision_recall", "reliability", "risk_coverage", "referral")
    assert names == {"metrics.json", "per_image.csv"} | {f"figures/{f}.{s}" for f in figures for s in ("png", "svg")}
    assert all(file.stat().st_size > 200 for file in files)
    assert {file.name for file in (tmp_path / "out").rglob("*.tmp")} == set()

    read = protocol.read_evaluation(tmp_path / "out")
    assert read.metrics == plain(evaluation.metrics)
    again = protocol.evaluate_table(read.per_image, referral_threshold=0.2, resamples=200)
    for block in ("segmentation", "detection", "classification", "agreement", "normals"):
        expected = pd.json_normalize(plain(evaluation.metrics[block])).T[0]
        got = pd.json_normalize(plain(again.metrics[block])).T[0]
        for name, value in expected.items():
            if isinstance(value, float):
                assert got[name] == pytest.approx(value, rel=1e-6), name
            else:
                assert got[name] == value, name


def test_damaged_files_are_named(tmp_path, evaluation):
    with pytest.raises(DataError, match="run `busmt evaluate` first"):
        protocol.read_evaluation(tmp_path)
    protocol.write_metrics(evaluation.metrics, tmp_path / "metrics.json")
    evaluation.per_image.to_csv(tmp_path / "per_image.csv", index=False)
    protocol.read_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(plain(evaluation.metrics | {"schema_version": 99})))
    with pytest.raises(DataError, match="version 99"):
        protocol.read_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        protocol.read_evaluation(tmp_path)


def test_classes_are_scored_in_the_order_of_the_configuration(evaluation):
    assert evaluation.classes == CLASSES


def test_every_key_and_column_is_documented(evaluation):
    """docs/evaluation.md is the schema of metrics.json and per_image.csv."""
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    metrics = evaluation.metrics | {"provenance": {}}
    names = {*metrics, *evaluation.per_image.columns, *metrics["segmentation"], *metrics["normals"]}
    names |= {*metrics["detection"]["iou30"], *metrics["classification"], *metrics["calibration"], *metrics["interval"]}
    names |= set(metrics["segmentation"]["measures"]["dice"]) - {"value", "low", "high"}
    names -= {"device"}  # a column of the catalog
    missing = sorted(name for name in names if f"`{name}`" not in text)
    assert missing == []
