"""The settings of everything after PPO: what is sampled, labeled, learned from the labels, kept, and measured. See `sections.py`."""

from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from configs.fields import DEFAULT_RULES, BadValue, ExpectedLanguage, Fraction, FunctionName, RuleName, Section
from configs.sections import TrainerSection

SelectorName = Literal["features", "answer-features", "reward-model", "model", "rules", "longest", "random"]
"""The built-in selectors (rewards/selectors)."""
FeatureGroup = Literal["reward", "rules", "agreement", "logprobs", "length"]
"""The groups of features of the `features` selector (rewards/selectors/features.py)."""


class RulesConfig(Section):
    """What all rules are told, wherever they are used: `evaluate.rules`, `keep.filters`, `labeler.rules` and `ppo.penalties`."""

    expected_language: ExpectedLanguage = "same"
    """The language that answers should be in, for the rule `wrong_language`: Thai, English, that of the question (`same`), or any. `en`
    is for prompts in Thai that are meant to be answered in English."""


class SampleConfig(Section):
    """The samples of the policy that the labeler judges."""

    num_prompts: Annotated[int, Field(ge=2)] = 450
    """How many prompts the policy answers in a round."""
    heldout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """The fraction of these prompts that is held out (see `data.heldout_fraction`). Their comparisons evaluate the reward model and the
    selector, and train nothing."""
    num_completions: Annotated[int, Field(ge=2)] = 4
    """How many completions each prompt gets."""
    policy: Literal["round", "sft"] = "round"
    """Whose samples are judged: those of the round's policy, or those of the SFT policy in every round. `sft` is for experiments: a loop
    that never sees samples of its own policy is what iterating has to beat."""
    earlier_fraction: Fraction = 0.0
    """The fraction of the prompts that the last round's policy answers as well."""


