"""What the stages that make or use selectors share."""

from collections.abc import Sequence
from pathlib import Path

from configs.user_functions import is_function
from loop.stages.context import Context
from loop.stages.reward_models import reference_records
from policies.responses import ScoreFunction
from rewards import selectors
from rewards.penalties import penalized
from rewards.scoring import Scorer, ensemble
from rewards.selectors import Candidates, Selector, Tools, features
from rewards.selectors.examples import Example, merge, read_examples, write_examples
from rewards.selectors.score_function import as_score_function, centred, normalized
from rewards.user_scores import by_function

PPO_SCORE = "ppo-score"
"""The folder of the features that PPO of the next round maximizes, in the output of the `select` stage."""


def tools_with(context: Context, reward: Scorer) -> Tools:
    """What selectors look at candidates with. `reward` must have been trained without any label of the candidates."""
    return Tools(context.backbone, reward, context.rules(context.config.evaluate.rules))


def used_selector(context: Context, folder: Path, tools: Tools) -> Selector:
    """The selector of `select.use`, from the output of a `select` stage."""
    return selectors.load(folder, context.config.select.use, tools)


def score_function(context: Context, scorers: Sequence[Scorer]) -> ScoreFunction:
    """What PPO maximizes: the score that `ppo.score` names, minus `ppo.penalties`. scorers: as in `_score_by_models`."""
    config = context.config.ppo
    score = by_function(config.score) if is_function(config.score) else _score_by_models(context, scorers)
    return penalized(score, context.rules(list(config.penalties)), config.penalties) if config.penalties else score


def _score_by_models(context: Context, scorers: Sequence[Scorer]) -> ScoreFunction:
    """The score of the reward models, or that of the features which the last round has fitted.

    scorers: the reward models of all rounds so far, the newest one last. It is the one whose score is a feature. If all labels were ties,
    nothing was fitted, and the reward models are left. Several of them together are normalized again, as each of them is.
    """
    kind = context.config.reward.ensemble
    if last := context.inputs.get("select"):
        selector = features.load(last / PPO_SCORE, tools_with(context, scorers[-1]))
        if selector.weights:
            return centred(as_score_function(selector), reference_records(context))
    score = ensemble(scorers, kind)
    return score if kind == "last" or len(scorers) == 1 else normalized(score, reference_records(context))


def made_before(context: Context, tools: Tools) -> dict[str, Selector]:
    """The selectors of the last round, by kind; none in round 0."""
    if not context.inputs.get("last"):
        return {}
    folder = context.inputs["last"]
    there = [kind for kind in context.config.select.kinds if (folder / selectors.folder_of(kind)).is_dir()]
    return {kind: selectors.load(folder, kind, tools) for kind in there}


def examples_so_far(context: Context, now: Tools, groups: Sequence[Candidates]) -> list[Example]:
    """The last round's examples and those of this round's labels, if a selector is fitted on them. They are saved for the next round.

    now: with the reward model that has not seen these labels.
    """
    config, last = context.config, context.inputs.get("last")
    if config.ppo.score != "features" and not {"features", "answer-features"} & {*config.select.kinds}:
        return []
    new = features.make_examples(now, groups, context.labels()[-1], config.select.features, config.generation.temperature)
    examples = merge(read_examples(last) if last else [], new, config.select.max_examples)
    context.save(lambda folder: write_examples(folder, examples))
    return examples


def save_selector(context: Context, name: str, selector: Selector) -> None:
    """Write a selector into its folder of the stage's output. `name` is its kind, or PPO_SCORE."""

    def write(output: Path) -> None:
        folder = output / selectors.folder_of(name)
        folder.mkdir()
        selector.save(folder)

    context.save(write)
