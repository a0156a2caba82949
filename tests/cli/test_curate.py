"""busmt curate: files, JSON, refusals."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from busmt.cli import main as entry
from busmt.cli.predict import collect_inputs
from busmt.data import images
from busmt.data.phantom import make_phantom


@pytest.fixture
def busi(tmp_path):
    """BUSI's layout: six phantoms, one copied as a smaller file, one lesion without its mask."""
    for number in range(1, 7):
        label = ("normal", "benign", "malignant")[number % 3]
        phantom = make_phantom(label, number, size=(128, 160))
        folder = tmp_path / "busi" / label
        folder.mkdir(parents=True, exist_ok=True)
        images.write_png(folder / f"{label} ({number}).png", phantom.image)
        images.write_png(folder / f"{label} ({number})_mask.png", phantom.mask)
        if number == 4:
            small = cv2.resize(phantom.image, (120, 96), interpolation=cv2.INTER_AREA)
            mask = cv2.resize(phantom.mask.astype(np.uint8), (120, 96)).astype(bool)
            images.write_png(folder / f"{label} (10).png", small)
            images.write_png(folder / f"{label} (10)_mask.png", mask)
    (tmp_path / "busi" / "malignant" / "malignant (2)_mask.png").unlink()
    return tmp_path / "busi"


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the command line; gives (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setenv("BUSMT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(sys, "argv", ["busmt", "curate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            entry.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def test_files_are_written_and_the_catalog_can_be_read_again(command, busi, tmp_path):
    code, out, err = command("--data", busi, "--out", tmp_path / "curated")
    assert (code, out) == (0, "")
    assert "report.html" in err
    decisions = pd.read_csv(tmp_path / "curated" / "decisions.csv", keep_default_na=False).set_index("image_id")
    assert len(decisions) == 7
    assert decisions.loc["benign (10)", "rule"] == "duplicate"
    assert decisions.loc["benign (10)", "evidence"] == "benign (4)"
    assert decisions.loc["malignant (2)", "rule"] == "mask-unreadable"
    code, _, _ = command("--data", tmp_path / "curated" / "catalog.csv", "--out", tmp_path / "again")
    assert code == 0
    again = pd.read_csv(tmp_path / "again" / "decisions.csv", keep_default_na=False)
    assert set(again["decision"]) <= {"kept", "flagged"}
    assert len(again) == 5
    predicted = collect_inputs((str(tmp_path / "curated" / "catalog.csv"),))
    assert sorted(name for _, name in predicted) == sorted(again["image_id"])
    assert all(path.is_file() for path, _ in predicted)


def test_the_report_needs_no_other_file(command, busi, tmp_path):
    command("--data", busi, "--out", tmp_path / "curated")
    html = (tmp_path / "curated" / "report.html").read_text()
    assert html.count("data:image/jpeg;base64,") >= 2
    assert "<style>" in html
    assert "__" not in html.split("<script>")[0].split("<h1>")[0]  # no placeholder is left
    assert "http://" not in html
    assert "https://" not in html
    assert "benign (10)" in html
    assert "duplicate of benign (4)" in html


def test_json_goes_to_stdout(command, busi, tmp_path):
    code, out, _ = command("--data", busi, "--out", tmp_path / "curated", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["classes"][-1] == {"class": "all", "before": 7, "kept": 5, "flagged": 0, "removed": 2}
    assert result["pairs"] == {"near-duplicate": 1}


def test_comparison_tells_and_shows_the_differences(command, busi, tmp_path):
    (tmp_path / "list.csv").write_text("class;id\nbenign;10\nbenign;1\n")
    code, out, _ = command(
        "--data", busi, "--out", tmp_path / "curated", "--compare", tmp_path / "list.csv", "--json"
    )  # fmt: skip
    assert code == 0
    counts = json.loads(out)["comparison"]
    assert (counts["kept_in_both"], counts["removed_only_here"], counts["removed_only_there"]) == (1, 1, 4)
    assert counts["removed_there_in_duplicate_group_here"] == 1
    html = (tmp_path / "curated" / "comparison.html").read_text()
    assert "data:image/jpeg" in html
    assert "kept as the best copy of its duplicates" in html or "kept: no other image of the lesion" in html
    assert "Differences to list.csv" in html


def test_a_curated_list_and_overrides(command, busi, tmp_path):
    (tmp_path / "list.csv").write_text("class;id\nbenign;10\nbenign;1\nnormal;3\n")
    (tmp_path / "overrides.csv").write_text("image_id,action\nnormal (6),keep\n")
    code, _, _ = command("--data", busi, "--out", tmp_path / "c", "--curated", tmp_path / "list.csv",
                         "--overrides", tmp_path / "overrides.csv")  # fmt: skip
    assert code == 0
    kept = set(pd.read_csv(tmp_path / "c" / "catalog.csv")["image_id"])
    assert kept == {"normal (3)", "normal (6)", "benign (1)", "benign (10)"}


@pytest.mark.parametrize("inside", ["", "new", "benign", "benign/new"])
def test_it_does_not_write_into_the_data(command, busi, inside):
    before = sorted(busi.rglob("*"))
    code, _, err = command("--data", busi, "--out", busi / inside)
    assert code == 2
    assert "data folder" in err
    assert sorted(busi.rglob("*")) == before


def test_errors_are_one_line(command, busi, tmp_path):
    for extra in (("--data", tmp_path / "none"), ("--data", busi, "--curated", "busi-curated-v9")):
        code, out, err = command("--out", tmp_path / "curated", *extra)
        assert (code, out) == (2, "")
        assert err.strip().count("\n") == 0
        assert err.strip().startswith("busmt: error:")
    assert not (tmp_path / "curated").exists()
