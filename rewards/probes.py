"""Metamorphic probes: the same prompt, written a little differently, should get the same answer (`evaluate.probes`).

    question_mark     "Why is the sky blue?"  <->  "Why is the sky blue"
    trailing_space    a space at the end
    polite_particle   Thai only: with or without ครับ, ค่ะ, คะ

The policy answers both forms with the most likely token each time, so nothing but the wording can make a difference. After "metamorphic
testing" (Chen et al. 1998; for language models: CheckList, arXiv 2005.04118, "invariance tests").
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from policies.tokenization import last_turn
from rewards.comparisons import Prompt, PromptRecord, Sample
from rewards.measurements import Measurement, Summary
from rewards.rules.texts import is_thai, units
from rewards.sampling import Sampler

_QUESTION_MARK = re.compile(r"\s*[?？]+\s*$")
_PARTICLE = re.compile(r"\s*(?:ครับ|คับ|ค่ะ|คะ)(?=\s*[?？]*\s*$)")
PARTICLE = "ครับ"


def question_mark(text: str) -> str | None:
    """Without its question mark, or with one."""
    return _QUESTION_MARK.sub("", text) if _QUESTION_MARK.search(text) else f"{text.rstrip()}?"


def trailing_space(text: str) -> str | None:
    """With a space at the end, or without those that it has."""
    return text.rstrip() if text != text.rstrip() else f"{text} "


def polite_particle(text: str) -> str | None:
    """A Thai text without its polite particle, or with one before the question mark. None for other texts."""
    if not is_thai(text):
        return None
    if _PARTICLE.search(text):
        return _PARTICLE.sub("", text)
    end = _QUESTION_MARK.search(text) or re.search(r"\s*$", text)
    at = end.start() if end else len(text)
    return f"{text[:at]}{PARTICLE}{text[at:]}"


VARIANTS: dict[str, Callable[[str], str | None]] = {
    variant.__name__: variant for variant in (question_mark, trailing_space, polite_particle)
}
"""What changes the last turn of a prompt, by name. None: it does not apply."""


@dataclass(frozen=True)
class Probe:
    """Two forms of one prompt, the answers, and their scores by the reward model."""

    variant: str
    original: Sample
    changed: Sample
    scores: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether the two answers are the same text."""
        return self.original.completion == self.changed.completion

    @property
    def similarity(self) -> float:
        """The share of words (in Thai, clusters) in common: the size of the intersection divided by that of the union."""
        first, second = set(units(self.original.completion)), set(units(self.changed.completion))
        return len(first & second) / len(first | second) if first | second else 1.0


@dataclass(frozen=True)
class Probes:
    """All probes of a policy."""

    found: Sequence[Probe]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The probes as plain data."""
        for probe in self.found:
            first, second = probe.original, probe.changed
            yield {
                "variant": probe.variant,
                "prompt_id": first.prompt_id,
                "prompt": first.prompt,
                "completion": first.completion,
                "changed_prompt": second.prompt,
                "changed_completion": second.completion,
                "scores": list(probe.scores),
            }

    def summary(self) -> dict[str, dict[str, Summary]]:
        """For each variant: how often the answers are the same, how similar they are, and how far their scores are apart."""
        measures: dict[str, Callable[[Probe], float]] = {
            "probe_agreement": lambda probe: float(probe.agrees),
            "probe_similarity": lambda probe: probe.similarity,
            "probe_score_gap": lambda probe: abs(probe.scores[1] - probe.scores[0]),
        }
        return {name: {variant: self._mean(variant, measure) for variant in self._variants} for name, measure in measures.items()}

    @property
    def _variants(self) -> list[str]:
        return list(dict.fromkeys(probe.variant for probe in self.found))

    def _mean(self, variant: str, measure: Callable[[Probe], float]) -> Summary:
        probes = [probe for probe in self.found if probe.variant == variant]
        return Measurement([measure(probe) for probe in probes], [probe.original.prompt_id for probe in probes]).mean()


def probe(sampler: Sampler, adapter: str, asked: Sequence[Sample], score: Callable[[Sequence[Sample]], Sequence[float]]) -> Probes:
    """Have a policy answer the prompts of `asked` in all their forms, always by the most likely token.

    score: gives samples their scores by the reward model. Each answer is scored with the form of the prompt that it was given to. A form
    that is too long for the model, with an answer, is left out.
    """
    records = [PromptRecord(sample.prompt_id, sample.prompt, sample.source) for sample in asked]
    varied = [(name, i, new) for name in VARIANTS for i, record in enumerate(records) if (new := vary(record.prompt, name)) is not None]
    lengths = map(len, sampler.encode([replace(records[i], prompt=new) for _, i, new in varied]))
    room = sampler.backbone.max_tokens - sampler.config.max_new_tokens
    changed = [form for form, length in zip(varied, lengths, strict=True) if length <= room]
    forms = [*records, *(replace(records[i], prompt=new) for _, i, new in changed)]
    greedy = replace(sampler, config=sampler.config.model_copy(update={"top_k": 1}))
    responses = greedy.respond(adapter, forms, [0] * len(forms), "probes")
    answers = [greedy.make_sample(str(i), form, response, None) for i, (form, response) in enumerate(zip(forms, responses, strict=True))]
    scores = list(score(answers))
    pairs = [(name, i, at) for at, (name, i, _) in enumerate(changed, start=len(records))]
    return Probes([Probe(name, answers[i], answers[at], (scores[i], scores[at])) for name, i, at in pairs])


def vary(prompt: Prompt, variant: str) -> Prompt | None:
    """A prompt with its last turn written differently; None if the variant does not apply, or if it would leave nothing."""
    new = VARIANTS[variant](last_turn(prompt))
    if new is None or not new.strip():
        return None
    return new if isinstance(prompt, str) else [*prompt[:-1], prompt[-1] | {"content": new}]
