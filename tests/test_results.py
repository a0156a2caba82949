"""The tables of results/README.md are those of the files beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from reproduce import STEPS, command, in_order

from busmt.cli.crossval import crossval
from busmt.cli.train import configure
from busmt.data.images import plain
from busmt.training.crossval import fold_table, pool_folds, read_fold

ROOT = Path(__file__).parents[1]
FOLDERS = sorted({file.parent for file in (ROOT / "results").glob("*/fold_*.json")})


def test_the_page_says_what_the_files_say():
    command = [sys.executable, str(ROOT / "benchmarks" / "results_page.py"), "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_metrics_are_those_of_the_fold_files_together(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    (copy / "metrics.json").unlink()
    pooled, stored = pool_folds(copy).evaluation.metrics, json.loads((folder / "metrics.json").read_text())
    for key in ("images", "groups", "cross_validation", "segmentation", "normals"):
        assert plain(pooled[key]) == approximately(stored[key]), key
    for name, value in stored["classification"]["measures"].items():
        assert plain(pooled["classification"]["measures"][name]) == approximately(value), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_image_is_tested_twice_and_no_group_in_two_folds(folder):
    tables = [
        fold_table(read_fold(file))[["image_id", "group"]].assign(fold=file.stem) for file in folder.glob("fold_*")
    ]
    table = pd.concat(tables)
    assert table["image_id"].is_unique
    assert table.groupby("group")["fold"].nunique().max() == 1


PLACES = dict.fromkeys(("busi", "bus_bra", "list", "published_folds", "results", "runs"), "x y") | {
    "settings": str(ROOT / "results")
}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_command_to_reproduce_it_has_the_settings_it_was_made_with(folder):
    stored = read_fold(min(folder.glob("fold_*.json")))
    options = crossval.make_context("crossval", command(folder.name, PLACES)[1:]).params
    assert options["name"] == folder.name
    if options["average"]:
        assert [f"{name}-fold{stored['fold']}" for name in options["average"]] == [
            member["run"] for member in stored["members"]
        ]
        assert options["mirror"] == (stored.get("averaged") == "answers, also of mirror images")
        return
    made = configure(options["preset"], options["config_file"], options).to_dict()
    for section in ("folds", "balance", "augment", "network", "loss", "training"):
        for key, value in stored["config"][section].items():
            if key not in ("fold", "start"):
                assert made[section][key] == value, f"{section}.{key}"
    assert bool(made["training"]["start"]) == bool(stored["config"]["training"]["start"])
    assert bool(made["curation"]["curated"]) == bool(stored["config"]["curation"]["curated"])


def test_images_in_groups_and_alone_are_all_images():
    command = [sys.executable, str(ROOT / "benchmarks" / "kept_together.py"), "aumente-unetpp-450"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)["aumente-unetpp-450"]
    metrics = json.loads((ROOT / "results" / "aumente-unetpp-450" / "metrics.json").read_text())
    assert found["in groups"]["images"] == 21
    for key, value in (
        ("accuracy", metrics["classification"]["measures"]["accuracy"]["value"]),
        ("dice_average", metrics["for_comparison_only"]["dice_average"]["value"]),
    ):
        mean = sum(found[part]["images"] * found[part][key] for part in ("in groups", "alone")) / 450
        assert mean == pytest.approx(value, abs=2e-4)
        assert found["all"][key] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("name", STEPS)
def test_what_a_result_needs_comes_before_it(name):
    steps = list(in_order(name))
    assert steps[-1] == name
    assert len(set(steps)) == len(steps)
    for number, step in enumerate(steps):
        assert set(STEPS[step][0]) <= set(steps[:number])


def test_reproduce_says_what_it_lacks():
    script = [sys.executable, str(ROOT / "benchmarks" / "reproduce.py")]
    answer = subprocess.run([*script, "p2-transfer", "--busi", "x"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert "p2-transfer needs --bus-bra" in answer.stderr
    answer = subprocess.run([*script, "p1", "--busi", "x y", "--dry-run"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0
    assert "--data 'x y'" in answer.stdout


def approximately(value):
    """Nested figures up to rounding."""
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
