"""Configs: presets load, overrides apply, and mistakes are named together with the nearest valid key."""

import pytest
import yaml

from configs import UserError, derive_seed, load_config
from configs.explaining import ALIASES, _names
from configs.loading import PRESETS, dump_config, flatten, read_given, validate
from configs.schema import PPOConfig, RunConfig


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
        ("ppo.lr=1e-4", "ppo.learning_rate"),
        ("ppo.beta=0.1", "ppo.kl_coefficient"),
        ("reward.epochs=2", "reward.num_epochs"),
        ("sft.bs=8", "sft.batch_size"),
        ("generation.max_length=9", "generation.max_new_tokens"),
        ("ppo.temperature=1", "generation.temperature"),
        ("lr=1e-4", " or ".join(f"{group}.learning_rate" for group in ("sft", "pmp", "reward", "ppo", "dpo", "select", "keep"))),
        ("rounds=3", "num_rounds"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(word, nearest):
    with pytest.raises(UserError, match=f"did you mean '{nearest}'") as caught:
        load_config(overrides=[word])
    assert caught.value.where == f"the command line: {word}"


def test_every_alias_stands_for_a_setting():
    """And no setting has the other name, except `dpo.beta`: `ppo.beta` is the KL coefficient to many, and there is no such setting."""
    names = {name[-1] for name in _names(RunConfig)}
    assert not {meant for others in ALIASES.values() for meant in others} - names
    assert names & ALIASES.keys() == {"beta"}
    assert "beta" not in PPOConfig.model_fields


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ppo.num_updates=ten", "ppo.num_updates must be a whole number, not 'ten'"),
        ("ppo.num_updates=2.5", "ppo.num_updates must be a whole number, not 2.5"),
        ("ppo.num_updates=yes", "ppo.num_updates must be something other than true or false"),
        ("ppo.num_updates=", "ppo.num_updates must be a whole number, not empty"),
        ("ppo.batch_size=0", "ppo.batch_size must be greater than 0, not 0"),
        ("ppo.num_updates=-1", "ppo.num_updates must be at least 0, not -1"),
        ("ppo.gamma=3", "ppo.gamma must be at most 1, not 3"),
        ("ppo.learning_rate=.inf", "ppo.learning_rate must be a finite number"),
        ("ppo.whiten_rewards=maybe", "ppo.whiten_rewards must be true or false"),
        ("ppo=3", "ppo must be a group of settings, not 3"),
        ("seed=-1", "seed must be at least 0, not -1"),
        ("base.dtype=bf16", "base.dtype must be 'float32' or 'bfloat16', not 'bf16', did you mean 'bfloat16'?"),
        ("base.dtype=float16", "base.dtype=float16 cannot be trained in: gradients below 6e-8 become 0"),
        ("base.dtype=half", "base.dtype=half cannot be trained in"),
        ("reward.normalization_samples=1", "reward.normalization_samples must be at least 2, not 1"),
        ("base.revision=123", "base.revision must be text, not 123"),
        ("data.source=[a.jsonl, 1]", "data.source, item 2, must be text, not 1"),
        ("data.sources=[{path: a.jsonl}, {path: 3}]", "data.sources.path, item 2, must be text, not 3"),
        ("data.sources=[{path: a.jsonl, weight: 0}]", "data.sources.weight, item 1, must be greater than 0, not 0"),
        ("data.sources=[{path: a.jsonl, wieght: 2}]", "did you mean 'data.sources.weight'?"),
        ("data.sources=[{name: a}]", "data.sources.path, item 1, must be given"),
        ("data.sources=[a.jsonl]", "data.sources, item 1, must be a group of settings, not 'a.jsonl'"),
        ("data.sources=[{path: a, name: x}, {path: b, name: x}]", "two of data.sources have the name 'x'"),
        ("labeler.rater_weights={ann: 1, บ๊อบ: 0}", "labeler.rater_weights.บ๊อบ must be greater than 0, not 0"),
        ("labeler.rater_weights={1: 2}", "a name in labeler.rater_weights must be text, not 1"),
        ("ppo.penalties={nosuch: 1}", "a name in ppo.penalties must be 'foreign_word', "),
        ("pivot.codes={th: 3}", "pivot.codes.th must be text, not 3"),
        ("runtime.dashboard_port=70000", "runtime.dashboard_port must be at most 65535, not 70000"),
        ("pivot.language=e1", "'e1' is not the code of a language"),
        ("judge.key_variable=sk-123", "key_variable is not the name of an environment variable"),
        ("judge.url='http://ex ample/v1'", "'http://ex ample/v1' is not the address of an endpoint"),
        ("judge.url='http://a..b/v1'", "'http://a..b/v1' is not the address of an endpoint"),
        ("judge.url='http://x/v1?version=1'", "'http://x/v1?version=1' is not the address of an endpoint"),
        ("judge.url='http://x/v1#chat'", "'http://x/v1#chat' is not the address of an endpoint"),
        ('pivot.url="http://x/v\\t1"', "is not the address of an endpoint"),
        ("name=a/b", "'a/b' is not a valid run name"),
        ("name=" + 101 * "x", "is not a valid run name"),
        ("name=../x", "is not a valid run name"),
        ("name='a b'", "is not a valid run name"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_where_it_is(word, expected, tmp_path):
    with pytest.raises(UserError) as caught:
        load_config(overrides=[word])
    assert expected in caught.value.what and caught.value.where == f"the command line: {word}" and caught.value.to_do
    key, _, value = word.partition("=")
    *sections, last = key.split(".")
    file = tmp_path / "mine.yaml"
    file.write_text("# a comment\nnum_rounds: 1\n" + "".join(f"{s}:\n" for s in sections) + f"{'  ' * len(sections)}{last}: {value}\n")
    with pytest.raises(UserError) as caught:
        load_config(str(file))
    assert expected in caught.value.what and caught.value.where == f"{file}, line {3 + len(sections)}"


def test_the_place_of_a_value_is_where_it_was_set_last(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("ppo: {num_updates: 3, batch_size: 10}\n")
    with pytest.raises(UserError) as caught:
        load_config(str(file), ["runtime.workers=3"])
    assert caught.value.where == f"{file}, line 1; ppo.num_minibatches is 2 by default; the command line: runtime.workers=3"
    assert load_config(str(file), ["ppo={batch_size: 8}"]).ppo.num_updates == PPOConfig().num_updates  # a group replaces a group


def test_a_key_that_is_given_twice_is_refused_with_both_lines(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("seed: 1\nppo:\n  num_updates: 3\n  gamma: 1\n  num_updates: 4\n")
    with pytest.raises(UserError, match="ppo.num_updates is given twice") as caught:
        load_config(str(file))
    assert caught.value.where == f"{file}, line 5 and line 3"


def test_yaml_reads_1e5_as_text_and_the_schema_reads_it_as_a_number():
    assert isinstance(yaml.safe_load("1e-5"), str)
    assert load_config(overrides=["ppo.learning_rate=1e-5"]).ppo.learning_rate == 1e-5


def test_short_forms_and_overrides_of_their_parts():
    config = load_config(
        overrides=["base=some/model", "base.dtype=bfloat16", "data=a.jsonl", "labeler.kind=preferences-file", "labeler.path=x"]
    )
    assert (config.base.model, config.base.dtype, config.data.source) == ("some/model", "bfloat16", "a.jsonl")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ppo.penalties={}", {}),
        ("ppo.penalties={empty: 1}", {"empty": 1.0}),
        ("ppo={penalties: {empty: 1}}", {"empty": 1.0}),
        ("ppo.penalties.empty=1", {"repetition": 0.5, "empty": 1.0}),
        ("ppo.num_updates=3", {"repetition": 0.5}),
    ],
)
def test_a_mapping_takes_the_place_of_that_of_the_run(word, expected):
    """Else no fork could leave out a penalty, and a resumed run would not notice that it was left out."""
    run = load_config(overrides=["ppo.penalties={repetition: 0.5}"])
    assert read_given(None, [word]).over(run, "the run").resolve().ppo.penalties == expected


def test_sources_and_source_take_each_others_place():
    """Whichever is given later counts, also over a preset or a run's own config."""
    sources = "data.sources=[{path: a.jsonl, name: mail}]"
    config = load_config("hh-harmless", [sources])
    assert config.data.source is None and [source.name for source in config.data.sources] == ["mail"]
    again = load_config("hh-harmless", [sources, "data=b.jsonl"])
    assert again.data.source == "b.jsonl" and again.data.sources == []
    assert read_given(None, ["data=b.jsonl"]).over(config, "the run").resolve().data == again.data
    assert read_given(None, [sources]).over(again, "the run").resolve().data == config.data
    assert RunConfig.model_validate(config.model_dump()) == config
    with pytest.raises(UserError, match="data.source and data.sources are both given"):
        validate({"data": {"source": "a.jsonl", "sources": [{"path": "b.jsonl"}]}}, "a test")
    with pytest.raises(UserError, match="data.source names nothing"):
        load_config(overrides=["data.source=null"])
    with pytest.raises(UserError, match="data.max_pairs takes all pairs"):
        load_config(overrides=["data.sources=[{path: a.jsonl, weight: 2}]"])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("kl_coefficient=0 kl_target=1", "so a coefficient of 0 would stay 0"),
        ("kl_target=6 kl_horizon=12", "ppo.kl_horizon is 12, so an update of 64 responses"),
        ("advantage=grpo kl_estimator=k1", "ppo.kl_estimator=k1 has a gradient of 0 on average in the loss"),
        ("kl_in=loss kl_estimator=k1", "ppo.kl_estimator=k1 has a gradient of 0 on average in the loss"),
        ("scale_rewards=none", "ppo.scale_rewards=none changes how grpo scales rewards, but ppo.advantage is rloo"),
        ("advantage=gae importance_ratio=sequence", "needs one advantage for each response, but ppo.advantage is gae"),
        ("value_warmup_updates=1", "ppo.value_warmup_updates trains a critic, but ppo.advantage is rloo"),
        ("advantage=gae value_warmup_updates=3 num_updates=3", "so the policy would never be trained"),
        ("num_epochs=1 target_kl=0.1", "ppo.target_kl leaves out the later epochs of an update, but ppo.num_epochs is 1"),
    ],
)
def test_options_of_ppo_that_do_not_fit_together_are_refused(words, what):
    """The message says what is wrong, and where each setting that it names was written."""
    with pytest.raises(UserError) as caught:
        load_config(overrides=[f"ppo.{word}" for word in words.split()])
    assert what in caught.value.what and caught.value.to_do
    named = [f"ppo.{word}" for word in words.split() if f"ppo.{word.partition('=')[0]}" in caught.value.what]
    assert named and all(word in caught.value.where for word in named)


