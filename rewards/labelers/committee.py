"""Who picks the pairs that are worth a label: a committee of two that has scored all samples of a round.

    reward_model    the round's reward model, which PPO has just been trained against
    selector        the last round's selector (`select.use`); from round 1 on
    sft             the mean log-prob of a completion's tokens under the SFT policy, where there is no selector, or where it is the
                    reward model itself, which has no second opinion

No member may have been fitted on labels of these samples.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.comparisons import Comparison, Sample, all_pairs, write_jsonl
from rewards.data.splits import Split
from rewards.labelers.labels import Committee
from rewards.labelers.picking import Texts, texts_of
from rewards.selectors import Candidates, Tools
from rewards.selectors.features import logprobs
from rewards.selectors.worth import WORTH

FILE = "scores.jsonl"
MAX_TO_LABEL = 200
"""How many pairs a round proposes for further labels."""


def ask(
    tools: Tools, groups: Sequence[Candidates], samples: Sequence[Sample], by_selector: list[list[float]] | None, temperature: float
) -> Committee:
    """The score of each sample by each member. The member that is listed first knows most.

    groups: `group_samples` of the samples. by_selector: the selector's scores of the groups.
    """
    rewards = tools.rewards(groups)
    if by_selector is None or by_selector == rewards:
        found = logprobs(tools, groups, temperature)
        members = {"reward_model": rewards, "sft": [[of_one["sft_mean"] for of_one in of_group] for of_group in found]}
    else:
        members = {"selector": by_selector, "reward_model": rewards}
    return {name: _by_sample(samples, groups, scores) for name, scores in members.items()}


def agreement(committee: Committee, samples: Sequence[Sample]) -> float | None:
    """The share of pairs that all members order alike, of those pairs that all members order. None where there is no such pair."""
    alike = []
    for a, b in (pair for pairs in all_pairs(samples).values() for pair in pairs):
        differences = [scores[a.id] - scores[b.id] for scores in committee.values()]
        if all(differences):
            alike.append(len({difference > 0 for difference in differences}) == 1)
    return sum(alike) / len(alike) if alike else None


def propose(committee: Committee, samples: Sequence[Sample], comparisons: Sequence[Comparison], split: Split) -> list[dict[str, Any]]:
    """Pairs of training prompts that nobody has compared, as rows, those on which the committee disagrees most first."""
    said = {texts_of(row.prompt_id, (row.chosen, row.chosen_finished), (row.rejected, row.rejected_finished)) for row in comparisons}
    open_pairs: dict[Texts, tuple[Sample, Sample]] = {}
    for a, b in (pair for pairs in all_pairs(samples).values() for pair in pairs):
        texts = texts_of(a.prompt_id, (a.completion, a.finished), (b.completion, b.finished))
        if texts not in said and not split.holds_out(a.prompt):
            open_pairs.setdefault(texts, (a, b))
    pairs = list(open_pairs.values())
    differences = [[scores[a.id] - scores[b.id] for a, b in pairs] for scores in committee.values()]
    worth = {name: function(differences) for name, function in WORTH.items()}
    order = sorted(range(len(pairs)), key=lambda i: -worth["disagreement"][i])[:MAX_TO_LABEL]
    return [
        {
            "prompt_id": pairs[i][0].prompt_id,
            "prompt": pairs[i][0].prompt,
            "completions": [sample.completion for sample in pairs[i]],
            "ids": [sample.id for sample in pairs[i]],
            "scores": {name: [scores[sample.id] for sample in pairs[i]] for name, scores in committee.items()},
            "worth": {name: values[i] for name, values in worth.items()},
        }
        for i in order
    ]


def write(committee: Committee, folder: Path) -> None:
    """Write one line for each sample: its id, and its score by each member."""
    ids = next(iter(committee.values()))
    write_jsonl(folder / FILE, [{"id": id} | {name: scores[id] for name, scores in committee.items()} for id in ids])


def read(folder: Path) -> Committee:
    """What `write` has written."""
    with (folder / FILE).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {name: {row["id"]: row[name] for row in rows} for name in rows[0] if name != "id"} if rows else {}


def _by_sample(samples: Sequence[Sample], groups: Sequence[Candidates], scores: Sequence[Sequence[float]]) -> Mapping[str, float]:
    """Scores by group, by the samples' ids. A group begins with its samples in their order; labels may have added other completions."""
    of_group = {group.prompt_id: iter(row) for group, row in zip(groups, scores, strict=True)}
    return {sample.id: float(next(of_group[sample.prompt_id])) for sample in samples}
