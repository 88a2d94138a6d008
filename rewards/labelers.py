"""Labelers: from samples to comparisons. Each is a function (samples, ...) -> comparisons.

    gold               the embedded world's true reward; P(a beats b) = sigmoid(gold(a) - gold(b))
    reward-model       scores of a reward model that this run does not train; the same law
    preferences-file   comparisons made elsewhere: by sample ids, or whole rows of prompt, chosen, rejected

Imports no ML library: the reward model's scores come in as numbers.
"""

import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError, WaitingForLabels
from configs.schema import LabelerConfig
from configs.seeds import derive_seed
from rewards import world
from rewards.comparisons import Comparison, Sample
from rewards.gold import gold_reward

Scores = dict[str, float]
"""Sample id -> score in log-odds."""


def bernoulli(difference: float, rng: random.Random) -> bool:
    """Whether the first of two wins, drawn with probability sigmoid(difference)."""
    return rng.random() < 1.0 / (1.0 + math.exp(-difference))


def gold_scores(samples: Sequence[Sample]) -> Scores:
    """The true reward of each sample. All prompts must be the embedded world's."""
    prompts = world.all_prompts()
    return {s.id: gold_reward(prompts[s.prompt_id], s.completion, s.finished) for s in samples}


def compare_by_scores(samples: Sequence[Sample], scores: Scores, config: LabelerConfig, seed: int) -> list[Comparison]:
    """`pairs_per_prompt` comparisons among each prompt's different completions, each drawn from the score difference."""
    comparisons = []
    for prompt_id, group in _by_prompt(samples).items():
        rng = random.Random(derive_seed(seed, "label", prompt_id))
        pairs = [(a, b) for a, b in itertools.combinations(group, 2) if (a.completion, a.finished) != (b.completion, b.finished)]
        for a, b in rng.sample(pairs, min(config.pairs_per_prompt, len(pairs))):
            winner, loser = (a, b) if bernoulli(scores[a.id] - scores[b.id], rng) else (b, a)
            comparisons.append(_compare(winner, loser, config, seed, labeler=config.kind))
    return comparisons


def compare_by_file(samples: Sequence[Sample], config: LabelerConfig, seed: int, round_number: int, samples_path: Path) -> list[Comparison]:
    """The file's comparisons for this round.

    A row names two samples (`chosen_id`, `rejected_id`) or gives `prompt`, `chosen` and `rejected` itself; `tie: true` where
    neither is better. Rows about other rounds' samples are left alone. Raises WaitingForLabels while the file has nothing
    for this round, UserError for a row that fits neither form.
    """
    path = Path(str(config.path).replace("{round}", str(round_number)))
    if not path.exists():
        raise WaitingForLabels(_ask(path, samples_path, "there is no such file yet"))
    by_id = {sample.id: sample for sample in samples}
    comparisons = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            comparisons += _from_row(line, f"{path}, line {number}", by_id, config, seed, round_number)
    if not comparisons:
        raise WaitingForLabels(_ask(path, samples_path, "it has no comparison for this round"))
    return comparisons


def _from_row(line: str, where: str, by_id: dict[str, Sample], config: LabelerConfig, seed: int, round_number: int) -> list[Comparison]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"a comparison is not JSON: {error.msg}", where, "mend or remove the line") from None
    if not isinstance(row, dict):
        raise UserError("a comparison is not a JSON object", where, "mend or remove the line")
    origin = {name: str(row.get(name) or "") for name in ("rater", "labeled_at")}
    if "chosen_id" in row and "rejected_id" in row:
        winner, loser = by_id.get(row["chosen_id"]), by_id.get(row["rejected_id"])
        if winner is None or loser is None:
            return []
        if winner.prompt_id != loser.prompt_id or winner is loser:
            raise UserError("the two samples do not answer the same prompt, or are one", where, "mend or remove the line")
        return [_compare(winner, loser, config, seed, "preferences-file", bool(row.get("tie")), **origin)]
    from rewards.preference_data import BadRow, parse_row

    try:
        found = parse_row(row, 0)
    except BadRow as error:
        raise UserError(f"a comparison cannot be used: {error}", where, "give chosen_id and rejected_id, or texts") from None
    if row.get("round", round_number) != round_number:
        return []
    found.prompt_id = json.dumps(found.prompt, ensure_ascii=False, sort_keys=True)
    found.generation, found.labeler = round_number, "preferences-file"
    found.tie, found.rater, found.labeled_at = bool(row.get("tie")), origin["rater"], origin["labeled_at"]
    found.heldout = is_heldout(found.prompt_id, config, seed)
    return [found]


def is_heldout(prompt_id: str, config: LabelerConfig, seed: int) -> bool:
    """Whether a prompt's comparisons are kept from training, to judge reward model and selector."""
    return random.Random(derive_seed(seed, "heldout", prompt_id)).random() < config.heldout_fraction


def _compare(
    winner: Sample, loser: Sample, config: LabelerConfig, seed: int, labeler: str, tie: bool = False, rater: str = "", labeled_at: str = ""
) -> Comparison:
    return Comparison(
        prompt_id=winner.prompt_id,
        prompt=winner.prompt,
        chosen=winner.completion,
        rejected=loser.completion,
        source=winner.source,
        generation=max((s.generation for s in (winner, loser) if s.generation is not None), default=None),
        tie=tie,
        chosen_finished=winner.finished,
        rejected_finished=loser.finished,
        chosen_id=winner.id,
        rejected_id=loser.id,
        labeler=labeler,
        rater=rater,
        labeled_at=labeled_at,
        heldout=is_heldout(winner.prompt_id, config, seed),
    )


def _by_prompt(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample)
    return groups


def _ask(path: Path, samples_path: Path, why: str) -> str:
    return (
        f"waiting for labels: {why}\n"
        f"  samples to compare: {samples_path}\n"
        f"  write comparisons to: {path}\n"
        '  one a line: {"chosen_id": "...", "rejected_id": "...", "tie": false}, with ids of the samples\n'
        "  then run the same command again"
    )
