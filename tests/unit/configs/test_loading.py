"""Configs: presets load, overrides land, mistakes are named with the nearest legal key."""

import pytest
import yaml

from configs import UserError, derive_seed, load_config
from configs.loading import PRESETS, dump_config, validate


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_loads(preset):
    assert load_config(preset).name == preset


def test_the_embedded_preset_is_the_default():
    assert load_config("embedded") == load_config()


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("ppo.kl_coeficient=0.1", "ppo.kl_coefficient"),
        ("pppo.num_updates=3", "ppo"),
        ("num_round=3", "num_rounds"),
        ("kl_coefficient=0.1", "ppo.kl_coefficient"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(word, nearest):
    with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
        load_config(overrides=[word])


def test_yaml_reads_1e5_as_text_and_the_schema_mends_it():
    assert isinstance(yaml.safe_load("1e-5"), str)
    assert load_config(overrides=["ppo.learning_rate=1e-5"]).ppo.learning_rate == 1e-5


def test_short_forms_and_overrides_of_their_parts():
    config = load_config(
        overrides=["base=some/model", "base.dtype=bfloat16", "data=a.jsonl", "labeler.kind=preferences-file", "labeler.path=x"]
    )
    assert (config.base.model, config.base.dtype, config.data.source) == ("some/model", "bfloat16", "a.jsonl")


@pytest.mark.parametrize("word", ["ppo.num_updates=0", "ppo.clip_range=-1", "num_rounds=0", "ppo.batch_size=7 ", "no-equals-sign"])
def test_bad_values_are_refused(word):
    with pytest.raises(UserError):
        load_config(overrides=[word, "ppo.num_minibatches=4"])


def test_gold_needs_the_embedded_world():
    with pytest.raises(UserError, match="gold"):
        load_config(overrides=["data=mine.jsonl"])


def test_a_dumped_config_loads_as_itself():
    config = load_config(overrides=["ppo.num_updates=3"])
    assert validate(yaml.safe_load(dump_config(config)), "dump") == config


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_config(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        load_config(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(str(tmp_path / "broken.yaml"))


def test_seeds_depend_on_names_only():
    assert derive_seed(0, 1, "policy") == derive_seed("0", "1", "policy")
    assert derive_seed(0, 1, "policy") != derive_seed(0, 11, "policy")
    assert 0 <= derive_seed("x") < 2**63
