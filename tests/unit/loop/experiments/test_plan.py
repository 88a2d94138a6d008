"""The file of an experiment, and every mistake in it that is found before anything runs."""

from pathlib import Path

import pytest
import yaml

from configs import UserError
from configs.schema import RunConfig
from loop.experiments.metrics import read_metric
from loop.experiments.plan import Metric, read_experiment
from loop.store.journal import Event, fold

PROJECT = Path(__file__).parents[4]
GOOD = {
    "base": {"ppo.num_updates": 3, "runtime": {"threads": 1}},
    "rounds": 2,
    "seeds": [0, 1],
    "arms": {"a": None, "b": {"rounds": 1, "retrain.data": "last", "ppo": {"kl_coefficient": 0.1}}},
    "compare": [["a", "b"]],
    "metrics": ["evaluate.gold", {"path": "evaluate.kl", "rounds": "all"}],
}


@pytest.fixture
def read(tmp_path):
    """Write an experiment file, GOOD with some keys changed, and read it."""

    def read(*words, typed_seeds=None, **changed):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(GOOD | changed, sort_keys=False))
        return read_experiment(str(path), words, typed_seeds)

    return read


def test_an_arm_is_the_base_with_its_changes(read):
    found = read("sft.num_epochs=2")
    assert found.name == "mine" and found.seeds == [0, 1] and found.compare == [("a", "b")]
    assert found.metrics == [Metric(path="evaluate.gold"), Metric(path="evaluate.kl", rounds="all")]
    a, b = found.arms["a"].config(0), found.arms["b"].config(1)
    default = RunConfig()
    assert a == default.model_copy(
        update={
            "name": "a-seed-0",
            "sft": default.sft.model_copy(update={"num_epochs": 2.0}),
            "ppo": default.ppo.model_copy(update={"num_updates": 3}),
            "runtime": default.runtime.model_copy(update={"threads": 1}),
        }
    )
    assert b == a.model_copy(
        update={
            "name": "b-seed-1",
            "seed": 1,
            "num_rounds": 1,
            "retrain": a.retrain.model_copy(update={"data": "last"}),
            "ppo": a.ppo.model_copy(update={"kl_coefficient": 0.1}),
        }
    )
    assert found.arms["b"].changes == {"rounds": 1, "retrain.data": "last", "ppo.kl_coefficient": 0.1}
    assert found.runtime == a.model_copy(update={"name": "mine"})


def test_an_arm_may_change_a_mapping_of_names(read):
    """The names in it may be functions, with a dot, and it may be empty."""
    arms = {"a": None, "b": {"ppo.penalties": {}}, "c": {"ppo": {"penalties": {"mine.py:long": 1.0}}}, "d": {"ppo.penalties.empty": 1.0}}
    found = read(arms=arms, base={"ppo.penalties": {"repetition": 0.5}}, compare=[]).arms
    assert {name: arm.config(0).ppo.penalties for name, arm in found.items()} == {
        "a": {"repetition": 0.5},
        "b": {},
        "c": {"mine.py:long": 1.0},
        "d": {"repetition": 0.5, "empty": 1.0},
    }
    assert found["b"].changes == {"ppo.penalties": {}}


def test_the_base_may_be_a_preset_or_a_config_file(read, tmp_path):
    (tmp_path / "own.yaml").write_text("num_rounds: 7\nppo: {num_updates: 5}\n")
    assert read(base="hh-harmless").arms["a"].config(0).data.source == "Anthropic/hh-rlhf"
    arm = read(base={"config": str(tmp_path / "own.yaml"), "ppo.num_epochs": 3}, rounds=None).arms["a"]
    assert arm.num_rounds == 7 and (arm.config(0).ppo.num_updates, arm.config(0).ppo.num_epochs) == (5, 3)


def test_seeds_of_the_command_line_take_the_place_of_those_in_the_file(read):
    assert read(typed_seeds=[5]).seeds == [5]


