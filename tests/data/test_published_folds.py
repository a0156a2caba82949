"""Folds as the code of Aumente-Maestro et al. draws them (benchmarks/published_folds.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from busmt.config import Config
from busmt.data.cohorts import read_cohort
from busmt.data.folds import make_folds
from busmt.data.phantom import write_phantoms

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "published_folds.py"
COUNTS = {"normal": 9, "benign": 17, "malignant": 13}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("busi") / "data", COUNTS, size=(48, 56))


def run(data: Path, names: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "list.csv").write_text("class;id\n" + "\n".join(names) + "\n", encoding="utf-8")
    command = [sys.executable, SCRIPT, data, folder / "list.csv", folder / "out.csv"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def listed(count: int = 8) -> list[str]:
    return [f"{label};{number}" for label in reversed(COUNTS) for number in range(count, 0, -1)]


def test_the_listed_images_are_split_by_class_and_busmt_takes_the_folds_over(data, tmp_path):
    answer = run(data, listed(), tmp_path)
    assert answer.returncode == 0, answer.stderr
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.groupby(["fold", "label"]).size().tolist() == [2] * 12
    catalog = read_cohort(tmp_path / "out.csv")
    catalog.verify()
    assert len(catalog) == 24
    for fold in range(4):
        config = Config.preset("tiny", {"folds": {"fold": fold, "count": 4, "validation_share": 0.3}})
        parts = make_folds(catalog, config.folds)
        assert set(parts["image_id"][parts["part"] == "test"]) == set(table["image_id"][table["fold"] == fold])


def test_the_order_of_the_list_does_not_matter(data, tmp_path):
    texts = []
    for names in (listed(), sorted(listed())):
        assert run(data, names, tmp_path).returncode == 0
        texts.append((tmp_path / "out.csv").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]


def test_an_image_that_is_not_there_is_named(data, tmp_path):
    answer = run(data, [*listed(), "benign;99"], tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "benign (99)" in answer.stderr
    assert not (tmp_path / "out.csv").exists()
