"""Cross-validation: folds one by one, finished ones kept, results merged; the training itself is replaced by a fake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from disc_cohort import FakePredictor, make_cohort

from busmt.config import Config
from busmt.errors import DataError, RunError
from busmt.evaluation.evaluate import evaluate_run
from busmt.evaluation.protocol import evaluate_table, read_evaluation
from busmt.training.crossval import (
    cross_validate,
    fold_numbers,
    fold_table,
    metrics_for,
    pool_folds,
    read_fold,
)
from busmt.training.prepare import prepare_run


def fake_fold(config, place):
    """In a process of its own: a run whose network is a fake. Leaves its process number behind."""
    run = prepare_run(config, place)
    (place / "model.keras").write_bytes(b"no network")
    run.write_json("calibration.json", {"referral_threshold": 0.2})
    run.write_json("environment.json", run.environment() | {"cpu_seconds": 36.0})
    evaluate_run(run, FakePredictor(), resamples=100, pictures=False)
    (place / "process").write_text(str(os.getpid()))


def ended_fold(config, place):
    os._exit(9)


def endless_fold(config, place):
    place.mkdir(parents=True)
    (place / "process").write_text(str(os.getpid()))
    time.sleep(600)


def refused_fold(config, place):
    raise DataError("this fold cannot be read")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_cohort(folder / "discs").to_csv(folder / "discs.csv")
    sections = {
        "data": {"path": str(folder / "discs.csv")},
        "curation": {"enabled": False},
        "folds": {"count": 2, "validation_share": 0.5},
    }
    return Config.preset("tiny", sections)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    place = tmp_path_factory.mktemp("experiment")
    outcome = cross_validate(config, "discs", fake_fold, results=place / "results", runs=place / "runs")
    return place, outcome


def again(config, place, run_one=ended_fold, **options):
    said = []
    outcome = cross_validate(
        config, "discs", run_one, results=place / "results", runs=place / "runs", say=said.append, **options
    )
    return outcome, "\n".join(said)


def test_fold_files_of_earlier_versions_are_still_good(finished, config):
    """They lack keys that have come since, and hold true where there are choices now."""
    place, outcome = finished
    file = place / "results" / "discs" / "fold_1.json"
    text = file.read_text()
    record = json.loads(text)
    record["config"]["network"]["refinement"] = True
    later = "network.architecture", "network.tasks", "balance.mode", "loss.label", "training.choose"
    for section, key in (name.split(".") for name in later):
        del record["config"][section][key]
    try:
        file.write_text(json.dumps(record))
        assert again(config, place)[0].done == outcome.done
        record["config"]["network"]["no_such_key"] = 1
        file.write_text(json.dumps(record))
        with pytest.raises(DataError, match=r"fold_1\.json: unknown key network\.no_such_key.*delete the file"):
            read_fold(file)
    finally:
        file.write_text(text)


def test_every_image_is_tested_once(finished):
    _, outcome = finished
    assert (outcome.done, outcome.missing) == ((0, 1), ())
    assert len(outcome.evaluation.per_image) == 24
    assert outcome.evaluation.per_image["image_id"].is_unique


def test_pooled_metrics_are_those_of_all_tables_together(finished):
    place, outcome = finished
    tables = [read_evaluation(place / "runs" / f"discs-fold{fold}" / "evaluation").per_image for fold in (0, 1)]
    together = evaluate_table(pd.concat(tables).sort_values("image_id", ignore_index=True), resamples=100)
    written = json.loads((place / "results" / "discs" / "metrics.json").read_text())
    for section, measure in (("classification", "accuracy"), ("classification", "auroc_malignant")):
        expected = together.metrics[section]["measures"][measure]["value"]
        assert written[section]["measures"][measure]["value"] == pytest.approx(expected, rel=1e-6)
    expected = together.metrics["segmentation"]["measures"]["dice"]["value"]
    assert written["segmentation"]["measures"]["dice"]["value"] == pytest.approx(expected, rel=1e-6)
    folds = written["cross_validation"]["by_fold"]["dice"]["folds"]
    assert folds == pytest.approx([table.loc[table["lesion_pixels"] > 0, "dice"].mean() for table in tables], rel=1e-6)


def test_each_fold_has_a_process_of_its_own(finished):
    place, _ = finished
    numbers = {(place / "runs" / f"discs-fold{fold}" / "process").read_text() for fold in (0, 1)}
    assert len(numbers | {str(os.getpid())}) == 3


def test_a_fold_file_holds_what_it_takes_and_no_path(finished):
    place, _ = finished
    text = (place / "results" / "discs" / "fold_1.json").read_text()
    record = json.loads(text)
    assert str(place) not in text
    assert record["config"]["data"]["path"] == "discs.csv"
    assert record["config"]["folds"]["fold"] == 1
    assert record["environment"]["packages"]["keras"]
    assert record["cpu_hours"] == pytest.approx(0.01)
    own = read_evaluation(place / "runs" / "discs-fold1" / "evaluation").per_image
    table = fold_table(record)
    assert list(table.columns) == list(own.columns)
    numbers = own.select_dtypes("number").columns
    np.testing.assert_allclose(table[numbers].to_numpy(float), own[numbers].to_numpy(float), rtol=1e-6)


def test_finished_folds_are_kept(finished, config):
    place, _ = finished
    outcome, said = again(config, place)  # would end its process if it were called
    assert outcome.done == (0, 1)
    assert said.count("finished") == 2


def test_only_the_missing_fold_is_computed(finished, config, tmp_path):
    place, before = finished
    shutil.copytree(place / "results", tmp_path / "results")
    (tmp_path / "results" / "discs" / "fold_0.json").unlink()
    outcome, said = again(config, tmp_path, fake_fold, only=[0])
    assert outcome.done == (0, 1)
    assert "fold 1" not in said
    assert (tmp_path / "runs" / "discs-fold0").is_dir()
    assert outcome.evaluation.metrics["segmentation"] == before.evaluation.metrics["segmentation"]


def test_it_stands_for_the_test_of_a_run_on_all_images_with_the_same_settings_alone(finished, config, tmp_path):
    place, outcome = finished
    folder = place / "results" / "discs"
    everything = prepare_run(config.replace({"folds": {"fold": None}}), tmp_path / "everything")
    metrics = metrics_for(everything, folder)
    assert metrics["provenance"]["part"] == "cross-validation"
    assert metrics["provenance"]["cohort"] == "discs"
    assert metrics["segmentation"] == outcome.evaluation.metrics["segmentation"]
    with pytest.raises(RunError, match="holds fold 0 out"):
        metrics_for(prepare_run(config, tmp_path / "fold"), folder)
    other = config.replace({"folds": {"fold": None}, "training": {"epochs": 3}})
    with pytest.raises(RunError, match=r"training\.epochs"):
        metrics_for(prepare_run(other, tmp_path / "other"), folder)
    everything.write_json("environment.json", everything.environment() | {"data": {"fingerprint": "0"}})
    with pytest.raises(RunError, match="other data"):
        metrics_for(everything, folder)


def test_results_from_two_places_are_merged(finished, tmp_path):
    place, before = finished
    folder = tmp_path / "discs"
    folder.mkdir()
    shutil.copy(place / "results" / "discs" / "fold_1.json", folder)
    assert pool_folds(folder).missing == (0,)
    shutil.copy(place / "results" / "discs" / "fold_0.json", folder)
    merged = pool_folds(folder)
    assert merged.missing == ()
    assert merged.evaluation.metrics["classification"] == before.evaluation.metrics["classification"]


@pytest.mark.parametrize(
    "change, message",
    [({"training": {"epochs": 7}}, "training.epochs"), ({"training": {"seed": 1}}, "training.seed")],
)
def test_results_of_another_configuration_are_refused(finished, config, change, message):
    place, _ = finished
    with pytest.raises(RunError, match=message):
        again(config.replace(change), place)


def test_fold_files_of_two_configurations_are_not_merged(finished, tmp_path):
    place, _ = finished
    folder = shutil.copytree(place / "results" / "discs", tmp_path / "discs")
    record = json.loads((folder / "fold_1.json").read_text())
    record["config"]["network"]["width"] = 99
    (folder / "fold_1.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"fold_1\.json.*network\.width"):
        pool_folds(folder)


def test_fold_files_of_other_data_are_not_merged(finished, tmp_path):
    place, _ = finished
    folder = shutil.copytree(place / "results" / "discs", tmp_path / "discs")
    record = json.loads((folder / "fold_1.json").read_text())
    record["data_fingerprint"] = "0" * 64
    (folder / "fold_1.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="other data"):
        pool_folds(folder)


def test_an_unknown_cost_is_not_taken_for_none(finished, tmp_path):
    place, _ = finished
    folder = shutil.copytree(place / "results" / "discs", tmp_path / "discs")
    assert pool_folds(folder).evaluation.metrics["cross_validation"]["cpu_hours"] == pytest.approx(0.02)
    record = json.loads((folder / "fold_1.json").read_text())
    record["cpu_hours"] = None
    (folder / "fold_1.json").write_text(json.dumps(record))
    assert pool_folds(folder).evaluation.metrics["cross_validation"]["cpu_hours"] is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "busmt-fold", "schema_version": 99}'])
def test_damaged_fold_files_are_named(finished, tmp_path, content):
    place, _ = finished
    folder = shutil.copytree(place / "results" / "discs", tmp_path / "discs")
    (folder / "fold_1.json").write_text(content)
    with pytest.raises(DataError, match=r"fold_1\.json"):
        pool_folds(folder)


def test_an_empty_folder_cannot_be_pooled(tmp_path):
    with pytest.raises(DataError, match="fold_K"):
        pool_folds(tmp_path)


def test_errors_of_a_fold_arrive(config, tmp_path):
    with pytest.raises(DataError, match="this fold cannot be read"):
        again(config, tmp_path, refused_fold)
    with pytest.raises(RunError, match="its process was ended"):
        again(config, tmp_path, ended_fold)
    assert not (tmp_path / "results").exists()


def test_a_fold_ends_with_the_process_that_asked_for_it(config, tmp_path):
    config.to_yaml(tmp_path / "config.yaml")
    code = """
