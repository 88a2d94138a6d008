"""Keys that are pinned, and the stages that two configs share."""

from configs import load_config
from configs.loading import dump_config
from loop.forks import shared_stages
from loop.keys import planned_keys

PINNED = {
    "setup/data": "280bc797",
    "setup/base": "a8426e16",
    "setup/filter": "1f4dd576",
    "setup/sft": "04bd1a5f",
    "setup/baseline": "7dca406e",
    "round-000/reward": "fcad7ff6",
    "round-000/policy": "9aa177e5",
    "round-000/sample": "aa2ae3fa",
    "round-000/label": "d7c81b8a",
    "round-000/retrain": "15d7f688",
    "round-000/select": "9af7391f",
    "round-000/keep": "0f8eb21f",
    "round-000/evaluate": "972338ab",
}


def test_the_keys_of_the_default_are_pinned():
    """Committed stages with another key are made again. Change these numbers only on purpose, and say so in the CHANGELOG."""
    assert {name: key[:8] for name, key in planned_keys(load_config(num_rounds=1)).items()} == PINNED


def test_a_later_setting_shares_the_earlier_stages(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(load_config()))
    alike, touched = shared_stages(tmp_path, load_config(overrides=["ppo.num_updates=9"]))
    assert alike == ["setup/data", "setup/base", "setup/filter", "setup/sft", "setup/baseline", "round-000/reward"]
    assert touched[0] == "round-000/policy" and touched[-1] == "round-001/evaluate"
    alike, touched = shared_stages(tmp_path, load_config(overrides=["runtime.workers=2"]))
    assert not touched
    alike, touched = shared_stages(tmp_path, load_config(overrides=["evaluate.num_prompts=9"]))
    assert touched == ["setup/baseline", "round-000/evaluate", "round-001/evaluate"]