class LabelerConfig(Section):
    """Who decides which of two completions is better."""

    kind: Literal["gold", "preferences-file", "reward-model", "judge", "rules", "mixture"] | FunctionName = "gold"
    """`gold` is the true reward of the embedded world. `preferences-file` reads comparisons that people or programs write into a file.
    `reward-model` is a reward model that answers for people: the one that `labeler.model` names, or one that the run trains on
    `data.labeler_fraction` of the pairs. `judge` asks a language model
    over HTTP (section `judge`). `rules` prefers the completion with fewer defects of `labeler.rules`, and calls equal numbers a tie.
    `mixture` divides the prompts among several of these (`labeler.parts`). Your own judge is named as
    `file.py:function` or `module:function`."""
    parts: list[Literal["gold", "preferences-file", "reward-model", "judge", "rules"] | FunctionName] = []
    """Only for `mixture`: the labelers that share the prompts. Where several have labeled a pair, the one that is named first decides."""
    shares: list[Fraction] = []
    """Only for `mixture`: the share of the prompts of each of them, in the same order. They add up to 1. The seed decides who gets a
    prompt."""
    double_fraction: Fraction = 0.1
    """Only for `mixture`: the fraction of the prompts, drawn at random, that all parts label, so that their agreement can be measured."""
    model: str | None = None
    """Only for `reward-model`: a model for sequence classification with one label, by hub id or folder, or a reward model of an earlier
    run, for example `runs/first/round-001/retrain`. None means that the run trains one on `data.labeler_fraction` of the pairs. Weights are
    read from safetensors only."""
    adapter: str | None = None
    """Only with `labeler.model`: the folder of a PEFT adapter on it, for sequence classification."""
    revision: str | None = None
    """Only with `labeler.model`: the branch, tag or commit of a hub model. None means the default branch. The run records the commit."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Only with `labeler.model`: the number format that it computes in."""
    trust_remote_code: bool = False
    """Only with `labeler.model`: whether the model's own Python code may run."""
    path: str | None = None
    """Only for `preferences-file`: the file with the comparisons: .jsonl, .json or .csv, or an export of Label Studio or Argilla. A pattern
    such as `labels/*.jsonl` reads several files. `{round}` in the path stands for the round's number. Without it, one file serves all
    rounds."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Only for `preferences-file`: what to do with a row that cannot be used. `refuse` stops the run and names the row. `skip` leaves such
    rows out, and counts and names them."""
    min_labels: PositiveInt | None = None
    """Only for `preferences-file`: how many pairs of a round must be labeled before the run continues. None means one. Pairs that
    compare policies count, but one pair of samples is needed at least."""
    raters: Literal["all", "majority", "weighted", "dawid-skene"] = "all"
    """Only for `preferences-file`: what is made of several raters' votes on one pair. `all` keeps every vote as a comparison of its own.
    `majority` makes one comparison of them, a tie where no answer has most votes. `weighted` does the same with weighted votes.
    `dawid-skene` learns from all votes of the round how often each rater errs, and makes the comparison that is most probable. Source:
    Dawid and Skene, Applied Statistics 28 (1979), 20-28."""
    rater_weights: dict[str, PositiveFloat] = {}
    """Only for `raters: weighted`: the weight of a rater's vote, by name. A rater that is not named has weight 1."""
    late: Literal["leave-out", "use"] = "leave-out"
    """Only for `preferences-file`: what to do with labels of an earlier round that were not there when that round was labeled. `leave-out`
    counts them. `use` adds them to the round in which they are found, under their own generation."""
    noise: Fraction = 0.0
    """The fraction of the comparisons of training prompts whose two answers are swapped, for experiments with wrong labels. Ties are not
    counted."""
    rules: list[RuleName | FunctionName] = DEFAULT_RULES
    """Only for `rules`: the defects that are counted."""
    win_rate_fraction: Fraction = 0.2
    """How many comparisons measure win rates, as a fraction of the comparisons that are planned for a round: `min_labels` where a file
    has to bring so many, else `budget`, else `sample.num_prompts` times `pairs_per_prompt`. One half compares the round's policy with the
    SFT policy, the other half with the last round's (from round 1 on), on the same held-out prompts. The labeler judges them beside the
    others, and nothing is trained on them (`docs/win-rate.md`). 0 leaves win rates out."""
    pairs_per_prompt: PositiveInt = 4
    """The most pairs of completions that are compared for one prompt. This setting and the next three are not for `preferences-file`,
    which brings its own pairs."""
    budget: PositiveInt | None = None
    """How many pairs of training prompts are labeled in each round, exactly. Pairs of held-out prompts are not counted. None means as many
    as `pairs_per_prompt` allows."""
    pick: Literal["random", "disagreement", "uncertainty", "closeness"] = "random"
    """Which pairs of training prompts are labeled. `random` draws them. `disagreement` takes pairs on which the reward model and the last
    round's selector expect different outcomes, `uncertainty` pairs whose outcome the two together do not know, and `closeness` pairs with
    nearly the same score. Round 0 has no selector, so the log-probabilities of the SFT policy take its place. Pairs of held-out prompts are
    always random. Source: query by committee, Seung et al. 1992; arXiv 1112.5745 (disagreement); Lewis and Gale 1994 (the two others)."""
    random_fraction: Fraction = 0.25
    """Only if `pick` is not `random`: the fraction of these pairs that is drawn at random all the same. Measurements on this part are not
    biased by the picking, and each comparison says how its pair was picked."""

    @property
    def kinds(self) -> list[str]:
        """The labelers that are asked: the parts of a mixture, or the one labeler."""
        return list(self.parts) if self.kind == "mixture" else [self.kind]

    @model_validator(mode="after")
    def _mixes(self) -> "LabelerConfig":
        if self.kind != "mixture":
            if self.parts or self.shares:
                raise BadValue(f"labeler.parts and labeler.shares are for labeler.kind=mixture, not for {self.kind}", "remove them")
        elif len(self.parts) < 2 or len(set(self.parts)) < len(self.parts) or len(self.shares) != len(self.parts):
            what = (
                f"labeler.kind=mixture has {len(self.parts)} parts, {len(set(self.parts))} of them different, and {len(self.shares)} shares"
            )
            raise BadValue(
                what, "name two parts or more, and a share for each: labeler.parts='[preferences-file, judge]' labeler.shares='[0.2, 0.8]'"
            )
        elif abs(sum(self.shares) - 1.0) > 1e-6:
            raise BadValue(f"labeler.shares add up to {sum(self.shares):g}", "choose shares that add up to 1")
        return self

    @model_validator(mode="after")
    def _names_a_model(self) -> "LabelerConfig":
        if self.model is None:
            given = [name for name in ("adapter", "revision", "trust_remote_code") if getattr(self, name)]
            if given:
                raise BadValue(f"labeler.{given[0]} is for a model that labeler.model names, and it names none", "set labeler.model")
        elif "reward-model" not in self.kinds:
            raise BadValue(
                f"labeler.model is for labeler.kind=reward-model, not for {self.kind}",
                "set labeler.kind=reward-model, or labeler.model=null",
            )
        return self

    @model_validator(mode="after")
    def _needs_path(self) -> "LabelerConfig":
        if "preferences-file" in self.kinds and not self.path:
            raise BadValue(
                "labeler.kind=preferences-file needs labeler.path",
                "name the file that will hold the labels: labeler.path='labels/round-{round}.jsonl'",
            )
        return self

    @model_validator(mode="after")
    def _picks_only_for_labelers_that_are_asked(self) -> "LabelerConfig":
        if self.kind == "preferences-file" and (self.pick != "random" or self.budget):
            name = "labeler.budget" if self.budget else "labeler.pick"
            raise BadValue(
                f"{name} picks pairs for a labeler, but labeler.kind=preferences-file brings its own pairs",
                "remove the setting: the file's writer decides which pairs are compared, for example those in `select/to_label.jsonl`",
            )
        return self


