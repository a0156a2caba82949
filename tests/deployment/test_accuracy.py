"""The table of systems: one protocol, sorted, ours marked, differences paired. The trainings are replaced by fakes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from disc_cohort import FakePredictor, make_cohort

from busmt.cli.main import cli
from busmt.config import Config
from busmt.deployment.accuracy import as_markdown, benchmark_accuracy
from busmt.deployment.cost import giga_operations, measure_costs
from busmt.errors import BusmtError, ConfigError, RunError
from busmt.evaluation.evaluate import evaluate_run
from busmt.evaluation.figures import draw_differences
from busmt.model.baselines import recipe
from busmt.model.network import build_network
from busmt.prediction import Prediction
from busmt.training import crossval
from busmt.training.prepare import prepare_run

SKILLS = {"busmt": 1.5, "unet": 1.5, "classifier": 4.0, "branch-both": 0.2}


class OneTask(FakePredictor):
    """Leaves out what the system does not say."""

    def predict_catalog(self, catalog, batch_size=8, progress=None):
        for fake in super().predict_catalog(catalog):
            masks, labels = self.tasks != "label", self.tasks != "mask"
            yield Prediction(
                fake.image_id,
                fake.path,
                fake.probabilities if labels else None,
                fake.probability_map if masks else None,
                fake.letterbox,
            )


def fake_fold(config, place):
    run = prepare_run(config, place)
    (place / "model.keras").write_bytes(b"no network")
    run.write_json("environment.json", run.environment() | {"cpu_seconds": 1800.0})
    predictor = OneTask(SKILLS[config.network.architecture], config.training.seed)
    object.__setattr__(predictor, "tasks", config.network.tasks)
    evaluate_run(run, predictor, resamples=100, pictures=False)


def no_fold(config, place):
    raise AssertionError("a finished fold is computed again")


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_cohort(folder / "discs").to_csv(folder / "discs.csv")
    common = {
        "data": {"path": str(folder / "discs.csv")},
        "curation": {"enabled": False},
        "folds": {"count": 2, "validation_share": 0.5},
    }
    small = {"input_size": 32, "width": 4, "depth": 2}
    return {
        name: Config.preset("tiny", {**common, "network": {**recipe(name).get("network", {}), **small}})
        for name in SKILLS
    }


@pytest.fixture(scope="module")
def finished(configs, tmp_path_factory):
    place = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossval, "_in_new_process", lambda run_one, config, where: run_one(config, where))
        table = benchmark_accuracy(
            configs, "try", fake_fold, results=place / "results", runs=place / "runs", rounds=3, resamples=100
        )
    return place, table


def row_of(table, name):
    return next(row for row in table["rows"] if row["system"] == name)


def test_rows_are_sorted_by_dice_and_what_has_no_mask_comes_last(finished):
    rows = finished[1]["rows"]
    assert {row["system"] for row in rows} == set(SKILLS)
    dice = [row["measures"]["dice"]["value"] for row in rows[:-1]]
    assert dice == sorted(dice, reverse=True)
    assert rows[-1]["system"] == "classifier"
    assert [row["ours"] for row in rows].count(True) == 1
    assert row_of(finished[1], "busmt")["ours"]


def test_each_system_has_the_measures_of_its_tasks(finished):
    table = finished[1]
    masks, labels = {"dice", "iou", "hd95_px"}, {"accuracy", "balanced_accuracy", "auroc_macro"}
    for name, own in {
        "busmt": masks | labels,
        "branch-both": masks | labels,
        "unet": masks,
        "classifier": labels,
    }.items():
        row = row_of(table, name)
        assert set(row["measures"]) == own
        assert set(row["differences"]) == (set() if name == "busmt" else own)
        for estimate in row["measures"].values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert row["cpu_hours"] == 1.0  # two folds of half an hour


def test_an_accelerator_is_named(finished, configs, tmp_path, monkeypatch):
    monkeypatch.setattr(crossval, "_in_new_process", no_fold)
    assert finished[1]["protocol"]["accelerators"] == []
    assert "Trained with" not in as_markdown(finished[1])
    results = shutil.copytree(finished[0] / "results", tmp_path / "results")
    file = results / "try" / "unet-seed0" / "fold_1.json"
    record = json.loads(file.read_text())
    record["environment"]["accelerator"] = "Abacus 5"
    file.write_text(json.dumps(record))
    table = benchmark_accuracy(configs, "try", no_fold, results=results, runs=tmp_path / "runs", rounds=0, resamples=20)
    assert table["protocol"]["accelerators"] == ["Abacus 5"]
    assert "Trained with Abacus 5: CPU hours are those of its host." in as_markdown(table)


def test_the_figure_shows_each_difference_once(finished):
    place, table = finished
    for suffix in ("png", "svg"):
        assert (place / "results" / "try" / f"accuracy.{suffix}").stat().st_size > 5000
    dice, accuracy = draw_differences(table["rows"], {"dice": "Dice", "accuracy": "Accuracy"}).axes
    names = [label.get_text() for label in dice.get_yticklabels()]
    assert names == [row["system"] + " (ours)" * row["ours"] for row in table["rows"]]
    for axes, measure in ((dice, "dice"), (accuracy, "accuracy")):
        shown = [(line.get_xdata(), line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "None"][1:]
        gaps = [(row["differences"].get(measure), place) for place, row in enumerate(table["rows"])]
        assert [(list(ends), place) for ends, place in shown] == [([g["low"], g["high"]], at) for g, at in gaps if g]


def test_differences_to_ours_are_paired(finished):
    table = finished[1]
    same = row_of(table, "unet")["differences"]["dice"]
    assert (same["value"], same["low"], same["high"]) == (0.0, 0.0, 0.0)  # the same masks
    assert same["verdict"] == "not shown to differ"
    ours, better = (row_of(table, name)["measures"]["auroc_macro"]["value"] for name in ("busmt", "classifier"))
    gap = row_of(table, "classifier")["differences"]["auroc_macro"]
    assert gap["value"] == pytest.approx(better - ours)
    assert gap["verdict"] == "better"
    assert gap["low"] > 0
    assert row_of(table, "branch-both")["differences"]["auroc_macro"]["value"] < 0


def test_costs_are_those_of_the_networks(finished, configs):
    table = finished[1]
    for name, config in configs.items():
        cost = row_of(table, name)["cost"]
        assert cost["parameters"] == build_network(config.network).count_params()
        assert cost["giga_operations"] > 0
        assert all(cost["milliseconds"][variant] > 0 for variant in ("float32", "int8"))
    more, fewer = (row_of(table, name)["cost"]["giga_operations"] for name in ("busmt", "classifier"))
    assert more > fewer


def test_operations_by_hand():
    image = keras.Input((8, 8, 1), name="image")
    mask = keras.layers.Conv2D(4, 3, padding="same", name="mask")(image)
    network = keras.Model(image, {"mask": mask, "unused": keras.layers.Conv2D(99, 5)(image)})
    products = 2 * 9 * 4 * 64
    assert giga_operations(network) * 1e9 == products + 4 * 64  # and the biases


def test_three_files_hold_the_table(finished):
    place, table = finished
    folder = place / "results" / "try"
    assert json.loads((folder / "accuracy.json").read_text())["rows"] == json.loads(json.dumps(table["rows"]))
    rows = list(csv.DictReader((folder / "accuracy.csv").open()))
    assert [row["system"] for row in rows] == [row["system"] for row in table["rows"]]
    assert float(rows[0]["dice"]) == table["rows"][0]["measures"]["dice"]["value"]
    assert rows[-1]["dice"] == ""
    lines = (folder / "accuracy.md").read_text().splitlines()
    assert lines[0].startswith("| System | Dice | IoU | HD95, px | Accuracy | Balanced accuracy | AUROC | Δ Dice |")
    assert len({line.count("|") for line in lines[: len(SKILLS) + 2]}) == 1
    assert sum("**busmt** (ours)" in line for line in lines) == 1
    assert "24 test images of 12 groups, 2 fold(s), 1 seed(s)." in lines[-1]


def test_finished_folds_are_kept(finished, configs):
    place, table = finished
    said = []
    again = benchmark_accuracy(
        configs,
        "try",
        no_fold,
        results=place / "results",
        runs=place / "runs",
        rounds=0,
        resamples=100,
        say=said.append,
    )
    assert sum("finished, kept" in line for line in said) == 2 * len(SKILLS)
    assert [row["measures"] for row in again["rows"]] == [row["measures"] for row in table["rows"]]
    assert again["rows"][0]["cost"]["milliseconds"] == {"float32": None, "int8": None}


def test_seeds_are_put_together(finished, configs, monkeypatch):
    place, table = finished
    monkeypatch.setattr(crossval, "_in_new_process", lambda run_one, config, where: run_one(config, where))
    two = {name: configs[name] for name in ("busmt", "branch-both")}
    both = benchmark_accuracy(
        two, "try", fake_fold, seeds=(0, 1), results=place / "results", runs=place / "runs", rounds=0, resamples=100
    )
    assert both["protocol"]["seeds"] == 2
    only = benchmark_accuracy(
        two, "try", no_fold, seeds=(1,), results=place / "results", runs=place / "runs", rounds=0, resamples=100
    )
    parts = [row_of(part, "busmt")["measures"]["accuracy"]["value"] for part in (table, only)]
    assert row_of(both, "busmt")["measures"]["accuracy"]["value"] == pytest.approx(np.mean(parts))
    assert row_of(both, "busmt")["cpu_hours"] == 2.0


def test_one_protocol_for_all(configs):
    with pytest.raises(RunError, match="it must be among the systems"):
        benchmark_accuracy({"unet": configs["unet"]}, "x", no_fold)
    other = {**configs, "unet": configs["unet"].replace({"folds": {"seed": 7}})}
    with pytest.raises(RunError, match="unet: its settings of folds are not those of busmt"):
        benchmark_accuracy(other, "x", no_fold)


def test_what_the_quantiser_refuses_is_timed_as_tensorflow_converts_it_and_it_is_said(configs, monkeypatch):
    from busmt.deployment import cost
    from busmt.errors import ExportError

    class Refuses:
        def __init__(self, *arguments):
            raise ExportError("not this one")

    monkeypatch.setattr(cost, "Quantiser", Refuses)
    said = []
    made = measure_costs({"classifier": configs["classifier"].network}, 3, said.append)["classifier"]
    assert None not in made.milliseconds.values()
    assert "classifier: int8 by TensorFlow's converter (not this one)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--preset", "full"), "name them with --data"), (("--name", "a/b"), "must be a plain name")],
)
def test_mistakes_are_named(arguments, message):
    result = CliRunner().invoke(cli, ["benchmark", "accuracy", *arguments])
    assert isinstance(result.exception, ConfigError | BusmtError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ((), {"busmt": 24, "unet": 24, "hybrid-receptive-field": 24}),
        (("--published-widths",), {"busmt": 24, "unet": 64, "hybrid-receptive-field": 24}),
    ],
)
def test_systems_are_as_wide_as_ours_or_as_published(options, widths, phantom_folder, monkeypatch):
    asked = {}

    def note(configs, *_, **__):
        asked.update({name: config.network.width for name, config in configs.items()})
        raise BusmtError("that is all")

    monkeypatch.setattr("busmt.deployment.accuracy.benchmark_accuracy", note)
    command = "benchmark accuracy --preset full --system unet --system hybrid-receptive-field --data"
    result = CliRunner().invoke(cli, [*command.split(), str(phantom_folder), *options])
    assert str(result.exception) == "that is all"
    assert asked == widths


def test_quick_end_to_end(tmp_path):
    """Two systems, really trained, on phantoms, in one of two folds."""
    settings = {
        "data": {"phantoms_per_class": 10},
        "folds": {"validation_share": 0.3},
        "network": {"input_size": 32, "width": 4, "depth": 2},
        "training": {"epochs": 1},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "busmt", "benchmark", "accuracy", "--preset", "quick", "--system", "classifier"]
    command += ["--config", "small.yaml", "--json", "--rounds", "3", "--fold", "1"]
    answer = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=540, env=os.environ, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    table = json.loads(answer.stdout)
    assert {row["system"] for row in table["rows"]} == {"busmt", "classifier"}
    assert (table["protocol"]["folds"], table["protocol"]["images"]) == (1, 15)
    assert all(row["cpu_hours"] > 0 for row in table["rows"])
    folder = tmp_path / "results" / "accuracy-quick"
    assert (folder / "accuracy.md").is_file()
    assert sorted(path.name for path in folder.glob("*/fold_*.json")) == ["fold_1.json"] * 2
