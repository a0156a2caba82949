"""Rows of the ablation: one change each, the same folds, no lesion on both sides. Trainings are replaced by fakes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from disc_cohort import FakePredictor

from busmt.cli.main import cli
from busmt.config import OURS, Config
from busmt.data.folds import read_folds
from busmt.data.pipeline import steps_per_epoch
from busmt.deployment.ablation import PARTS, START, _catalog, ablate, ablation_configs, as_many_steps
from busmt.errors import BusmtError, ConfigError
from busmt.evaluation.evaluate import evaluate_run
from busmt.training import crossval
from busmt.training.prepare import prepare_run

COPIES = {"benign (1)": "benign (91)", "malignant (2)": "malignant (92)"}


def fake_fold(config, place):
    run = prepare_run(config, place)
    (place / "model.keras").write_bytes(b"no network")
    skill = 1.5 if config.network.attention else 0.2
    evaluate_run(run, FakePredictor(skill, config.training.seed), resamples=100, pictures=False)


@pytest.fixture(scope="module")
def ours(phantom_folder, tmp_path_factory) -> Config:
    """A cohort with two copies."""
    folder = shutil.copytree(phantom_folder, tmp_path_factory.mktemp("copies") / "busi")
    for name, copy in COPIES.items():
        for file in (folder / name.split()[0]).glob(f"{name}*"):
            shutil.copy(file, file.with_name(file.name.replace(name, copy)))
    settings = {"data": {"path": str(folder)}, "folds": {"count": 2, "validation_share": 0.3}}
    return Config.preset("tiny", {**settings, "network": {"input_size": 32, "width": 4, "depth": 2}})


@pytest.fixture(scope="module")
def made(ours, tmp_path_factory):
    place = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossval, "_in_new_process", lambda run_one, config, where: run_one(config, where))
        table = ablate(
            ours,
            "parts",
            fake_fold,
            parts=("no-attention", "no-curation"),
            seeds=(0,),
            only=(0, 1),
            results=place / "results",
            runs=place / "runs",
            rounds=0,
            resamples=100,
        )
    return place, table


def test_each_row_changes_its_part_alone(ours):
    pretrained = ours.replace({"network": {"encoder": "efficientnet_lite0"}})
    configs = ablation_configs(pretrained, start="runs/other")
    assert set(configs) == {OURS, *PARTS}
    before = pretrained.to_dict()
    for name, config in configs.items():
        after = config.to_dict()
        changed = {section for section in before if before[section] != after[section]}
        expected = {"training"} if name == START else set(PARTS.get(name, {}))
        assert changed == expected, name
    assert configs[START].training.start == "runs/other"


def test_rows_with_other_epochs_take_as_many_steps(ours):
    ours = ours.replace({"training": {"epochs": 100, "batch_size": 1}})
    configs = as_many_steps(ablation_configs(ours, ("no-curation", "no-repetition", "no-attention")))
    epochs = {name: config.training.epochs for name, config in configs.items()}
    # 40 images, 20 of them benign; 42 with the copies of a benign and a malignant one; repetition fills the classes up
    repeated = {name: steps_per_epoch(_catalog(configs[name]), configs[name]) for name in configs}
    assert epochs["no-attention"] == epochs[OURS] == 100
    assert repeated["no-repetition"] == 40
    assert repeated["no-curation"] > repeated[OURS] > 40
    for name, steps in repeated.items():
        assert abs(epochs[name] * steps - 100 * repeated[OURS]) <= steps / 2, name


@pytest.mark.parametrize(
    ("changes", "part", "message"),
    [
        ({}, START, "name it with --start"),
        ({}, "no-imagenet", "has no ImageNet weights"),
        ({"curation": {"enabled": False}}, "no-curation", "does not curate"),
    ],
)
def test_parts_that_are_not_there_are_named_or_left_out(ours, changes, part, message):
    config = ours.replace(changes)
    assert part not in ablation_configs(config)
    with pytest.raises(ConfigError, match=message):
        ablation_configs(config, (part,))


def test_the_folds_hold_everything_and_split_no_lesion(made):
    place, _ = made
    folds = read_folds(place / "results" / "parts" / "folds.csv").set_index("image_id")
    assert len(folds) == 42
    for name, copy in COPIES.items():
        assert folds.loc[name, "group"] == folds.loc[copy, "group"]
        assert folds.loc[name, "fold"] == folds.loc[copy, "fold"]


def test_copies_are_trained_on_in_one_row_and_counted_in_none(made):
    place, table = made
    images = {
        name: len(read_folds(place / "runs" / "parts" / f"{name}-seed0-fold0" / "folds.csv"))
        for name in (OURS, "no-attention", "no-curation")
    }
    assert images == {OURS: 40, "no-attention": 40, "no-curation": 42}
    assert table["protocol"]["images"] == 40
    assert table["protocol"]["folds"] == 2
    tested = [
        set(read_folds(place / "runs" / "parts" / f"{name}-seed0-fold0" / "folds.csv").query("part == 'test'").image_id)
        for name in (OURS, "no-curation")
    ]
    assert tested[0] <= tested[1]


def test_rows_are_compared_with_ours(made):
    _, table = made
    rows = {row["system"]: row for row in table["rows"]}
    assert set(rows) == {OURS, "no-attention", "no-curation"}
    gap = rows["no-attention"]["differences"]["auroc_macro"]
    assert gap["value"] < 0
    assert rows["no-curation"]["differences"]["dice"]["verdict"] == "not shown to differ"
    assert json.loads((made[0] / "results" / "parts" / "accuracy.json").read_text())["rows"] == json.loads(
        json.dumps(table["rows"])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "full"), "name them with --data"),
        (("--part", "attention"), "not one of no-attention"),
        (("--part", START), "name it with --start"),
        (("--name", "a/b"), "must be a plain name"),
    ],
)
def test_mistakes_are_named(arguments, message):
    result = CliRunner().invoke(cli, ["benchmark", "ablation", *arguments])
    assert isinstance(result.exception, BusmtError)
    assert message in str(result.exception)
