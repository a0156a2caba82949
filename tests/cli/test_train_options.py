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


def test_a_resumed_run_keeps_its_model(refused, tiny_run_folder):
    assert "--model cannot be changed" in refused("--resume", tiny_run_folder, "--model", "unet")


def test_a_model_that_lacks_a_task_is_refused_before_anything_is_read(refused, tmp_path):
    (tmp_path / "both.yaml").write_text("network: {tasks: both}\n")
    message = refused("--model", "unet", "--config", "both.yaml")
    assert "network.tasks must be mask for network.architecture unet, got both" in message


def test_a_model_brings_its_settings_beneath_those_of_the_user(tmp_path):
    from busmt.cli.train import configure

    file = tmp_path / "own.yaml"
    file.write_text("loss: {mask_weight: 2.0}\nnetwork: {width: 12}\n")
    config = configure("small", str(file), {"model": "aumente-unetpp", "epochs": 3})
    assert (config.network.architecture, config.network.encoder) == ("aumente-unetpp", "unet")
    assert (config.balance.mode, config.network.refinement) == ("round", "rules")
    assert (config.loss.mask_weight, config.loss.label_weight) == (2.0, 0.65)
    assert (config.network.width, config.training.epochs, config.network.input_size) == (12, 3, 160)
    by_file = tmp_path / "file.yaml"
    by_file.write_text("network: {architecture: aumente-unetpp}\n")
    assert configure("small", str(by_file), {}).balance.mode == "round"
    assert configure("small", None, {}).network.architecture == "busmt"


def test_help_names_every_model_on_a_line_of_its_own():
    from click.testing import CliRunner

    from busmt.cli.main import cli
    from busmt.model.baselines import BASELINES

    text = CliRunner().invoke(cli, ["train", "--help"]).output
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    for name, system in BASELINES.items():
        assert [name, system.line] in lines