import sys
sys.path[:0] = sys.argv[1:3]
from test_crossval import endless_fold
from busmt.config import Config
from busmt.training.crossval import cross_validate
if __name__ == "__main__":
    cross_validate(Config.from_yaml("config.yaml"), "discs", endless_fold)
"""
    (tmp_path / "ask.py").write_text(code)
    here = Path(__file__).parent
    asking = subprocess.Popen([sys.executable, "ask.py", here, here.parent / "evaluation"], cwd=tmp_path)
    own = tmp_path / "runs" / "discs-fold0" / "process"
    deadline = time.monotonic() + 120
    while not (own.is_file() and own.read_text()):
        assert asking.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    number = int(own.read_text())
    asking.kill()
    asking.wait()
    while _lives(number):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _lives(number: int) -> bool:
    """Whether a process runs; one that ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_unknown_fold_is_refused(config, tmp_path):
    with pytest.raises(DataError, match="fold 2 does not exist; the folds are 0, 1"):
        again(config, tmp_path, only=[2])


def test_official_folds_are_found(config, tmp_path):
    table = pd.read_csv(config.data.path)
    table["fold"] = np.arange(len(table)) // 2 % 4
    folder = Path(config.data.path).parent
    table.to_csv(folder / "official.csv", index=False)
    assert fold_numbers(config.replace({"data": {"path": str(folder / "official.csv")}})) == [0, 1, 2, 3]
    assert fold_numbers(config) == [0, 1]


def test_portable_drops_folders_only(config):
    assert config.portable()["data"]["path"] == "discs.csv"
    assert Config.from_dict(config.portable()).network == config.network


def test_read_fold_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"fold_3\.json"):
        read_fold(tmp_path / "fold_3.json")