WRONG = [
    ({"arm": {}}, "an experiment has no key 'arm', did you mean 'arms'?"),
    ({"seeds": []}, "seeds must be"),
    ({"seeds": [1, True]}, "seeds must be a list of whole numbers of at least 0"),
    ({"seeds": [1, 1]}, "the seed 1 is given twice"),
    ({"arms": {}}, "arms must be"),
    ({"arms": {"a": {"ppo.num_update": 1}}, "compare": []}, "did you mean 'ppo.num_updates'?"),
    ({"arms": {"a": {"ppo": {"num_updates": -1}}}, "compare": []}, "ppo.num_updates must be at least 0"),
    ({"arms": {"a": {"rounds": 0}}, "compare": []}, "num_rounds must be greater than 0"),
    ({"arms": {"a/b": {}}, "compare": []}, "is not a valid run name"),
    ({"arms": {"a": {"kind": "round"}}, "compare": []}, "there is no kind of arm 'round', did you mean 'rounds'?"),
    ({"arms": {"a": {"kind": ["rounds"]}}, "compare": []}, "there is no kind of arm ['rounds']"),
    ({"arms": {"a": {"runtime.workers": 2}}, "compare": []}, "which is a setting of the whole experiment"),
    ({"arms": {"a": {"seed": 2}}, "compare": []}, "seed cannot be set here"),
    ({"base": {"num_rounds": 2}}, "num_rounds cannot be set here"),
    ({"base": "embeded"}, "did you mean the preset 'embedded'?"),
    ({"compare": [["a", "bb"]]}, "`compare` names an arm that does not exist: 'bb', did you mean 'b'?"),
    ({"compare": [["a", "a"]]}, "with itself"),
    ({"compare": [["a"]]}, "compare must be a list of pairs"),
    ({"metrics": ["evaluate.glod"]}, "there is no metric 'glod' (in 'evaluate.glod'), did you mean 'gold'?"),
    ({"metrics": ["evaluat.gold"]}, "names no stage, did you mean 'evaluate'?"),
    ({"metrics": ["evaluate"]}, "there is no metric ''"),
    ({"metrics": [{"path": "evaluate.gold", "rounds": "first"}]}, "metrics must be a list of paths"),
    ({"name": "../x"}, "is not a valid run name"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else None)
def test_a_mistake_is_one_message_with_its_place(read, tmp_path, changed, message):
    with pytest.raises(UserError) as error:
        read(**changed)
    assert message in error.value.what and str(tmp_path / "mine.yaml") in error.value.where and error.value.to_do


def test_a_mistake_has_its_line(tmp_path):
    """`ppo.num_updates` of the second arm is in line 5."""
    path = tmp_path / "mine.yaml"
    path.write_text("seeds: [0]\narms:\n  a: {}\n  b:\n    ppo.num_updates: many\nmetrics: [evaluate.gold]\n")
    with pytest.raises(UserError) as error:
        read_experiment(str(path))
    assert error.value.where == f"{path}, line 5"


def test_a_setting_of_the_command_line_that_the_experiment_decides_is_refused(read):
    with pytest.raises(UserError, match="seed cannot be set here") as error:
        read("seed=3")
    assert error.value.where == "the command line"


def test_a_path_leads_to_a_number_or_to_the_mean_of_a_summary():
    """`baseline` is made once, so its metrics are the same at every round."""
    metrics = {
        "gold": {"mean": 2.5, "standard_error": 0.1},
        "selector": {"pairwise": {"accuracy": 0.75, "pairs": 8}},
        "samples": 9,
        "flag": True,
    }
    state = fold(
        [
            Event(event="stage_committed", stage="evaluate", round=1, metrics=metrics),
            Event(event="stage_committed", stage="baseline", metrics={"gold": {"mean": 1.5}}),
            *(Event(event="stage_committed", stage=stage, round=1, metrics={"loss": 0.5}) for stage in ("refresh", "committee")),
        ]
    )
    assert read_metric(state, "refresh.loss", 1) == read_metric(state, "committee.loss", 1) == 0.5  # made in a round if the config asks
    for path, value in {"evaluate.gold": 2.5, "evaluate.gold.standard_error": 0.1, "evaluate.selector.pairwise": 0.75}.items():
        assert read_metric(state, path, 1) == value and read_metric(state, path, 0) is None
    assert read_metric(state, "evaluate.samples", 1) == 9.0 and read_metric(state, "baseline.gold", 0) == 1.5
    for path in ("evaluate.kl", "evaluate.gold.mean.deeper", "evaluate.selector", "evaluate.flag"):
        assert read_metric(state, path, 1) is None


@pytest.mark.parametrize("path", sorted((PROJECT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_experiment_can_be_read(path):
    found = read_experiment(str(path))
    assert found.compare and all(arm.config(seed) for arm in found.arms.values() for seed in found.seeds)
