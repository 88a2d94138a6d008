"""Keys that are pinned, and the stages that two configs share."""

from configs import load_config
from configs.loading import dump_config
from loop.forks import shared_stages
from loop.keys import planned_keys

PINNED = {
    "setup/data": "0c41d97a",
    "setup/base": "a8426e16",
    "setup/filter": "c7e220c9",
    "setup/sft": "e0fc6cac",
    "setup/baseline": "357f2b1e",
    "round-000/reward": "d1d52b9b",
    "round-000/policy": "fa8a3af0",
    "round-000/sample": "9b33b335",
    "round-000/answer": "9dbfbe97",
    "round-000/label": "5178d4fb",
    "round-000/retrain": "a2a04c0d",
    "round-000/select": "40c21356",
    "round-000/keep": "21888649",
    "round-000/evaluate": "48265384",
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


def test_dpo_takes_the_place_of_ppo(tmp_path):
    """A run by DPO has the same stages under the same names. It shares those before its first policy, which no setting of PPO changes."""
    ppo, dpo = load_config(), load_config(overrides=["trainer=dpo"])
    (tmp_path / "config.yaml").write_text(dump_config(ppo))
    alike, touched = shared_stages(tmp_path, dpo)
    assert alike == [f"setup/{name}" for name in ("data", "base", "filter", "sft", "baseline")] + ["round-000/reward"]
    assert [*alike, *touched] == list(planned_keys(ppo))
    (tmp_path / "config.yaml").write_text(dump_config(dpo))
    changed = load_config(overrides=["trainer=dpo", "ppo.num_updates=9", "ppo.init=selected"])
    assert shared_stages(tmp_path, changed) == (list(planned_keys(dpo)), [])
    assert shared_stages(tmp_path, load_config(overrides=["trainer=dpo", "dpo.beta=0.2"]))[1][0] == "round-000/policy"
