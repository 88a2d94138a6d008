"""The pairs of the embedded world: its writer answers its users' prompts, and the gold reward labels the answers."""

import random
from collections import Counter
from collections.abc import Sequence

from configs.data import DataConfig
from configs.seeds import derive_seed, draw
from rewards.comparisons import Comparison, PromptRecord, win_probability
from rewards.data.parts import PreferenceData, check_parts
from rewards.data.splits import Side, Split
from rewards.world import writer
from rewards.world.gold import gold_reward

UNSEEN_FACT_FRACTION = 0.1
"""The fraction of the world's facts that a run never trains on."""


def load(config: DataConfig, seed: int) -> PreferenceData:
    """Draw the pairs and the prompts of each part.

    Most held-out prompts ask in other words what training prompts ask too, so they only test phrasing. Therefore some facts, drawn by the
    run's seed, are left out of the training and labeler parts altogether, even if they only occur in the earlier turns before a
    follow-up. Held-out prompts about these facts are marked. The base may have read about them: that is what pretraining is for.
    """
    facts = sorted({prompt.fact for prompt in writer.user_prompts()})
    unseen = draw(facts, round(len(facts) * UNSEEN_FACT_FRACTION), derive_seed(seed, "unseen facts"))
    split = Split(seed, config.heldout_fraction, config.labeler_fraction)
    prompts: dict[Side, list[writer.Prompt]] = {"training": [], "heldout": [], "labeler": []}
    for prompt in writer.user_prompts():
        side = split.side(prompt.as_messages())
        if side == "heldout" or not {prompt.fact, prompt.told_fact} & set(unseen):
            prompts[side].append(prompt)
    check_parts(prompts, config, "the embedded world")
    counts: dict[Side, int] = {
        "training": config.num_pairs,
        "heldout": max(1, round(config.num_pairs * config.heldout_fraction)),
        "labeler": round(config.num_pairs * config.labeler_fraction),
    }
    pairs = {
        side: _write_pairs(prompts[side], count, derive_seed(seed, "pairs", side), side == "heldout") for side, count in counts.items()
    }
    records = {side: [PromptRecord(p.id, p.as_messages(), p.source, p.fact in unseen) for p in found] for side, found in prompts.items()}
    return PreferenceData(
        pairs["training"],
        pairs["heldout"],
        records["training"],
        records["heldout"],
        pairs["labeler"],
        by_source=Counter(pair.source for pair in pairs["training"]),
    )


def by_side(data: PreferenceData) -> tuple[list[tuple[Comparison, Side]], list[tuple[PromptRecord, Side]]]:
    """The pairs and the prompts that `load` has drawn, each with the side that it was drawn for."""
    pairs: dict[Side, Sequence[Comparison]] = {"training": data.pairs, "heldout": data.heldout, "labeler": data.labeler_pairs}
    prompts: dict[Side, Sequence[PromptRecord]] = {"training": data.prompts, "heldout": data.heldout_prompts}
    sided_pairs = [(pair, side) for side, found in pairs.items() for pair in found]
    return sided_pairs, [(record, side) for side, records in prompts.items() for record in records]


def _write_pairs(prompts: list[writer.Prompt], count: int, seed: int, heldout: bool = False) -> list[Comparison]:
    """`count` pairs of different answers to randomly drawn prompts."""
    rng = random.Random(seed)
    pairs: list[Comparison] = []
    while len(pairs) < count:
        prompt = rng.choice(prompts)
        a, b = writer.write_answer(prompt, rng), writer.write_answer(prompt, rng)
        if a == b:
            continue
        difference = gold_reward(prompt, a.text, a.finished) - gold_reward(prompt, b.text, b.finished)
        if rng.random() >= win_probability(difference):
            a, b = b, a
        pairs.append(
            Comparison(
                prompt.id,
                prompt.as_messages(),
                a.text,
                b.text,
                source=prompt.source,
                chosen_finished=a.finished,
                rejected_finished=b.finished,
                labeler="gold",
                heldout=heldout,
            )
        )
    return pairs
