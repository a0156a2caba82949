"""The tables of results/README.md are those of the files beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

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


def approximately(value):
    """Nested figures up to rounding."""
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