@pytest.mark.parametrize(
    ("words", "what", "to_do"),
    [
        (["base.hidden_size=100", "base.num_heads=3"], "base.hidden_size=100 cannot be divided", "base.hidden_size=102"),
        (["base.hidden_size=12"], "base.num_heads=4 heads of an even size", "base.hidden_size=16"),
        (["lora.layers=upper-half", "lora.target_modules=.*q_proj"], "lora.target_modules is the pattern '.*q_proj'", "a list of names"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(words, what, to_do):
    with pytest.raises(UserError) as caught:
        load_config(overrides=words)
    assert what in caught.value.what and to_do in caught.value.to_do


def test_where_the_kl_penalty_is_and_how_it_is_estimated():
    """`grpo` has it in the loss, unless it is told otherwise, and the estimator follows."""
    words = {"": (False, "k1"), "advantage=grpo": (True, "k3"), "advantage=grpo kl_in=reward": (False, "k1"), "kl_in=loss": (True, "k3")}
    for given, expected in words.items():
        ppo = load_config(overrides=[f"ppo.{word}" for word in given.split()]).ppo
        assert (ppo.kl_is_in_loss, ppo.kl_estimator_used) == expected


@pytest.mark.parametrize("word", ["ppo.num_updates=-1", "ppo.clip_range=-1", "num_rounds=0", "ppo.batch_size=7 ", "no-equals-sign"])
def test_bad_values_are_refused(word):
    with pytest.raises(UserError):
        load_config(overrides=[word, "ppo.num_minibatches=4"])


def test_gold_needs_the_embedded_world():
    with pytest.raises(UserError, match="gold"):
        load_config(overrides=["data=mine.jsonl"])


def test_a_dumped_config_loads_as_itself():
    config = load_config(overrides=["ppo.num_updates=3"])
    assert validate(yaml.safe_load(dump_config(config)), "dump") == config


def test_settings_by_their_dotted_names():
    assert flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": None}, "f": {}}}) == {"a": 1, "b.c": [1, 2], "b.d.e": None, "b.f": {}}


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_config(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        load_config(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("seed: 1\na: [1\n")
    with pytest.raises(UserError, match="not valid YAML") as caught:
        load_config(str(tmp_path / "broken.yaml"))
    assert "line 3" in caught.value.where  # where the bracket is missed
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text .byte 10"):
        load_config(str(tmp_path / "latin.yaml"))
    (tmp_path / "deep.yaml").write_text("a: " + 5000 * "[")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(str(tmp_path / "deep.yaml"))
    (tmp_path / "loop.yaml").write_text("ppo: &x {gamma: *x}")
    with pytest.raises(UserError, match="nested too deeply"):
        load_config(str(tmp_path / "loop.yaml"))
    with pytest.raises(UserError, match="is a folder"):
        load_config(str(tmp_path))
    with pytest.raises(UserError, match="did you mean the preset 'hh-harmless'"):
        load_config("hh-harmles")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\r\n")
    assert load_config(str(tmp_path / "bom.yaml")).seed == 3


def test_seeds_depend_on_names_only():
    assert derive_seed(0, 1, "policy") == derive_seed("0", "1", "policy")
    assert derive_seed(0, 1, "policy") != derive_seed(0, 11, "policy")
    assert 0 <= derive_seed("x") < 2**63
