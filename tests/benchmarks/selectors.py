"""Who picks the best completion? Prints the tables of selectors of docs/results.md.

    python -m tests.benchmarks.selectors [--seeds 0 1 2 3 4] [--runs DIR] [--reuse DIR] [KEY=VALUE ...]

Every selector picks one of n completions of the round-1 policy for each held-out prompt. Nothing is judged on what it or its inputs were
fitted on: the selectors are those of round 0, and the reward model is that of round 1. Both have seen the labels of generation 0, and only
those of training prompts. Prompts, policy and completions are new to them. PPO in round 1 has maximized one of these scores
(`ppo.score`), which makes that score a worse judge of this policy; the tables say which one.

Not every row is a selector of the run:

    features without rules    is fitted here, on the examples of round 0 without the features that are rules
    oracle                    picks by the true reward
    random                    has the mean of all candidates as its gold, which is what a random pick gives on average

A run is made with two rounds and all kinds of selectors, or continued. Stages that runs in `--reuse` have made with equal settings are
copied, so after `make seeds` little is left to make. What was measured of a seed is kept in `selectors-seed-<seed>.json` beside its run,
and is measured again only if the run has changed. Remove the file after a change of the code.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from configs import load_config
from configs.errors import LoopError
from configs.judging import SelectorName
from configs.schema import RunConfig
from loop.stages.context import Context
from loop.stages.selecting import tools_with
from loop.store.layout import MANIFEST, RunFolder, runs_in
from loop.store.stage_library import StageLibrary
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.named_bases import source_of
from policies.reporting import report_nothing
from policies.training import quiet
from rewards import selectors
from rewards.best_of import complete
from rewards.comparisons import Comparison, Sample, read_jsonl
from rewards.scoring import Scorer
from rewards.selectors import Candidates, Selector, Tools, features, group_samples
from rewards.selectors.examples import Example, read_examples
from rewards.selectors.judging import judge
from rewards.world import writer
from rewards.world.gold import gold_reward, gold_scores
from tests.benchmarks.seeds import make_runs
from tests.benchmarks.selector_tables import NUMBERS, ORACLE, RANDOM, REWARD_MODEL, WITHOUT_RULES, print_tables

MADE_FROM = ("select", 0), ("reward", 1), ("sample", 1), ("label", 1), ("evaluate", 1)
"""The stages that decide what is measured, with their rounds. `evaluate` depends on the policy."""


class Oracle(Selector):
    """Scores candidates by the true reward of the embedded world."""

    def score(self, groups: Sequence[Candidates]) -> list[list[float]]:
        """The true rewards."""
        prompts = writer.all_prompts()
        return [[gold_reward(prompts[g.prompt_id], answer.completion, answer.finished) for answer in g.answers] for g in groups]

    def save(self, folder: Path) -> None:
        """There is nothing to save."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", default="runs/selectors")
    parser.add_argument("--reuse", default="runs/seeds", help="a folder of runs whose stages are copied where they are equal")
    options = parser.parse_args()
    runs, settings = Path(options.runs).resolve(), [f"select.kinds=[{', '.join(get_args(SelectorName))}]", *options.settings]
    try:
        configs = [load_config(overrides=settings, name=f"seed-{seed}", num_rounds=2, seed=seed) for seed in options.seeds]
        library = StageLibrary([*runs_in(runs), *runs_in(Path(options.reuse).resolve())])
    except LoopError as error:
        raise SystemExit(str(error)) from None
    if configs[0].data.source != "embedded" or not {REWARD_MODEL, "features"} <= {*configs[0].select.kinds}:
        parser.error("this needs the embedded world, whose true reward is known, and the selectors reward-model and features")
    make_runs(configs, runs, library)
    quiet()
    print_tables({config.seed: kept_or_measured(config, runs) for config in configs}, f"ppo.score={configs[0].ppo.score}")