def prompts_compared(labeler: LabelerConfig, sampled: int) -> int:
    """On how many held-out prompts policies are compared for win rates: half of the pairs are against each of two opponents.

    sampled: `sample.num_prompts`.
    """
    planned = labeler.budget or sampled * labeler.pairs_per_prompt
    if labeler.kind == "preferences-file" and labeler.min_labels:
        planned = labeler.min_labels
    return max(1, round(labeler.win_rate_fraction * planned / 2))


class RetrainConfig(Section):
    """What the next reward model is trained on."""

    data: Literal["concat", "last", "sample"] = "concat"
    """`concat` uses the original pairs and the comparisons of all rounds. `last` uses this round's comparisons only. `sample` draws
    `mixture_pairs` from everything. Source: arXiv 2505.18126, where `concat` is best."""
    mixture_pairs: PositiveInt = 2600
    """Only for `data: sample`: how many pairs are drawn."""
    max_pairs: PositiveInt | None = 2000
    """Only for `data: concat`: at most this many pairs are used, so that a round does not take longer and longer. None means all of them.
    The settings below say which ones are drawn. A share that has too few pairs is filled up from the other ones."""
    original_fraction: Fraction = 0.4
    """Only with `max_pairs`: the share of the original pairs. 0 leaves them out."""
    fresh_fraction: Fraction = 0.4
    """Only with `max_pairs`: the share of this round's comparisons. The rest is the share of the earlier rounds' comparisons."""
    half_life: PositiveFloat = 2.0
    """Only with `max_pairs`: after this many rounds, a comparison is drawn half as often."""
    init: Literal["sft", "last"] = "last"
    """Where training starts: where the run's first reward model has started (`reward.init`), which is the SFT adapter with a new head
    unless there is preference-model pretraining, or from this round's reward model. See decision 12 in `docs/decisions.md`."""

    @model_validator(mode="after")
    def _check_shares(self) -> "RetrainConfig":
        total = round(self.original_fraction + self.fresh_fraction, 9)
        if not 0.0 < total <= 1.0:
            raise BadValue(
                f"retrain.original_fraction and retrain.fresh_fraction add up to {total:g}",
                "choose them so that the sum is more than 0 and at most 1; the rest is the share of the earlier rounds",
            )
        return self


