"""How well selectors choose. They are judged on comparisons of held-out prompts, which nothing was fitted on, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.comparisons import Comparison, group_candidates
from rewards.measurements import Measurement, wins
from rewards.selectors.selector import Candidates, Selector

BASELINE = "reward-model"
"""The kind of selector that every other one is compared with."""


def judge(selectors: Mapping[str, Selector], groups: Sequence[Candidates], comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """Accuracies of each selector, by its kind, and paired differences from the reward model, if that is among the selectors.

    groups: all candidates of the prompts, as a selector sees them. They must contain the completions that were compared.
    pairwise: how often the chosen completion of a comparison gets a higher score than the rejected one; equal scores count as half.
    top1: how often the favorite among a prompt's compared candidates is one of those with the most wins. It counts prompts whose
    candidates differ in wins. Of several favorites, each counts as a part. Without comparisons there is nothing to tell.
    """
    if not comparisons:
        return {}
    asked = {row.prompt_id for row in comparisons}
    groups = [group for group in groups if group.prompt_id in asked]
    measured = {kind: _measure(_scores_by_text(selector, groups), comparisons) for kind, selector in selectors.items()}
    results: dict[str, dict[str, Any]] = {}
    for kind, parts in measured.items():
        results[kind] = {what: measurement.accuracy() for what, measurement in parts.items()}
        if BASELINE in measured and kind != BASELINE:
            results[kind]["over_reward_model"] = {what: (parts[what] - measured[BASELINE][what]).mean() for what in parts}
    return results


Scores = Mapping[tuple[str, str, bool], float]
"""The score of a completion, by the prompt's id, the text, and whether it is finished."""


def _scores_by_text(selector: Selector, groups: Sequence[Candidates]) -> Scores:
    scores: dict[tuple[str, str, bool], float] = {}
    for group, values in zip(groups, selector.score(groups), strict=True):
        for answer, value in zip(group.answers, values, strict=True):
            scores.setdefault((group.prompt_id, answer.completion, answer.finished), value)
    return scores


def _measure(scores: Scores, comparisons: Sequence[Comparison]) -> dict[str, Measurement]:
    hits, hit_units = [], []
    for group in group_candidates(comparisons):
        most = max(candidate.wins for candidate in group.candidates)
        if any(candidate.wins < most for candidate in group.candidates):
            best = max(scores[group.prompt_id, c.completion, c.finished] for c in group.candidates)
            favourites = [c for c in group.candidates if scores[group.prompt_id, c.completion, c.finished] == best]
            hits.append(sum(c.wins == most for c in favourites) / len(favourites))
            hit_units.append(group.prompt_id)
    decided = [row for row in comparisons if not row.tie]
    chosen = [scores[row.prompt_id, row.chosen, row.chosen_finished] for row in decided]
    rejected = [scores[row.prompt_id, row.rejected, row.rejected_finished] for row in decided]
    pairwise = Measurement(wins(chosen, rejected), [row.prompt_id for row in decided])
    return {"top1": Measurement(hits, hit_units), "pairwise": pairwise}
