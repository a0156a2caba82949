"""The gate: what loses too much is not written; what stays in float is chosen on validation images."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from busmt.cli.export import export as export_command
from busmt.data.images import Letterbox
from busmt.deployment import export as export_module
from busmt.deployment import variants
from busmt.deployment.export import export_run, export_tablet
from busmt.deployment.quantise import VARIANTS, Part
from busmt.deployment.tflite import read_appended
from busmt.deployment.variants import Answers, Case, Fidelity, choose, judge, phantom_cases, truth_cases
from busmt.errors import ExportError
from busmt.evaluation.intervals import Estimate
from busmt.prediction import Predictor
from busmt.training.run import Run

NOTHING = Estimate(0.0, 0.0, 0.0)
SAME = Fidelity("int8", 10, 20, 15, 20, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0, NOTHING, NOTHING)


@pytest.fixture
def run(tiny_run_folder) -> Run:
    return Run.open(tiny_run_folder)


@pytest.fixture
def quick(tiny_export, monkeypatch):
    """Exports without the conversion and the search: the float32 file is there already. Notes who chose on what."""
    content = (tiny_export.folder / "model.tflite").read_bytes()[: tiny_export.variants[0].bytes]
    seen: dict[str, list] = {}

    def chosen(quantiser, variant, validation, say):
        seen[variant] = validation.cases
        return quantiser.quantise(variant), ()

    monkeypatch.setattr(export_module, "convert", lambda network, attention=False: content)
    monkeypatch.setattr(variants, "choose", chosen)
    return seen


def same_pictures(cases, catalog, size=64) -> bool:
    own = {picture.tobytes() for picture, *_ in (dataclasses.astuple(case) for case in cases)}
    from busmt.data.pipeline import read_image

    return own == {read_image(sample.image, size)[0].tobytes() for sample in catalog}


def test_every_variant_is_reported_on_test_images(run, tiny_export):
    stored = json.loads((tiny_export.folder / "parity.json").read_text())
    test = run.part("test")
    assert [row["variant"] for row in stored["variants"]] == list(VARIANTS)
    for row in stored["variants"]:
        assert row["images"] == len(test)
        assert row["lesions"] == int((test.labels > 0).sum())
        assert row["contradictions"] == 0
        assert row["dice_loss"]["low"] <= row["dice_loss"]["value"] <= row["dice_loss"]["high"]
        assert row["written"] is True
    assert stored["variants"][0]["mean_mask_dice"] == pytest.approx(1.0, abs=1e-3)


def test_float_parts_are_chosen_on_validation_images_and_judged_on_test_images(run, quick, tmp_path):
    result = export_run(run, tmp_path / "out", ("tflite",), force=True)
    assert set(quick) == {"int8-dynamic", "int8"}
    for cases in quick.values():
        assert same_pictures(cases, run.part("validation"))
    assert result.source == "test images"
    assert same_pictures(truth_cases(run, 64, "test")[0], run.part("test"))


def test_a_run_without_a_test_part_is_judged_on_validation_images_and_says_so(run, quick, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "run")
    folds = (copy / "folds.csv").read_text()
    (copy / "folds.csv").write_text(folds.replace(",test", ",train"))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("fold: 0", "fold: null"))
    result = export_run(Run.open(copy), tmp_path / "out", ("tflite",), force=True)
    assert result.source == "validation images"
    assert {row.images for row in result.variants} == {len(run.part("validation"))}


def test_only_the_variants_that_are_asked_for_are_written(run, tmp_path):
    arguments = [str(run.path), "--to", str(tmp_path / "out"), "--format", "tflite", "--variant", "float16", "--json"]
    answer = CliRunner().invoke(export_command, [*arguments, "--force"], standalone_mode=False)
    assert answer.return_value == 0
    assert [path.name for path in (tmp_path / "out").glob("*.tflite")] == ["model-float16.tflite"]
    assert [row["variant"] for row in json.loads(answer.stdout)["variants"]] == ["float16"]
    golden_of = {path.name for path in (tmp_path / "out" / "golden").iterdir()}
    assert golden_of
    assert Predictor.load(tmp_path / "out" / "model-float16.tflite").checked


@pytest.mark.slow
def test_what_loses_too_much_is_not_written_without_force(run, quick, tmp_path, monkeypatch):
    """Nor does it stay there from an earlier export."""
    monkeypatch.setattr(variants, "MAX_LOSS", -1.0)
    folder = tmp_path / "out"
    arguments = [str(run.path), "--to", str(folder), "--format", "tflite", "--json"]
    forced = CliRunner().invoke(export_command, [*arguments, "--force"], standalone_mode=False)
    assert forced.return_value == 0
    assert len(list(folder.glob("*.tflite"))) == 4
    answer = CliRunner().invoke(export_command, arguments, standalone_mode=False)
    assert answer.return_value == 1
    assert [path.name for path in folder.glob("*.tflite")] == ["model.tflite"]
    rows = json.loads((folder / "parity.json").read_text())["variants"]
    assert [(row["variant"], row["passed"], row["written"]) for row in rows] == [
        ("float32", False, True), ("float16", False, False), ("int8-dynamic", False, False), ("int8", False, False),
    ]  # fmt: skip
    assert "tflite int8 was not written" in answer.stderr


def test_labels_and_card_travel_inside_each_file(tiny_export, tmp_path):
    sidecar = json.loads((tiny_export.folder / "model.json").read_text())
    for row in tiny_export.variants:
        name = "model.tflite" if row.variant == "float32" else f"model-{row.variant}.tflite"
        inside = read_appended(tiny_export.folder / name)
        assert inside["labels.txt"].decode().split() == ["normal", "benign", "malignant"]
        card = json.loads(inside["model.json"])
        assert card["variant"] == row.variant
        assert card["input"] == sidecar["input"]
        assert card["fidelity"]["bytes"] == row.bytes
        alone = shutil.copy(tiny_export.folder / name, tmp_path / name)
        assert Predictor.load(alone)._referral == sidecar["referral_threshold"]
    (tmp_path / "bare.tflite").write_bytes(b"nothing behind it")
    with pytest.raises(ExportError, match=r"bare\.tflite: holds no labels and card"):
        read_appended(tmp_path / "bare.tflite")


def test_golden_pairs_are_what_the_files_answer(tiny_export):
    golden = tiny_export.folder / "golden"
    answers = json.loads((golden / "answers.json").read_text())
    assert set(answers) == {"normal.png", "benign.png", "malignant.png"}
    for image, by_file in answers.items():
        assert set(by_file) == {path.name for path in tiny_export.folder.glob("*.tflite")}
        for file, expected in by_file.items():
            prediction = Predictor.load(tiny_export.folder / file).predict_file(golden / image)
            assert prediction.label == expected["label"]
            np.testing.assert_allclose(prediction.probabilities, expected["probabilities"], atol=1e-4)
            assert np.count_nonzero(prediction.mask) == expected["lesion_pixels"]
        mask = np.asarray(Image.open(golden / image.replace(".png", "_mask.png"))) > 0
        assert mask.sum() == by_file["model.tflite"]["lesion_pixels"]


class Ladder:
    """A quantiser of ten parts whose files are the number of parts left in float."""

    parts = tuple(Part(f"part{number}", 1) for number in range(10))

    def ranking(self, variant):
        return [part.name for part in self.parts]

    def quantise(self, variant, floats):
        return bytes([len(floats)])


class Verdicts:
    """A comparison that finds (likeness, loss of Dice) as told, by the number of parts left in float."""

    def __init__(self, verdicts):
        self.verdicts, self.asked = verdicts, []

    def judge(self, variant, content, floats, resamples):
        self.asked.append(content[0])
        likeness, loss = self.verdicts(content[0])
        return dataclasses.replace(SAME, mean_mask_dice=likeness, dice_loss=Estimate(loss, loss, loss))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (lambda count: (1.0, 0.0), 0),
        (lambda count: (0.98 + count / 200, 0.0), 3),
        (lambda count: (1.0, 0.02 - count / 300), 6),
        (lambda count: (0.95 + count / 1000, 0.0), 10),
        (lambda count: (0.95 + count / 1000, 0.0 if count == 2 else 0.1), 2),
        (lambda count: (0.95 - abs(count - 4) / 1000, 0.1), 4),
    ],
    ids=[
        "at once",
        "until it is like Keras",
        "until it loses little",
        "never like Keras",
        "only one passes",
        "none passes",
    ],
)
def test_parts_go_to_float_until_it_is_good_enough(verdicts, expected):
    comparison = Verdicts(verdicts)
    content, floats = choose(Ladder(), "int8", comparison)
    assert content[0] == len(floats) == expected
    assert comparison.asked == [count for count in (0, 1, 2, 3, 4, 6, 9, 10) if count <= comparison.asked[-1]]


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"dice_loss": Estimate(0.0049, -1, 1)}, True),
        ({"dice_loss": Estimate(0.0051, -1, 1)}, False),
        ({"auroc_loss": Estimate(0.0051, -1, 1)}, False),
        ({"auroc_loss": Estimate(math.nan, math.nan, math.nan)}, True),
        ({"dice_loss": Estimate(-0.3, -1, 1)}, True),
        ({"contradictions": 1}, False),
        ({"max_mask_drift": math.nan}, False),
        ({"max_label_drift": math.nan}, False),
    ],
)
def test_the_verdict(change, passed):
    assert dataclasses.replace(SAME, **change).passed is passed


def answers(masks, labels, cases) -> Answers:
    maps = np.array(masks, np.float32)
    overlap = [
        2 * ((m > 0.5) & c.truth).sum() / max(1, (m > 0.5).sum() + c.truth.sum())
        for m, c in zip(maps, cases, strict=True)
    ]
    return Answers(maps, np.array(labels, np.float32), np.array(overlap))


def test_losses_drift_and_contradictions_of_hand_made_answers():
    lesion = np.zeros((8, 8), bool)
    lesion[2:6, 2:6] = True
    picture, box = np.zeros((8, 8, 1), np.float32), Letterbox(8, 8, 8)
    cases = [
        Case(picture, box, lesion, 1, "a"),
        Case(picture, box, lesion, 2, "b"),
        Case(picture, box, ~lesion & lesion, 0, "c"),
    ]
    full, half, none = lesion * 1.0, lesion * (np.arange(8) < 4) * 1.0, lesion * 0.0
    own = answers([full, full, none], [[0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.9, 0.1, 0]], cases)
    other = answers([full, half, full], [[0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.8, 0.1, 0.1]], cases)
    found = judge("int8", 5, own, other, cases)
    assert (found.images, found.lesions, found.same_label, found.contradictions) == (3, 2, 2, 1)
    assert found.dice_loss.value == pytest.approx((0 + 1 - 2 / 3) / 2)
    assert found.mean_mask_dice == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.min_mask_dice == 0
    assert found.max_label_drift == pytest.approx(0.4)
    assert found.auroc_loss.value == pytest.approx(0)
    assert judge("int8", 5, own, own, cases).passed


def test_the_loss_interval_is_paired():
    """Both models on the same resamples: equal answers leave no uncertainty, however few the images."""
    cases = phantom_cases(12, 48)
    generator = np.random.default_rng(0)
    labels = generator.dirichlet(np.ones(3), 12)
    own = answers(generator.random((12, 48, 48)), labels, cases)
    found = judge("float16", 1, own, own, cases)
    assert (found.dice_loss.low, found.dice_loss.high, found.auroc_loss.low, found.auroc_loss.high) == (0, 0, 0, 0)


def test_the_tablet_app_gets_the_smallest_variant_that_passes(run, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "MAX_LOSS", -1.0)
    assert export_tablet(run, tmp_path / "one").variants[0].variant == "float32"
    result = export_tablet(run, tmp_path / "two", force=True)
    assert [row.variant for row in result.variants] == ["int8"]
    assert json.loads((tmp_path / "two" / "model.json").read_text())["variant"] == "int8"
    with pytest.raises(ExportError, match="two: exists and is not empty"):
        export_tablet(run, tmp_path / "two")


def test_the_tablet_app_gets_the_variant_that_was_asked_for(run, quick, tmp_path, monkeypatch):
    result = export_tablet(run, tmp_path / "half", variant="float16")
    assert [row.variant for row in result.variants] == ["float16"]
    assert json.loads((tmp_path / "half" / "model.json").read_text())["variant"] == "float16"
    monkeypatch.setattr(variants, "MAX_LOSS", -1.0)
    with pytest.raises(ExportError, match="float16 loses too much"):
        export_tablet(run, tmp_path / "none", variant="float16")
    assert not (tmp_path / "none").exists()
