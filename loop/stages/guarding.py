"""The guard of PPO: what the held-out prompts say while the policy is trained, and what the stage reports of it."""

from collections.abc import Sequence
from typing import Any

from configs.seeds import draw
from loop.stages.context import Context, Metrics
from loop.store.measures import WARNINGS
from policies.guard import Guard, Look
from policies.ppo import PPOTrainer
from rewards import overoptimization
from rewards.baselines import fit_bag_of_words
from rewards.comparisons import Comparison
from rewards.evaluation import REFERENCE
from rewards.heldout import RULES, HeldoutLooks, evidence
from rewards.reward_model import Chooser

JUDGE_PAIRS = 2000
"""The judge of another kind is fitted on at most so many held-out pairs, and on as many comparisons of earlier rounds."""
KL_STEP = 0.02
"""The policy is looked at again once its KL divergence has grown by so much, in nats for each token: ten times on the way to the limit."""
DONE = {
    "warn": "the alarm rose after update {alarm} of {all}, and PPO went on",
    "stop": "PPO ended after update {alarm} of {all}",
    "best": "PPO ended after update {alarm} of {all}, and the policy is that after update {chosen}",
}


def make_guard(context: Context, trainer: PPOTrainer) -> Guard:
    """What looks at the policy of this stage."""
    config, seed = context.config, context.seed("heldout")
    if not config.ppo.evaluate_every:
        return Guard()
    prompts = draw(context.prompts("heldout_prompts"), config.ppo.evaluate_prompts, seed)
    if not prompts:
        return Guard()
    rules = context.rules(RULES)
    looks = HeldoutLooks(context.backbone, config.generation, trainer.score, prompts, seed, _judge_of_another_kind(context), rules)
    looks.reference = trainer.reference
    beside = overoptimization.SFT_POLICY if trainer.reference in (None, REFERENCE) else "the starting policy"

    def look(update: int) -> Look:
        now = looks.look(trainer.policy)
        found = evidence(now, looks.of_reference, beside, trainer.kl.coefficient)
        signs = overoptimization.find_signs(found, overoptimization.WHILE_TRAINING)
        return Look(update, overoptimization.describe(signs) or "", now.figures() | overoptimization.summary(signs))

    return Guard(config.ppo.guard, config.ppo.evaluate_every, look, KL_STEP)


def rows_of(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """The looks as rows of a file."""
    return [{"update": look.update, "alarm": bool(look.alarm)} | look.figures for look in looks]


def guard_metrics(guard: Guard, num_updates: int) -> Metrics:
    """What the last look has found, and what was done where an alarm rose. num_updates: how many were planned."""
    if not guard.looks:
        return {}
    last = guard.looks[-1].figures
    metrics: Metrics = {
        "heldout_look": {name: value for name, value in last.items() if isinstance(value, float)} | {"defects": last["defects"]}
    }
    if not guard.alarm:
        return metrics
    done = DONE[guard.action].format(alarm=guard.alarm.update, all=num_updates, chosen=guard.chosen)
    chosen = {} if guard.chosen is None else {"policy_update": guard.chosen}
    return metrics | {"alarm_update": guard.alarm.update, WARNINGS: [f"{done}: {overoptimization.advise(guard.alarm.alarm)}"]} | chosen


def _judge_of_another_kind(context: Context) -> Chooser | None:
    """A bag of words, fitted on held-out comparisons of the original data and of the rounds before. None where all are ties."""
    seed = context.seed("judge")
    labeled = [row for rows in context.labels() for row in rows if row.heldout]
    rows = draw(context.stored_rows("heldout_pairs", Comparison), JUDGE_PAIRS, seed) + draw(labeled, JUDGE_PAIRS, seed)
    decided = [row for row in rows if not row.tie]
    return fit_bag_of_words(decided) if decided else None
