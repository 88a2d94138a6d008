"""Which completions of the policies become training data (rejection sampling). Plain data.

Of each prompt's samples, the ones that the selector scores highest are kept, unless a rule finds a defect in them. The rows of earlier
rounds stay as far as the limits allow: newer ones come first. Samples of held-out prompts must never get here.

    kept, left_out = keep([*rank(samples, scores, seed), *read_kept(the last round's)], config, rules)
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from configs.schema import KeepConfig
from configs.seeds import draw
from rewards.comparisons import Comparison, Prompt, Sample, read_jsonl
from rewards.rules.duplicates import Texts, texts_to_compare
from rewards.rules.reply import Rule
from rewards.selectors.choosing import Choice
from rewards.world.replies import defects_of

FILE = "kept.jsonl"
SCORES = "scores.jsonl"
"""In the output of the stage `select`: the score that the selector gives each sample."""


@dataclass(frozen=True)
class Kept:
    """A completion that the selector liked. `id`, `generation` and `source` are those of the sample.

    score: from the selector of the round that drew the sample. Scores of different prompts or rounds cannot be compared.
    """

    id: str
    prompt_id: str
    prompt: Prompt
    completion: str
    finished: bool
    generation: int | None
    score: float
    source: str = ""

    def row(self) -> dict[str, Any]:
        """The row of TRL's prompt-completion format, with its origin beside it. Where the prompt is messages, so is the completion."""
        text = self.completion if isinstance(self.prompt, str) else [{"role": "assistant", "content": self.completion}]
        return asdict(self) | {"completion": text}


def score_rows(samples: Sequence[Sample], choices: Iterable[Choice]) -> list[dict[str, Any]]:
    """The selector's score of each sample, as rows. The samples must be among the candidates of the choices."""
    scores = {
        (choice.group.prompt_id, answer.completion, answer.finished): score
        for choice in choices
        for answer, score in zip(choice.group.answers, choice.scores, strict=True)
    }
    return [{"sample_id": s.id, "prompt_id": s.prompt_id, "score": scores[s.prompt_id, s.completion, s.finished]} for s in samples]


def read_scores(folder: Path) -> dict[str, float]:
    """The score of each sample by its id, as a stage `select` has written them."""
    lines = (folder / SCORES).read_text(encoding="utf-8").splitlines()
    return {row["sample_id"]: row["score"] for row in map(json.loads, lines)}


def read_kept(folder: Path) -> list[Kept]:
    """What a stage `keep` has written."""
    return [replace(row, completion=_text(row.completion)) for row in read_jsonl(folder / FILE, Kept)]


def rank(samples: Sequence[Sequence[Sample]], scores: Sequence[Sequence[float]], seed: int) -> list[Kept]:
    """All samples of a round, the best of each prompt first. `samples` and `scores` have a list for each prompt.

    The prompts are in an order that `seed` decides, so that a limit on the number of rows does not favor the beginning of the data.
    """
    prompts = list(zip(samples, scores, strict=True))
    random.Random(seed).shuffle(prompts)
    ranked = []
    for of_prompt, of_samples in prompts:
        best_first = sorted(zip(of_prompt, of_samples, strict=True), key=lambda pair: -pair[1])
        ranked += [Kept(s.id, s.prompt_id, s.prompt, s.completion, s.finished, s.generation, x, s.source) for s, x in best_first]
    return ranked


def keep(candidates: Iterable[Kept], config: KeepConfig, rules: Mapping[str, Rule]) -> tuple[list[Kept], Counter[str]]:
    """The candidates that are kept, in their order, and how many others there are, by reason.

    candidates: those of the newest round first, and of each prompt's the best first. rules: those of `keep.filters`.
    """
    kept: list[Kept] = []
    left_out: Counter[str] = Counter()
    texts: dict[str, set[str]] = defaultdict(set)
    others = texts_to_compare(rules)
    for row in candidates:
        of_prompt = texts[row.prompt_id]
        if defect := _first_defect(row, rules, others):
            left_out[defect] += 1
        elif row.completion in of_prompt:
            left_out["equal text"] += 1
        elif len(of_prompt) == config.per_prompt:
            left_out["beyond keep.per_prompt"] += 1
        elif len(kept) == config.max_rows:
            left_out["beyond keep.max_rows"] += 1
        else:
            of_prompt.add(row.completion)
            kept.append(row)
            if others is not None:
                others.add(row.prompt, row.completion)
    return kept, left_out


def draw_original(pairs: Sequence[Comparison], num_kept: int, fraction: float, seed: int) -> list[Comparison]:
    """Original pairs whose chosen completions are `fraction` of all rows, together with `num_kept` kept ones, or all that there are.

    Ties are left out, because in a tie nobody has chosen a completion.
    """
    return draw([pair for pair in pairs if not pair.tie], round(num_kept * fraction / (1.0 - fraction)), seed)


def _first_defect(row: Kept, rules: Mapping[str, Rule], kept: Texts | None) -> str | None:
    """The name of the first rule that finds a defect. Rules that compare are given what is kept so far."""
    found = defects_of(row.prompt_id, row.prompt, row.source, row.completion, row.finished, rules, kept)
    return next((name for name, has in found.items() if has), None)


def _text(completion: Any) -> str:
    """A completion of TRL's format, which is text or one message, as text."""
    return completion if isinstance(completion, str) else completion[0]["content"]
