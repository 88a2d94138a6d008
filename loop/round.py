"""One round, one line for each stage. Read this file first.

    data -> base -> filter -> (pivot) -> sft -> (pmp) -> (labeler) -> baseline
                               |
      round r:   reward -> policy -> sample -> (committee) -> answer -> label -> retrain -> select -> keep -> (refresh) -> evaluate
                   ^         ^                                                     |         |                   |
                   |         +-------------------- round r + 1 --------------------|---------+-------------------+
                   +------------------------------ round r + 1 --------------------+

`filter` removes rows that are longer than the token limits. All later stages take their rows from it, or from `pivot`, which writes them in
the language that the policy answers in (`respond: pivot`).

A stage is a function (in `loop/stages`) from config and input directories to one new directory. This file says only which stage is
input to which. `run.stage` returns the committed directory, which was made now or by an earlier start. To resume a run is to run
this file again. Must never import torch or Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from configs.schema import RunConfig
from loop.store.artifacts import Artifact

Inputs = Artifact | list[Artifact] | None


@dataclass(frozen=True)
class Stage:
    """What the key of a stage depends on besides its inputs.

    version: raised when the code of the stage computes something else. reads: all settings that the code reads. calls: those of them that
    may name user functions or the folder of a reward model, whose files are hashed too. seeded: whether the run's seed matters.
    """

    name: str
    reads: tuple[str, ...] = ()
    version: int = 1
    seeded: bool = True
    calls: tuple[str, ...] = ()

    @property
    def visible(self) -> tuple[str, ...]:
        """All settings that the stage's code can read. Reading another one raises an error (`configs/views.py`)."""
        return (*self.reads, "seed") if self.seeded else self.reads


_MODEL = ("base", "lora")
_LIMITS = ("data.max_prompt_tokens", "data.max_completion_tokens")

DATA = Stage("data", ("data", "curation"), version=6, calls=("data.source", "data.sources"))
BASE = Stage("base", ("base",), seeded=False, version=2)
FILTER = Stage("filter", (*_MODEL, *_LIMITS), seeded=False, version=3)
PIVOT = Stage("pivot", (*_MODEL, *_LIMITS, "pivot"), seeded=False, calls=("pivot.scope", "pivot.translator", "pivot.model"), version=2)
SFT = Stage("sft", (*_MODEL, "sft"), version=3)
PMP = Stage(
    "pmp",
    (
        *_MODEL,
        *_LIMITS,
        *(f"data.{name}" for name in ("source", "normalize", "bad_rows", "heldout_fraction", "labeler_fraction")),
        "curation",
        "pmp",
    ),
    calls=("pmp.sources",),
)
"""Only with votes (`pmp.sources`): what the run's reward models start from, unless `reward.init` is `sft`."""
LABELER = Stage("labeler", (*_MODEL, "reward"), version=5)
READY_LABELER = Stage(
    LABELER.name,
    ("labeler.model", "labeler.adapter", "labeler.revision", "labeler.dtype", "labeler.trust_remote_code"),
    seeded=False,
    calls=("labeler.model",),
)
"""With `labeler.model`: a reward model that is trained already. It is checked and recorded, and has the place and the name of LABELER."""
BASELINE = Stage(
    "baseline", (*_MODEL, "data.source", "generation", "evaluate", "rules"), version=2, calls=("evaluate.rules", "evaluate.gold")
)

