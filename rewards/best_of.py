"""What a selector is worth: its choice among n completions of a policy, compared with other ways to choose."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.seeds import derive_seed
from rewards.comparisons import PromptRecord, Sample, write_jsonl
from rewards.gold import Gold
from rewards.measurements import Measurement, Summary
from rewards.sampling import Sampler
from rewards.selectors.choosing import Choice, choose
from rewards.selectors.selector import Selector, group_samples
from rewards.selectors.simple import RewardModel


@dataclass(frozen=True)
class BestOf:
    """A selector's choice for each prompt. gold: of what each way to choose chooses, where the true reward is known."""

    choices: Sequence[Choice]
    chosen: Sequence[Sample]
    gold: Mapping[str, Measurement]

    def write(self, folder: Path) -> None:
        """Write the choices to `best.jsonl`, one line for each prompt."""
        gold = [{name: by_prompt.values[i] for name, by_prompt in self.gold.items()} for i in range(len(self.choices))]
        write_jsonl(folder / "best.jsonl", [choice.row() | {"gold": row} for choice, row in zip(self.choices, gold, strict=True)])

    def summary(self) -> dict[str, dict[str, Summary]]:
        """The mean gold of each way to choose, of all prompts and of those about facts that training never asks about."""
        if not self.gold:
            return {}
        unseen = [sample.unseen_fact for sample in self.chosen]
        found = {"best_of": compare_ways(self.gold)}
        if any(unseen):
            found["best_of_unseen_facts"] = compare_ways({name: by_prompt.where(unseen) for name, by_prompt in self.gold.items()})
        return found


def choose_best_of(
    sampler: Sampler, adapter: str, first: Sequence[Sample], num: int, seed: int, selector: Selector, gold: Gold | None
) -> BestOf:
    """Have the selector choose among `num` completions of each prompt by the policy `adapter`.

    first: the first completion of each prompt, which the policy has given already. seed: decides the others.
    """
    by_prompt = complete(sampler, adapter, first, num, seed)
    groups = group_samples([sample for of_prompt in by_prompt for sample in of_prompt])
    choices = choose(selector, groups)
    chosen = [of_prompt[choice.number] for of_prompt, choice in zip(by_prompt, choices, strict=True)]
    if not gold:
        return BestOf(choices, chosen, {})
    by_reward = [choice.number for choice in choose(RewardModel(selector.tools), groups)]
    return BestOf(choices, chosen, _gold_of_ways(gold, by_prompt, [choice.number for choice in choices], by_reward))


def complete(sampler: Sampler, adapter: str, first: Sequence[Sample], num: int, seed: int) -> list[list[Sample]]:
    """`num` completions of each prompt by the policy `adapter`.

    first: the first completion of each prompt, which the policy has given already. seed: decides the others. A larger `num` adds
    completions and changes none.
    """
    records = [PromptRecord(s.prompt_id, s.prompt, s.source, s.unseen_fact, s.pivot) for s in first]
    asked = [(record, k) for record in records for k in range(1, num)]
    seeds = [derive_seed(seed, record.prompt_id, k) for record, k in asked]
    responses = sampler.respond(adapter, [record for record, _ in asked], seeds, "best-of")
    made = [
        sampler.make_sample(f"{record.prompt_id}-{k}", record, response, first[0].generation)
        for (record, k), response in zip(asked, responses, strict=True)
    ]
    others = iter(sampler.shown(made, "best-of"))
    return [[sample, *(next(others) for _ in range(1, num))] for sample in first]


def compare_ways(gold: Mapping[str, Measurement]) -> dict[str, Summary]:
    """The mean gold of each way to choose, the selector's paired difference from the reward model, and its normalized gain.

    normalized_gain: (chosen - random) / (oracle - random), of the means: 0 is what chance reaches, and 1 is the best that is possible.
    """
    means = {name: by_prompt.mean() for name, by_prompt in gold.items()}
    return means | {
        "chosen_over_reward_model": (gold["chosen"] - gold["reward_model"]).mean(),
        "normalized_gain": ratio(gold["chosen"] - gold["random"], gold["oracle"] - gold["random"]),
    }


def ratio(top: Measurement, bottom: Measurement) -> Summary:
    """The ratio of two means over the same items, with its standard error by the delta method. It is None if the second mean is 0."""
    over, under, count = top.mean()["mean"], bottom.mean()["mean"], len(top.values)
    if over is None or not under:
        return {"mean": None, "standard_error": None, "count": count}
    rest = Measurement([a - over / under * b for a, b in zip(top.values, bottom.values, strict=True)], top.units)
    error = rest.mean()["standard_error"]
    return {"mean": over / under, "standard_error": None if error is None else error / abs(under), "count": count}


def _gold_of_ways(
    gold: Gold, by_prompt: Sequence[Sequence[Sample]], chosen: Sequence[int], by_reward: Sequence[int]
) -> dict[str, Measurement]:
    scores = gold([sample for of_prompt in by_prompt for sample in of_prompt])
    rows = [[scores[sample.id] for sample in of_prompt] for of_prompt in by_prompt]
    ways = {
        "random": [math.fsum(row) / len(row) for row in rows],  # what a random choice gives on average
        "chosen": [row[i] for row, i in zip(rows, chosen, strict=True)],
        "reward_model": [row[i] for row, i in zip(rows, by_reward, strict=True)],
        "oracle": [max(row) for row in rows],
    }
    units = [of_prompt[0].prompt_id for of_prompt in by_prompt]
    return {name: Measurement(values, units) for name, values in ways.items()}
