"""Does the verdict on over-optimisation come in time? PPO on the embedded world, watched every few updates by all signs and by gold.

Three arms: KL coefficient 0.05 and 1,000 pairs, the same with 300 pairs, and the default. A policy is over-optimised once its gold has
fallen by 20 % of what it had gained at its peak. The alarm is in time if it rises before that. Gold is only for the comparison: the
verdict does not see it, but in the win rate, which the embedded world's labeler draws from it, as in every round.

    python -m tests.benchmarks.alarm [--seeds 0 1 2 ...] [--arms low-kl few-pairs default] [--folder DIR]

A seed of an arm takes about two minutes on one core. The finished ones are kept in the folder.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVERY, PROMPTS, LOST = 10, 256, 0.2
LOW_KL = ["ppo.kl_coefficient=0.05", "ppo.num_updates=120"]
ARMS = {
    "low-kl": [*LOW_KL, "data.num_pairs=1000"],
    "few-pairs": [*LOW_KL, "data.num_pairs=300"],
    "default": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path("runs/alarm"))
    options = parser.parse_args()
    found: dict[str, list[list[dict[str, Any]]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        for arm in options.arms:
            path = options.folder / f"{arm}-{seed}.json"
            if not path.exists():
                rows = list(watch(options.folder / f"run-{arm}-{seed}", [*ARMS[arm], f"seed={seed}"]))
                path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            found[arm].append(json.loads(path.read_text(encoding="utf-8")))
    for arm, curves in found.items():
        print(table(arm, curves))


def watch(folder: Path, settings: list[str]) -> Iterator[dict[str, Any]]:
    """Make the reward model of round 0, then yield a row for every EVERY updates of PPO."""
    from configs.loading import load_config
    from configs.seeds import derive_seed
    from policies import ppo
    from policies.backbone import Backbone
    from policies.batching import prompt_batches
    from policies.checkpoints import Checkpoints
    from policies.reporting import report_nothing
    from policies.responses import EncodedPrompt
    from policies.tokenization import encode_prompt
    from rewards.comparisons import PromptRecord, read_jsonl
    from rewards.scoring import Scorer, ensemble

    config = load_config(overrides=[*settings, "num_rounds=1", "runtime.executor=in-process", "runtime.threads=1"], name=folder.name)
    make_reward_model(config, folder)
    backbone = Backbone.load(str(folder / "setup/base"), config.base, config.lora)
    backbone.add_adapter("sft", folder=folder / "setup/sft")
    backbone.add_adapter("policy", copy_of="sft")
    scorer = Scorer.load(backbone, "reward", folder / "round-000/reward")
    prompts = read_jsonl(folder / "setup/filter/prompts.jsonl", PromptRecord)
    encoded = [EncodedPrompt(encode_prompt(backbone.tokenizer, r.prompt), r.prompt, r.prompt_id, r.source) for r in prompts]
    value = ppo.ValueModel(backbone, *scorer.normalized_head, adapter=None) if config.ppo.has_critic else None
    seed = derive_seed(config.seed, 0, "policy")
    trainer = ppo.PPOTrainer(backbone, value, ensemble([scorer], "last"), config.ppo, config.generation, seed)
    judge = Watcher(backbone, scorer, config, folder, Checkpoints(), report_nothing)
    size = config.ppo.batch_size // config.ppo.samples_per_prompt
    for update, rows in enumerate(prompt_batches(len(prompts), size, config.ppo.num_updates, seed)):
        if update % EVERY == 0:
            yield judge.row(update)
        trainer.step(update, [encoded[i] for i in rows])
    yield judge.row(config.ppo.num_updates)


def make_reward_model(config: Any, folder: Path) -> None:
    """The stages before PPO of round 0, as a run makes them."""
    from loop.driver import Driver
    from loop.executors.in_process import InProcess
    from loop.round import REWARD, set_up
    from loop.terminal import Terminal

    def program(run: Any) -> None:
        setup = set_up(run)
        run.stage(REWARD, 0, data=setup.data, base=setup.base, sft=setup.sft, retrained=None)

    folder.parent.mkdir(parents=True, exist_ok=True)
    Driver(config, folder, Terminal(), InProcess(config.runtime)).execute(program)


class Watcher:
    """Measures the policy as the stage `evaluate` does."""

    def __init__(self, backbone: Any, scorer: Any, config: Any, folder: Path, checkpoints: Any, report: Any):
        from rewards.baselines import fit_bag_of_words
        from rewards.comparisons import Comparison, PromptRecord, read_jsonl
        from rewards.sampling import Sampler

        self.scorer, self.config = scorer, config
        self.sampler = Sampler(backbone, config.generation, checkpoints, report)
        self.prompts = read_jsonl(folder / "setup/filter/heldout_prompts.jsonl", PromptRecord)
        heldout = read_jsonl(folder / "setup/filter/heldout_pairs.jsonl", Comparison)
        self.bag = fit_bag_of_words([pair for pair in heldout if not pair.tie])
        self.sft = self.measure("sft")

    def measure(self, adapter: str) -> Any:
        from configs.schema import EvaluateConfig
        from rewards.evaluation import evaluate_policy
        from rewards.reward_model import measure_scores
        from rewards.world.gold import gold_scores

        found = evaluate_policy(self.sampler, adapter, self.prompts, EvaluateConfig(num_prompts=PROMPTS), 0, 0, gold_scores)
        return found.adding(proxy_score=measure_scores(self.scorer, found.samples))

    def row(self, update: int) -> dict[str, Any]:
        """What the signs say now, beside gold."""
        from rewards.comparisons import Answer, win_probability
        from rewards.measurements import Measurement
        from rewards.overoptimization import Evidence, find_signs, summary
        from rewards.win_rates import win_rate

        now, sft = self.measure("policy"), self.sft
        units = [sample.prompt_id for sample in now.samples]
        gold, sft_gold = now.measured["gold"].values, sft.measured["gold"].values
        rng = random.Random(update)
        won = [
            0.5 if a.completion == b.completion else float(rng.random() < win_probability(x - y))
            for a, b, x, y in zip(now.samples, sft.samples, gold, sft_gold, strict=True)
        ]
        own, other = (self.bag([Answer(s.prompt, s.completion, s.finished) for s in of.samples]) for of in (now, sft))
        signs = find_signs(
            Evidence(
                defects=now.defects,
                sft_defects=sft.defects,
                lengths=now.measured["length"].values,
                sft_lengths=sft.measured["length"].values,
                scores=now.measured["proxy_score"],
                sft_scores=sft.measured["proxy_score"],
                kl=now.measured["kl"].values,
                other_gain=Measurement([a - b for a, b in zip(own, other, strict=True)], units).mean(),
                win_rate={"sft": win_rate(won, units)},
            )
        )
        means = {name: now.measured[name].mean()["mean"] for name in ("gold", "kl", "length", "proxy_score")}
        return {"update": update, **means, "sft_gold": sft.measured["gold"].mean()["mean"], **summary(signs)}


def rises(rows: list[dict[str, Any]], alarm: str) -> int | None:
    """The update at which an alarm rises first: the verdict (`verdict`), or one sign."""
    for row in rows:
        if row["verdict"] != "none" if alarm == "verdict" else row["signs"].get(alarm, {}).get("fires"):
            return int(row["update"])
    return None


def falls(rows: list[dict[str, Any]]) -> int | None:
    """The update at which gold has lost a fifth of what it had gained at its peak so far. None if it never does."""
    peak, start = rows[0]["gold"], rows[0]["gold"]
    for row in rows:
        peak = max(peak, row["gold"])
        if peak - row["gold"] > LOST * (peak - start) and peak - row["gold"] > 0.2:  # 0.2 is twice the error of gold on 256 prompts
            return int(row["update"])
    return None


def table(arm: str, curves: list[list[dict[str, Any]]]) -> str:
    """How often each alarm rises before gold falls, and how often it rises where gold does not fall."""
    names = ["verdict", *curves[0][-1]["signs"]]
    lines = [
        f"\n{arm}: {len(curves)} seeds; gold falls at {[falls(rows) for rows in curves]}",
        "| alarm | in time | rises at |",
        "|---|---|---|",
    ]
    for name in names:
        at = [rises(rows, name) for rows in curves]
        fallen = [(up, down) for up, down in zip(at, map(falls, curves), strict=True) if down is not None]
        in_time = sum(up is not None and up <= down for up, down in fallen)
        lines.append(f"| {name} | {in_time} of {len(fallen)} | {at} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
