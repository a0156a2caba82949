"""Networks with the mask or the class alone: what is missing is left out, said, and never counted as wrong."""

from __future__ import annotations

import numpy as np
import pytest
from disc_cohort import fake_predictions

from busmt.config import CLASSES
from busmt.errors import DataError
from busmt.evaluation import protocol
from busmt.evaluation.cases import choose_cases
from busmt.evaluation.compare import compare, system_of
from busmt.evaluation.figures import figures_of
from busmt.evaluation.headline import TASKS as HEADINGS
from busmt.evaluation.headline import headline
from busmt.evaluation.narrative import task_sentences
from busmt.evaluation.table import tasks_in
from busmt.prediction import Prediction


def one_task(catalog, task, **options):
    for fake in fake_predictions(catalog, **options):
        masks, labels = task == "mask", task == "label"
        yield Prediction(
            fake.image_id,
            fake.path,
            fake.probabilities if labels else None,
            fake.probability_map if masks else None,
            fake.letterbox,
            fake.raw_probabilities if labels else None,
            fake.raw_map_peak if masks else None,
        )


def scored(catalog, task, **options):
    pairs = zip(catalog, one_task(catalog, task, **options), strict=True)
    return protocol.score_predictions(pairs, catalog.table, resamples=50, referral_threshold=0.2)


@pytest.fixture(scope="module")
def masks(cohort):
    return scored(cohort, "mask")


@pytest.fixture(scope="module")
def labels(cohort):
    return scored(cohort, "label")


def test_a_network_of_masks_has_the_same_mask_metrics(evaluation, masks):
    assert masks.metrics["tasks"] == ["mask"]
    assert tasks_in(masks.per_image) == ("mask",)
    same = masks.metrics["segmentation"]["measures"]["dice"]["value"]
    assert same == pytest.approx(evaluation.metrics["segmentation"]["measures"]["dice"]["value"])
    assert masks.metrics["normals"]["images"] == evaluation.metrics["normals"]["images"]
    assert masks.metrics["classification"] is None
    assert masks.metrics["calibration"] is None
    assert masks.metrics["agreement"] == {"before": None, "after": None}
    assert all(part["accuracy"] is None for part in masks.metrics["subgroups"]["label"].values())


def test_a_network_of_classes_has_the_same_class_metrics(evaluation, labels):
    assert labels.metrics["tasks"] == ["label"]
    for name in ("accuracy", "auroc_macro"):
        same = labels.metrics["classification"]["measures"][name]
        assert same["value"] == pytest.approx(evaluation.metrics["classification"]["measures"][name]["value"])
    assert labels.metrics["segmentation"] == {"images": 0, "missed": 0, "measures": {}}
    assert labels.metrics["normals"] is None
    assert labels.metrics["detection"] == {}
    assert labels.metrics["for_comparison_only"] == {}
    assert labels.metrics["agreement"] == {"before": None, "after": None}


def test_it_is_said_what_is_left_out(evaluation, masks, labels):
    assert task_sentences(evaluation.metrics) == []
    assert task_sentences(masks.metrics) == ["The network gives masks alone: what concerns classes is left out."]
    assert task_sentences(labels.metrics) == ["The network gives classes alone: what concerns masks is left out."]
    shown = [{line.task for line in headline(result.metrics)} for result in (masks, labels)]
    assert shown == [{"Segmentation", "Detection"}, {"Classification", "Calibration"}]
    assert set().union(*shown) < set(HEADINGS)


def test_figures_and_cases_show_what_is_there(masks, labels, tmp_path):
    assert set(figures_of(masks)) == {"dice"}
    assert "confusion" in figures_of(labels)
    assert "dice" not in figures_of(labels)
    protocol.write_evaluation(masks, tmp_path / "masks")
    protocol.write_evaluation(labels, tmp_path / "labels")
    kinds = [{case.kind for case in choose_cases(result.per_image)} for result in (masks, labels)]
    assert kinds[0] <= {"best", "median", "worst", "false_alarms"}
    assert kinds[1] <= {"missed_cancers", "confident_errors"}
    assert all(kinds)
    assert all("called" not in case.caption for case in choose_cases(masks.per_image))
    assert all("Dice" not in case.caption for case in choose_cases(labels.per_image))


@pytest.mark.parametrize("task", ["mask", "label"])
def test_the_table_comes_back_from_its_file(request, task, tmp_path):
    written = request.getfixturevalue(f"{task}s")
    protocol.write_evaluation(written, tmp_path, figures=False)
    table = protocol.read_evaluation(tmp_path).per_image
    assert tasks_in(table) == (task,)
    again = protocol.evaluate_table(table, resamples=50).metrics
    for block in ("segmentation", "classification"):
        assert (again[block] is None) == (written.metrics[block] is None)
    assert (table["predicted"] == "").all() == (task == "mask")
    assert table["dice"].notna().any() == (task == "mask")


def test_systems_are_compared_in_the_tasks_that_both_have(evaluation, masks, labels):
    both = system_of("both", [evaluation])
    by_masks = compare([both, system_of("masks", [masks])], resamples=50)["comparisons"][0]["measures"]
    assert by_masks["dice"]["difference"]["value"] == pytest.approx(0)
    assert "false_positive_rate" in by_masks
    assert not {"accuracy", "auroc_macro", "ece"} & set(by_masks)
    result = compare([both, system_of("labels", [labels])], resamples=50)
    by_labels = result["comparisons"][0]["measures"]
    assert by_labels["accuracy"]["difference"]["value"] == pytest.approx(0)
    assert not {"dice", "hd95_px", "false_positive_rate"} & set(by_labels)
    assert set(result["folds"]["labels"]) == {"accuracy", "balanced_accuracy"}
    with pytest.raises(DataError, match="masks and labels have no task in common"):
        compare([system_of("masks", [masks]), system_of("labels", [labels])], resamples=50)


def test_a_prediction_says_what_it_knows(cohort):
    mask, label = next(one_task(cohort, "mask")), next(one_task(cohort, "label"))
    assert (mask.label, label.mask) == (None, None)
    assert mask.mask.dtype == bool
    assert label.label in CLASSES
    assert np.isfinite(label.probabilities).all()
