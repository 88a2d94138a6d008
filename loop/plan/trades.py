"""What a run could be traded against: one more round, twice the labels, a base of twice the layers, or best-of-n without PPO.

Each is planned as the run is. What it would gain in quality is not predicted: that is measured by an experiment. Must never import torch.
"""

import math
from dataclasses import replace
from typing import Any

from configs.schema import RunConfig
from loop.doctor.needs import SCORING_ROWS
from loop.plan.running import Clock, Rent, Subject, plan_stages, total
from loop.round import LABEL, REWARD

ANSWERS = 1000
"""What it costs to use the result is said for this many answers."""


def plan_trades(subject: Subject, clock: Clock, rent: Rent, program_bytes: int, n: int) -> list[dict[str, Any]]:
    """The run itself, and each thing that it could be traded against, in totals, with the time that ANSWERS answers take.

    n: how many completions best-of-n chooses from.
    """
    config, one, many = subject.config, 1, n
    more_rounds = config.model_copy(update={"num_rounds": config.num_rounds + 1})
    subjects = {
        "as configured": subject,
        "one more round": replace(subject, config=more_rounds),
        "twice the labels": replace(subject, config=twice_the_labels(config)),
        "twice the layers": twice_the_layers(subject),
    }
    rows = [_row(name, each, clock, rent, program_bytes, one) for name, each in subjects.items()]
    rows.append(_row(f"best of {n}, no PPO", subject, clock, rent, program_bytes, many))
    return rows


def twice_the_labels(config: RunConfig) -> RunConfig:
    """The config with twice the prompts to sample and label in each round, and room for the labels where training rows are limited."""
    sample, labeler, retrain = config.sample, config.labeler, config.retrain
    return config.model_copy(
        update={
            "sample": sample.model_copy(update={"num_prompts": 2 * sample.num_prompts}),
            "labeler": labeler.model_copy(update={"budget": labeler.budget and 2 * labeler.budget}),
            "retrain": retrain.model_copy(update={"max_pairs": retrain.max_pairs and 2 * retrain.max_pairs}),
        }
    )


def twice_the_layers(subject: Subject) -> Subject:
    """The same run on a base with twice the decoder layers, which is about twice the parameters where embeddings are small."""
    config = subject.config
    if config.base.model == "embedded":  # another recipe, so the base is trained
        config = config.model_copy(update={"base": config.base.model_copy(update={"num_layers": 2 * config.base.num_layers})})
    return replace(subject, config=config, shape=replace(subject.shape, layers=2 * subject.shape.layers))


def best_of_n_kl(n: int) -> float:
    """How far best-of-n moves from the policy that it samples from: log n - (n - 1) / n nats.

    Source: arXiv 2009.01325, appendix G.3; it is an upper bound (arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


def break_even(rows: list[dict[str, Any]]) -> float | None:
    """After how many answers the run has taken less time than best-of-n, which trains less and samples more; None for never."""
    run, best_of_n = rows[0], rows[-1]
    saved = (best_of_n["use_seconds"] - run["use_seconds"]) / ANSWERS
    return max(0.0, (run["seconds"] - best_of_n["seconds"]) / saved) if saved > 0 else None


def _row(name: str, subject: Subject, clock: Clock, rent: Rent, program_bytes: int, n: int) -> dict[str, Any]:
    """One trade. With n > 1 there is the setup and the first reward model only, and every answer is the best of n by that model."""
    stages = plan_stages(subject, clock, rent)
    if n > 1:
        stages = [row for row in stages if row["round"] is None or (row["round"], row["stage"]) == (0, REWARD.name)]
    seconds = clock.seconds(subject)
    use = ANSWERS * n * seconds["sample"] / subject.config.generation.batch_size
    use += ANSWERS * n * seconds["score"] / SCORING_ROWS if n > 1 else 0.0
    has_labels = any(row["stage"] == LABEL.name for row in stages)
    return {
        "name": name,
        "params": subject.shape.parameters,
        "rounds": subject.config.num_rounds if has_labels else 0,
        **total(stages, subject, rent, program_bytes),
        "use_seconds": use,
        "use_price": rent.price(use, 0),
    }