class SelectConfig(TrainerSection):
    """The selectors, which predict which of a prompt's candidates will be preferred. The settings of a training are for `model` only."""

    kinds: Annotated[list[SelectorName | FunctionName], Field(min_length=1)] = [
        "features",
        "answer-features",
        "reward-model",
        "rules",
        "longest",
        "random",
    ]
    """The selectors that are made and judged side by side. `features` is logistic regression on features of each candidate.
    `answer-features` is the same without agreement among the candidates, so it can also score a single answer. `reward-model` takes the
    reward model's score, `model` trains an adapter and a head, and `rules` counts the defects of `evaluate.rules`. `longest` and
    `random` are for comparison. Your own function that scores answers is named as `file.py:function` or `module:function`."""
    use: SelectorName | FunctionName = "features"
    """Which of them chooses. It must be among `select.kinds`."""
    features: Annotated[list[FeatureGroup], Field(min_length=1)] = list(get_args(FeatureGroup))
    """Only for `features`: the groups of features, which rewards/selectors/features.py explains one by one."""
    max_examples: PositiveInt = 20000
    """Only for `features`: how many comparisons of training prompts it is fitted on at most. The newest ones are used."""
    num_epochs: PositiveFloat = 2.0
    """Only for `model`: how often each prompt is used."""
    batch_size: PositiveInt = 16
    """Only for `model`: the number of prompts in each optimizer step, over all workers. It must be divisible by `runtime.workers`."""
    init: Literal["sft", "reward"] = "reward"
    """Only for `model`: where training starts: from the SFT adapter, or from the retrained reward model."""

    @model_validator(mode="after")
    def _uses_what_it_makes(self) -> "SelectConfig":
        if len(set(self.kinds)) < len(self.kinds):
            raise BadValue("select.kinds names a selector twice", "name each of them once")
        if self.use not in self.kinds:
            raise BadValue(
                f"select.use={self.use} is not among select.kinds, which are {', '.join(self.kinds)}",
                f"add it: select.kinds='[{', '.join([*self.kinds, self.use])}]'",
            )
        return self


class KeepConfig(TrainerSection):
    """Which completions of the policies become training data. For `ppo.init: selected`, the SFT policy is fine-tuned on them, as in Llama 2
    (arXiv 2307.09288) and RAFT (arXiv 2304.06767)."""

    per_prompt: PositiveInt = 1
    """How many completions of a prompt are kept at most: those that the selector scores highest. Newer rounds come first."""
    filters: list[RuleName | FunctionName] = [name for name in DEFAULT_RULES if name not in ("refusal", "list_only")]
    """Completions with one of these defects are not kept. `refusal` and `list_only` are not in the default, because a refusal or a list can
    be the right answer. Your own rules are named as `file.py:function` or `module:function`."""
    max_rows: PositiveInt = 2000
    """How many completions are kept at most, those of the newest rounds first."""
    original_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Only for `ppo.init: selected`: the share of original chosen completions among the rows that the policy is fine-tuned on."""


class EvaluateConfig(Section):
    """How every policy is evaluated."""

    num_prompts: PositiveInt = 512
    """On how many held-out prompts each policy is measured. All rounds use the same prompts and seeds."""
    rules: list[RuleName | FunctionName] = DEFAULT_RULES
    """The defects that are counted in the samples: built-in rules, and your own ones as `file.py:function` or `module:function`. Selectors
    use them too."""
    gold: FunctionName | None = None
    """What the true reward of an answer is: a function of yours, for example one that checks the result of a calculation
    (`examples/gsm8k_reward.py`). None means the true reward of the embedded world, for its own prompts; other data then have none."""
    best_of: Annotated[int, Field(ge=0)] = 4
    """How many completions of each of these prompts the selector chooses from, to measure what its choice is worth. 0 and 1 leave that
    out."""
    probes: Annotated[int, Field(ge=0)] = 0
    """To how many of these prompts the policy also answers when they are written a little differently: without the question mark, with a
    space at the end, with or without a Thai polite particle. 0 leaves that out. A prompt costs two or three more answers, and as many
    scores."""
