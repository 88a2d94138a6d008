"""The true reward of completions, where there is one: that of the embedded world, or a function of the user's (`evaluate.gold`).

It evaluates policies by what people see of their answers. Nothing that is trained may use it, unless the user names the same function as
what PPO maximizes.
"""

from collections.abc import Callable, Sequence

from rewards.comparisons import Answer, Sample
from rewards.shown import as_shown
from rewards.user_scores import load_scores
from rewards.world.gold import gold_scores

Gold = Callable[[Sequence[Sample]], dict[str, float]]
"""The true reward of each sample, by the sample's id."""


def find_gold(source: str | list[str] | None, function: str | None) -> Gold | None:
    """What gives samples their true reward: the user's function, or the embedded world where the data is its own. None: nothing does."""
    if function:
        score = load_scores(function)
        return lambda samples: dict(zip((s.id for s in samples), score([_answer(s) for s in samples]), strict=True))
    return (lambda samples: gold_scores([as_shown(sample) for sample in samples])) if source == "embedded" else None


def _answer(sample: Sample) -> Answer:
    sample = as_shown(sample)
    return Answer(sample.prompt, sample.completion, sample.finished)
