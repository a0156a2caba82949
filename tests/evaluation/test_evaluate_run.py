"""A run is scored, written and drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from disc_cohort import FakePredictor, evaluate_with_cases, make_cohort, make_run
from PIL import Image

from busmt.evaluation.cases import CASE_KINDS, choose_cases, outlined, read_pictures
from busmt.evaluation.evaluate import evaluate_run, model_hash, stamp
from busmt.evaluation.headline import headline
from busmt.evaluation.protocol import read_evaluation
from busmt.training.run import Run


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    return Run.open(make_run(tmp_path_factory.mktemp("runs") / "discs", cohort))


@pytest.fixture(scope="module")
def evaluated(run):
    return evaluate_run(run, FakePredictor(), resamples=100)


def test_the_test_part_is_scored_and_nothing_else(run, evaluated):
    table = read_evaluation(evaluated.folder).per_image
    folds = run.folds()
    assert set(table["image_id"]) == set(folds["image_id"][folds["part"] == "test"])
    assert evaluated.folder == run.path / "evaluation"
    assert json.loads((run.path / "metrics.json").read_text()) == json.loads(
        (evaluated.folder / "metrics.json").read_text()
    )


def test_provenance_names_what_was_scored(run, evaluated):
    source = evaluated.evaluation.metrics["provenance"]
    assert (source["run"], source["part"], source["cohort"]) == ("discs", "test", "discs")
    assert source["model_sha256"] == model_hash(run.model_path)
    assert source["data_fingerprint"] == run.part("test").fingerprint()


def test_progress_counts_every_image(run, tmp_path):
    seen = []
    evaluate_run(
        run,
        FakePredictor(),
        out=tmp_path,
        pictures=False,
        resamples=10,
        progress=lambda done, total: seen.append((done, total)),
    )
    count = len(run.part("test"))
    assert seen == [(done, count) for done in range(1, count + 1)]


def test_other_parts_and_cohorts_do_not_touch_the_runs_metrics(run, evaluated, tmp_path):
    before = (run.path / "metrics.json").read_bytes()
    evaluate_run(run, FakePredictor(), part="validation", pictures=False, resamples=10)
    other = make_cohort(tmp_path / "other", per_class=4, classes=("benign", "malignant"), seed=9)
    other.table["cohort"] = "other hospital"
    result = evaluate_run(run, FakePredictor(), external=other, pictures=False, resamples=10)
    assert (run.path / "metrics.json").read_bytes() == before
    assert (run.path / "evaluation-validation" / "metrics.json").exists()
    assert result.folder == run.path / "evaluation-other_hospital"
    assert result.evaluation.metrics["provenance"]["images_also_trained_on"] == 0


def test_training_images_in_an_external_cohort_are_counted(run):
    result = evaluate_run(run, FakePredictor(), external=run.catalog(), pictures=False, resamples=10)
    held_in = len(run.part("train")) + len(run.part("validation"))
    assert result.evaluation.metrics["provenance"]["images_also_trained_on"] == held_in


def test_every_case_has_its_picture_and_no_image_is_shown_twice(evaluated):
    ids = [case.image_id for case in evaluated.cases]
    assert len(ids) == len(set(ids)) > 0
    for case in evaluated.cases:
        with Image.open(case.picture) as picture:
            assert max(picture.size) == 720
        assert case.kind in CASE_KINDS
    assert (evaluated.folder / "figures" / "cases.png").exists()


def test_cases_are_chosen_by_rule(evaluation):
    table = evaluation.per_image.set_index("image_id")
    cases = choose_cases(evaluation.per_image, each=2)
    kinds = {kind: [case.image_id for case in cases if case.kind == kind] for kind in CASE_KINDS}
    lesions = table[table["lesion_pixels"] > 0]["dice"]
    assert set(lesions[kinds["worst"]]) == {lesions.min()}
    assert min(lesions[kinds["best"]]) >= max(lesions[kinds["median"]])
    assert (table.loc[kinds["missed_cancers"], "label"] == "malignant").all()
    assert (table.loc[kinds["missed_cancers"], "predicted"] != "malignant").all()
    assert (table.loc[kinds["false_alarms"], "label"] == "normal").all()
    wrong = table.loc[kinds["confident_errors"]]
    assert (wrong["label"] != wrong["predicted"]).all()


def test_outlines_leave_the_tissue_visible():
    image = np.full((90, 120, 3), 128, dtype=np.uint8)
    mask = np.zeros((90, 120), dtype=bool)
    mask[30:60, 40:80] = True
    picture = outlined(image, mask, np.roll(mask, 10, axis=1))
    assert picture.shape == (540, 720, 3)
    untouched = (picture == 128).all(axis=2).mean()
    assert 0.9 < untouched < 0.995
    assert (picture[150:390, 180:240] != 128).any()
    assert (outlined(image, None, np.zeros_like(mask)) == 128).all()


def test_a_lesion_of_one_pixel_is_still_marked():
    image = np.zeros((1600, 1600, 3), dtype=np.uint8)
    mask = np.zeros((1600, 1600), dtype=bool)
    mask[801, 803] = True
    assert outlined(image, mask, None).any()


def test_headline_shows_values_with_intervals(evaluation):
    lines = {line.key: line for line in headline(evaluation.metrics)}
    measure = evaluation.metrics["segmentation"]["measures"]["hd95_px"]
    assert lines["hd95_px"].value == f"{measure['value']:.2f}" or measure["value"] < 10
    assert " to " in lines["accuracy"].interval
    assert "undefined on" in lines["hd95_px"].note
    assert lines["after"].value == "0.000"


def test_pictures_of_an_earlier_evaluation_are_not_taken_for_these(run, tmp_path):
    first, cases = evaluate_with_cases(run, FakePredictor(), out=tmp_path)
    own = tmp_path / "cases" / "note of the user.png"
    own.write_bytes(b"mine")
    stamps = [stamp(first.evaluation.metrics)]
    assert set(read_pictures(tmp_path / "cases", stamps[0])) == {case.image_id for case in cases}
    evaluate_run(run, FakePredictor(skill=9.0), out=tmp_path, pictures=False, resamples=10)
    assert read_pictures(tmp_path / "cases", stamps[0]) == {}
    assert [file.name for file in (tmp_path / "cases").iterdir()] == [own.name]
