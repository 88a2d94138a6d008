"""Made votes on answers of the embedded world, in the form of Stack Exchange, for trials of preference-model pretraining.

    pmp.sources='[{path: "rewards.world.votes:rows"}]'

Readers like an answer by its true reward and by what nobody can foresee: liking = gold + noise, and votes = 2^liking - 1, so the score
log2(1 + votes) of `votes.py` is the liking again, rounded. The questions are those that the tiny base reads and that no run asks. Imports
no ML library.
"""

import html
import random
from collections.abc import Iterator
from typing import Any

from configs.seeds import derive_seed
from rewards.world import writer
from rewards.world.gold import gold_reward

NOISE = 2.0
"""The standard deviation of the noise. Gold lies between about -4 and 4.4."""
ANSWERS = 4
"""How many answers a question has, at most: equal ones are there once, and unfinished ones are not posted."""
ACCEPTED_RATE = 0.5
"""How often the asker accepts an answer, which is then the one that is liked most."""


def rows(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Every question of the world that no run asks, apart from follow-ups, with its answers and their votes."""
    rng = random.Random(derive_seed(seed, "votes"))
    for number, prompt in enumerate(writer.pretraining_prompts()):
        written = dict.fromkeys(answer.text for answer in (writer.write_answer(prompt, rng) for _ in range(ANSWERS)) if answer.finished)
        liked = {text: gold_reward(prompt, text) + rng.gauss(0.0, NOISE) for text in written if text}
        is_accepted = rng.random() < ACCEPTED_RATE
        if prompt.told_fact or not liked:
            continue
        best = max(liked, key=lambda text: liked[text])
        answers = [{"id": place, "score": votes(of), "body_html": as_html(text)} for place, (text, of) in enumerate(liked.items())]
        accepted = list(liked).index(best) if is_accepted else None
        yield {"id": number, "title": prompt.question, "answers": answers, "accepted": accepted}


def votes(liking: float) -> int:
    """The votes of an answer: below -1 there are more that are against it."""
    return round(2.0**liking - 1.0) if liking >= -1.0 else -1


def as_html(text: str) -> str:
    """An answer as Stack Exchange would show it."""
    return f"<p>{html.escape(text).replace(chr(10), '<br>')}</p>"