REWARD = Stage("reward", (*_MODEL, "reward", "generation"), version=5)
POLICY = Stage(
    "policy",
    (*_MODEL, "ppo", "generation", "reward.ensemble", "reward.normalization_samples", "evaluate.rules", "rules"),
    version=5,
    calls=("ppo.score", "ppo.penalties", "evaluate.rules"),
)
POLICY_WITHOUT_FEATURES = replace(
    POLICY,
    reads=tuple(name for name in POLICY.reads if name != "evaluate.rules"),
    calls=tuple(name for name in POLICY.calls if name != "evaluate.rules"),
)
"""PPO against a reward model or a function of the user's. An edited rule of `evaluate.rules` does not make it again."""
DPO = Stage(POLICY.name, (*_MODEL, "dpo"))
"""What makes the policy with `trainer: dpo`. It takes the place of POLICY, so all that comes later finds the policy under one name."""
SAMPLE = Stage("sample", (*_MODEL, "sample", "generation"))
COMMITTEE = Stage(
    "committee",
    (*_MODEL, "generation.temperature", "select.use", "evaluate.rules", "rules"),
    seeded=False,
    calls=("select.use", "evaluate.rules"),
)
ANSWER = Stage(
    "answer",
    (
        *_MODEL,
        "generation",
        "sample.num_prompts",
        *(f"labeler.{name}" for name in ("kind", "min_labels", "budget", "pairs_per_prompt", "win_rate_fraction")),
    ),
)
LABEL = Stage(
    "label",
    (*_MODEL, *_LIMITS, "data.source", "data.normalize", "data.heldout_fraction", "labeler", "judge", "rules"),
    version=5,
    calls=("labeler.kind", "labeler.parts", "labeler.rules"),
)
RETRAIN = Stage("retrain", (*_MODEL, "retrain", "reward", "generation"), version=6)
SELECT = Stage(
    "select",
    (*_MODEL, "select", "generation.temperature", "evaluate.rules", "rules", "data.heldout_fraction", "ppo.score"),
    version=7,
    calls=("select.kinds", "evaluate.rules"),
)
KEEP = Stage(
    "keep",
    ("data.source", "data.heldout_fraction", "keep.per_prompt", "keep.filters", "keep.max_rows", "evaluate.gold", "rules"),
    version=3,
    calls=("keep.filters", "evaluate.gold"),
)
REFRESH = Stage("refresh", (*_MODEL, "keep"))
EVALUATE = Stage(
    "evaluate",
    (*_MODEL, "data.source", "generation", "evaluate", "rules", "select.use"),
    version=4,
    calls=("evaluate.rules", "evaluate.gold", "select.use"),
)

SETUP_STAGES = (DATA, BASE, FILTER, SFT, BASELINE)
ROUND_STAGES = (REWARD, POLICY, SAMPLE, ANSWER, LABEL, RETRAIN, SELECT, KEEP, EVALUATE)
STAGES = (*SETUP_STAGES, PIVOT, PMP, LABELER, READY_LABELER, *ROUND_STAGES, DPO, COMMITTEE, REFRESH)
"""All of them. PIVOT, PMP and one of the two labelers, before round 0, and DPO, COMMITTEE and REFRESH, in each round, are made only if the
config asks for them."""

CHOOSE = Stage(
    "choose",
    (*_MODEL, *_LIMITS, "generation", "sample.num_completions", "select.use", "evaluate.rules", "rules"),
    calls=("select.use", "evaluate.rules"),
)
"""No stage of a run: what `loop choose` asks of a worker."""
PROMOTE = Stage("promote", (*_MODEL, "generation"), seeded=False)
PROMOTE_ADAPTER = replace(PROMOTE, name="promote_adapter")
"""No stages of a run: what `loop promote` asks of a worker."""
VERSION_ACROSS = 1
"""Added to the version of each stage with `respond: pivot`. Raised when stages compute something else there only."""


class Run(Protocol):
    """What a round needs from its surroundings. In a real run it is the `Driver`."""

    @property
    def config(self) -> RunConfig: ...

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact: ...


def across_languages(stage: Stage) -> Stage:
    """A stage as it is with `respond: pivot`: its policies answer in the pivot language, so it depends on the settings of `pivot` too."""
    if "pivot" in stage.reads:
        return stage
    version = stage.version + VERSION_ACROSS
    return replace(stage, version=version, reads=(*stage.reads, "pivot"), calls=(*stage.calls, *PIVOT.calls))


@dataclass(frozen=True)
class AcrossLanguages:
    """A `Run` whose stages are those of `across_languages`."""

    run: Run

    @property
    def config(self) -> RunConfig:
        return self.run.config

    def stage(self, stage: Stage, round_number: int | None = None, **inputs: Inputs) -> Artifact:
        return self.run.stage(across_languages(stage), round_number, **inputs)


def data_stage(config: RunConfig) -> Stage:
    """The stage from which all later ones take their rows."""
    return PIVOT if config.respond == "pivot" else FILTER


Program = Callable[[Run], None]
"""Asks a run for all of its stages, in order, as `run_rounds` does."""


@dataclass(frozen=True)
class Setup:
    """The stages before round 0. `data` is the output of the `filter` stage, or of `pivot`."""

    data: Artifact
    base: Artifact
    sft: Artifact
    pmp: Artifact | None
    labeler: Artifact | None
    baseline: Artifact


@dataclass(frozen=True)
class Round:
    """The stages of a finished round that later rounds use."""

    reward: Artifact
    policy: Artifact
    sample: Artifact
    answer: Artifact | None
    labels: Artifact
    retrain: Artifact
    select: Artifact
    keep: Artifact
    refresh: Artifact | None
    evaluate: Artifact


