"""busmt train: options that exclude each other are refused before anything is read."""

from __future__ import annotations

import shutil
import sys

import pytest
import yaml

from busmt.cli import main as entry


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["busmt", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            entry.main()
        assert stopped.value.code == 2
        assert not (tmp_path / "runs").exists()
        return capsys.readouterr().err

    return run


def test_a_score_on_no_test_part_is_refused_before_the_training(refused):
    assert "--evaluate scores the test part" in refused("--no-test", "--evaluate")


@pytest.mark.parametrize("option", ["--no-test", "--no-deterministic"])
def test_a_resumed_run_keeps_its_settings(refused, tiny_run_folder, option):
    assert f"{option.replace('no-det', 'det')} cannot be changed" in refused("--resume", tiny_run_folder, option)


def test_a_resumed_run_without_a_test_part_cannot_be_scored(refused, tiny_run_folder, tmp_path):
    folder = shutil.copytree(tiny_run_folder, tmp_path / "run")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["folds"]["fold"] = None
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "model.keras").unlink()
    assert "--evaluate scores the test part" in refused("--resume", folder, "--evaluate")
