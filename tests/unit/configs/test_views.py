"""A stage can read a setting if and only if its key covers the setting or it is a run-time setting."""

import pytest

from configs import load_config
from configs.fields import Section
from configs.schema import RunConfig
from configs.views import UndeclaredSetting, identity, identity_at, is_run_time, visible
from loop.keys import stage_key
from loop.round import STAGES

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # `changed` puts text where numbers belong
CHANGED = "a value that no setting has"


def leaves(section: Section, path=(), run_time=False):
    """Yield (name parts, whether it is a run-time setting) for every setting."""
    for name in type(section).model_fields:
        value, marked = getattr(section, name), run_time or is_run_time(section, name)
        if isinstance(value, Section):
            yield from leaves(value, (*path, name), marked)
        else:
            yield (*path, name), marked


def changed(section: Section, path) -> Section:
    """Return a copy in which one setting has another value. Nothing is validated."""
    name, *rest = path
    return section.model_copy(update={name: changed(getattr(section, name), rest) if rest else CHANGED})


def can_read(view, path) -> bool:
    try:
        for name in path:
            view = getattr(view, name)
    except UndeclaredSetting:
        return False
    return True


LEAVES = list(leaves(RunConfig()))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_can_read_exactly_what_its_key_covers(stage):
    config = load_config()
    key, view = stage_key(config, stage, 0, {}), visible(config, stage.visible)
    for path, run_time in LEAVES:
        covered = stage_key(changed(config, path), stage, 0, {}) != key  # type: ignore[arg-type]
        assert can_read(view, path) == (covered or run_time), ".".join(path)
        assert not (covered and run_time), ".".join(path)


def test_the_run_time_settings():
    assert {".".join(path) for path, run_time in LEAVES if run_time and path[0] != "runtime"} == {
        "name",
        "num_rounds",
        "report_to",
        "base.gradient_checkpointing",
        "generation.batch_size",
        "sft.micro_batch_size",
        "pmp.micro_batch_size",
        "reward.micro_batch_size",
        "ppo.micro_batch_size",
        "dpo.micro_batch_size",
        "select.micro_batch_size",
        "keep.micro_batch_size",
        "pivot.key_variable",
        "pivot.concurrency",
        "pivot.timeout_seconds",
        "pivot.max_retries",
        "pivot.backoff_seconds",
        "pivot.batch_size",
        "pivot.cache",
        "judge.key_variable",
        "judge.concurrency",
        "judge.timeout_seconds",
        "judge.max_retries",
        "judge.backoff_seconds",
        "judge.price_input",
        "judge.price_output",
        "judge.cache",
    }


def test_a_view_gives_sections_settings_and_errors():
    config = load_config(overrides=["reward.ensemble=min"])
    view = visible(config, ("ppo", "reward.ensemble"))
    assert view.ppo is config.ppo and view.reward.ensemble == "min" and view.runtime is config.runtime
    assert view.sft.micro_batch_size is None
    with pytest.raises(UndeclaredSetting, match="'reward.learning_rate'"):
        _ = view.reward.learning_rate
    with pytest.raises(UndeclaredSetting, match="'seed'"):
        _ = view.seed
    with pytest.raises(AttributeError, match="'ppo_updates'"):
        _ = view.ppo_updates  # type: ignore[attr-defined]


def test_identity_leaves_run_time_out_at_every_depth():
    found = identity(load_config())
    assert "name" not in found and "runtime" not in found
    assert "batch_size" not in found["generation"] and "micro_batch_size" not in found["ppo"] and "batch_size" in found["ppo"]
    assert identity_at(load_config(), "reward.ensemble") == "last"


def test_a_worker_shows_a_stage_its_part_of_the_config(tmp_path, monkeypatch):
    """The worker gives the stage its view of the config, so a stage that reads more than it declares fails."""
    from loop import stages
    from loop.executors.worker import Worker

    monkeypatch.setitem(stages.STAGES, "label", lambda context: {"temperature": context.config.generation.temperature})
    request = {
        "stage": "label",
        "round": 0,
        "config": load_config(overrides=["generation.temperature=0.9"]).model_dump(mode="json"),
        "reads": ["labeler", "seed"],
        "functions": {},
        "inputs": {},
        "work": str(tmp_path),
        "output": str(tmp_path),
    }
    with pytest.raises(UndeclaredSetting, match="'generation.temperature'"):
        Worker(0, 1).run_stage(request)
    assert Worker(0, 1).run_stage(request | {"reads": ["generation"]}) == {"temperature": 0.9}


def test_a_worker_takes_the_limit_of_each_run(tmp_path, monkeypatch):
    """The base model is kept from run to run, and the limit is not."""
    from types import SimpleNamespace

    from loop.executors.worker import Worker

    loads = []
    monkeypatch.setattr("policies.backbone.Backbone.load", lambda *given: loads.append(given) or SimpleNamespace(tokens_per_batch=0))
    worker, found = Worker(0, 1), []
    for tokens in (300, 200):
        found.append(worker._backbone(visible(load_config(overrides=[f"runtime.tokens_per_batch={tokens}"]), ["base", "lora"]), tmp_path))
        assert found[-1].tokens_per_batch == tokens
    assert found[0] is found[1] and len(loads) == 1