def set_up(run: Run) -> Setup:
    """Make the stages before round 0."""
    reads_data = "chosen" in run.config.base.pretraining_texts
    original = run.stage(DATA)
    base = run.stage(BASE, data=original if reads_data else None)
    data = run.stage(FILTER, data=original, base=base)
    if run.config.respond == "pivot":
        run = AcrossLanguages(run)
        data = run.stage(PIVOT, data=data, base=base)
    sft = run.stage(SFT, data=data, base=base)
    pmp = run.stage(PMP, data=data, base=base, sft=sft) if run.config.uses_pmp else None
    labeler = None
    if "reward-model" in run.config.labeler.kinds:
        labeler = run.stage(READY_LABELER, data=data) if run.config.labeler.model else run.stage(LABELER, data=data, base=base, sft=sft)
    baseline = run.stage(BASELINE, data=data, base=base, sft=sft)
    return Setup(data, base, sft, pmp, labeler, baseline)


def run_round(run: Run, r: int, setup: Setup, earlier: list[Round]) -> Round:
    """Make round r, after the `earlier` ones."""
    run = AcrossLanguages(run) if run.config.respond == "pivot" else run
    data, base, sft = setup.data, setup.base, setup.sft
    last = earlier[-1] if earlier else None
    before = [past.labels for past in earlier]

    reward = run.stage(REWARD, r, data=data, base=base, sft=sft, pmp=None if last else setup.pmp, retrained=last.retrain if last else None)
    policy = make_policy(run, r, setup, earlier, reward)
    sampled = sft if run.config.sample.policy == "sft" else policy
    sample = run.stage(SAMPLE, r, data=data, base=base, policy=sampled, last=last.policy if last else None)
    committee = None
    if run.config.labeler.pick != "random":
        committee = run.stage(COMMITTEE, r, base=base, sft=sft, samples=sample, reward=reward, last=last.select if last else None)
    answer = None
    if run.config.labeler.win_rate_fraction:
        answer = run.stage(ANSWER, r, data=data, base=base, sft=sft, policy=policy, last=last.answer if last else None)
    late = earlier if run.config.labeler.late == "use" else []
    labels = run.stage(
        LABEL,
        r,
        samples=sample,
        base=base,
        labeler=setup.labeler,
        committee=committee,
        answers=answer,
        earlier_samples=[past.sample for past in late],
        labels=[past.labels for past in late],
    )
    retrain = run.stage(RETRAIN, r, data=data, base=base, sft=sft, pmp=setup.pmp, reward=reward, labels=[*before, labels])
    select = run.stage(
        SELECT,
        r,
        base=base,
        sft=sft,
        samples=sample,
        labels=[*before, labels],
        reward=reward,
        retrained=retrain,
        last=last.select if last else None,
    )
    keep = run.stage(KEEP, r, samples=sample, select=select, last=last.keep if last else None)
    refresh = run.stage(REFRESH, r, data=data, base=base, sft=sft, keep=keep) if run.config.is_refreshed else None
    evaluate = run.stage(
        EVALUATE,
        r,
        data=data,
        base=base,
        sft=sft,
        policy=policy,
        reward=reward,
        retrained=retrain,
        select=select,
        labels=[*before, labels],
        baseline=setup.baseline,
        last=last.evaluate if last else None,
    )
    return Round(reward, policy, sample, answer, labels, retrain, select, keep, refresh, evaluate)


def make_policy(run: Run, r: int, setup: Setup, earlier: list[Round], reward: Artifact) -> Artifact:
    """Make the policy of round r: by PPO against a score, or by DPO on the rows that the reward model of this round was trained on."""
    data, base, sft = setup.data, setup.base, setup.sft
    last = earlier[-1] if earlier else None
    if run.config.trainer == "dpo":
        labels = [past.labels for past in earlier]
        return run.stage(DPO, r, data=data, base=base, sft=sft, labels=labels, retrained=last.retrain if last else None)
    features = last.select if last and run.config.ppo.score == "features" else None
    return run.stage(
        POLICY if features else POLICY_WITHOUT_FEATURES,
        r,
        data=data,
        base=base,
        sft=sft,
        rewards=[*(past.reward for past in earlier), reward],
        select=features,
        last=last.policy if last else None,
        start=last.refresh if last else None,
        labels=[past.labels for past in earlier],
    )


def run_rounds(run: Run) -> None:
    """Make the whole run."""
    setup = set_up(run)
    rounds: list[Round] = []
    for r in range(run.config.num_rounds):
        rounds.append(run_round(run, r, setup, rounds))