def kept_or_measured(config: RunConfig, runs: Path) -> dict[str, Any]:
    """What `measure` gives for a run, from the file beside the run if the run is still the same."""
    run, file = RunFolder(runs / config.name), runs / f"selectors-{config.name}.json"
    made_from = {f"{name} {r}": json.loads((run.stage(name, r) / MANIFEST).read_text(encoding="utf-8"))["digest"] for name, r in MADE_FROM}
    if file.exists() and (kept := json.loads(file.read_text(encoding="utf-8")))["made_from"] == made_from:
        return kept
    print(f"measuring {config.name}", flush=True)
    file.write_text(json.dumps({"made_from": made_from, **measure(config, run)}), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def measure(config: RunConfig, run: RunFolder) -> dict[str, Any]:
    """The gold of every selector's picks by number of completions and prompt, and its accuracy on comparisons. Plain data."""
    context = context_of(config, run)
    backbone = context.backbone_with_sft()
    backbone.add_adapter("policy", folder=run.stage("policy", 1))
    tools = tools_with(context, Scorer.load(backbone, "reward", run.stage("reward", 1)))
    judges = round_0_selectors(config, run.stage("select", 0), tools)

    first = read_jsonl(run.stage("evaluate", 1) / "samples.jsonl", Sample)
    by_prompt = complete(context.sampler, "policy", first, max(NUMBERS), context.run_seed("evaluate"))
    labels = read_jsonl(run.stage("label", 1) / "comparisons.jsonl", Comparison)
    compared = group_samples(read_jsonl(run.stage("sample", 1) / "samples.jsonl", Sample), labels)
    return {
        "prompts": [sample.prompt_id for sample in first],
        "unseen_facts": [sample.unseen_fact for sample in first],
        "gold": {str(n): gold_of_picks(judges, [samples[:n] for samples in by_prompt]) for n in NUMBERS},
        "judged": judge(judges, compared, [row for row in labels if row.heldout]),
    }


def context_of(config: RunConfig, run: RunFolder) -> Context:
    """The surroundings that stage `evaluate` of round 1 has, so that prompts, seeds and sampling are its own. Nothing is written."""
    base = run.stage("base", None)
    backbone = Backbone.load(str(base) if config.base.model == "embedded" else source_of(config.base.model), config.base, config.lora)
    inputs = {"base": base, "sft": run.stage("sft", None), "data": run.stage("filter", None)}
    return Context("evaluate", 1, config, inputs, run.path, Checkpoints(), report_nothing, lambda folder: backbone)


def round_0_selectors(config: RunConfig, folder: Path, tools: Tools) -> dict[str, Selector]:
    """The selectors that round 0 has made, and those that only this table has, by the names of the rows."""
    made = {kind: selectors.load(folder, kind, tools) for kind in config.select.kinds}
    training = [without_rules(example) for example in read_examples(folder) if not example.heldout]
    names = [name for name in config.select.features if name != "rules"]
    fitted = features.FeaturesSelector(tools, names, config.generation.temperature, *features.fit_weights(training))
    return made | {WITHOUT_RULES: fitted, ORACLE: Oracle(tools)}


def without_rules(example: Example) -> Example:
    """The example without the features that are rules."""
    chosen, rejected = ({k: v for k, v in x.items() if not k.startswith("rule_")} for x in (example.chosen, example.rejected))
    return replace(example, chosen=chosen, rejected=rejected)


def gold_of_picks(judges: dict[str, Selector], by_prompt: Sequence[Sequence[Sample]]) -> dict[str, list[float]]:
    """For each selector, the true reward of the completion that it picks for each prompt. Of equal scores, the first counts."""
    true = gold_scores([sample for samples in by_prompt for sample in samples])
    gold = [[true[sample.id] for sample in samples] for samples in by_prompt]
    groups = group_samples([sample for samples in by_prompt for sample in samples])
    picked = {
        name: [row[scores.index(max(scores))] for row, scores in zip(gold, judge.score(groups), strict=True)]
        for name, judge in judges.items()
    }
    return picked | {RANDOM: [sum(row) / len(row) for row in gold]}


if __name__ == "__main__":
    main()
