"""Configuration: defaults, presets, YAML, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmt.config import PRESETS, Config, merge, read_yaml, tasks_of
from busmt.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_yaml_round_trip(name, tmp_path):
    config = Config.preset(name)
    config.to_yaml(tmp_path / "config.yaml")
    assert Config.from_yaml(tmp_path / "config.yaml") == config


def test_every_setting_has_a_help_text():
    for section in dataclasses.fields(Config):
        for setting in dataclasses.fields(section.default_factory()):
            assert setting.metadata["help"], f"{section.name}.{setting.name}"


@pytest.mark.parametrize(
    "values, culprit",
    [
        ({"network": {"widht": 8}}, "network.widht"),
        ({"netwrok": {}}, "netwrok"),
        ({"training": {"epochs": "3"}}, "training.epochs"),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"training": {"epochs": 2.5}}, "training.epochs"),
        ({"training": {"epochs": True}}, "training.epochs"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate"),
        ({"training": {"learning_rate": None}}, "training.learning_rate"),
        ({"network": {"encoder": "resnet"}}, "network.encoder"),
        ({"network": {"input_size": 100}}, "input_size"),
        ({"network": 3}, "network"),
        ({"balance": {"enabled": 1}}, "balance.enabled"),
    ],
)
def test_refusals_name_the_key_and_the_value(values, culprit):
    with pytest.raises(ConfigError, match=culprit):
        Config.from_dict(values)


def test_a_typing_error_gets_a_hint():
    with pytest.raises(ConfigError, match="did you mean width"):
        Config.from_dict({"network": {"widht": 8}})


def test_unknown_preset():
    with pytest.raises(ConfigError, match="tiny, small, base"):
        Config.preset("huge")


def test_yaml_numbers_with_exponent_are_numbers(tmp_path):
    (tmp_path / "c.yaml").write_text("training: {learning_rate: 1e-4}\n")
    assert Config.from_yaml(tmp_path / "c.yaml").training.learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words", "!!python/object/apply:os.system ['true']", "\x00"])
def test_files_that_are_no_mapping_are_refused(text, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        read_yaml(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        Config.from_yaml(tmp_path / "absent.yaml")


_trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.sampled_from("abc"), _trees), st.dictionaries(st.sampled_from("abc"), _trees))
def test_merging_keeps_overrides_and_changes_neither(base, overrides):
    before = repr((base, overrides))
    merged = merge(base, overrides)
    assert repr((base, overrides)) == before
    assert merge(merged, overrides) == merged
    assert set(merged) == set(base) | set(overrides)
    for key, value in overrides.items():
        if not isinstance(value, dict):
            assert merged[key] == value


@given(st.integers(1, 100000), st.floats(0, 0.9), st.sampled_from(["dice_bce", "focal_tversky"]))
def test_accepted_values_survive_a_dictionary_round_trip(epochs, dropout, loss):
    config = Config.from_dict({"training": {"epochs": epochs}, "network": {"dropout": dropout}, "loss": {"mask": loss}})
    assert Config.from_dict(config.to_dict()) == config
    assert config.replace({"training": {"seed": 3}}).training.epochs == epochs


def test_refinement_reads_what_earlier_versions_wrote():
    for old, new in ((True, "ours"), (False, "none")):
        assert Config.from_dict({"network": {"refinement": old}}).network.refinement == new
    assert Config.from_dict({"network": {"refinement": "rules"}}).network.refinement == "rules"
    assert Config().network.refinement == "ours"
    with pytest.raises(ConfigError, match=r"network\.refinement must be one of ours, rules, none, got 'yes'"):
        Config.from_dict({"network": {"refinement": "yes"}})
    with pytest.raises(ConfigError, match=r"network\.refinement must be str, got 1"):
        Config.from_dict({"network": {"refinement": 1}})


def test_tasks_follow_from_the_names_of_outputs():
    assert tasks_of(["label_logits", "label", "mask"]) == ("mask", "label")
    assert tasks_of({"mask_logits": 0, "mask": 1, "attention": 2}) == ("mask",)
    assert tasks_of([]) == ()
