"""The settings of a run, group by group: type, default, meaning and, where one is published, source.

The text below each setting becomes its entry in `docs/configuration.md` (`python -m docs.generate`); the part after "Source:" becomes
the entry's source. The defaults are those of the embedded world. The presets beside this file change what a larger model needs.
`schema.py` joins the groups and checks what must fit together. Must never import an ML library.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from configs.fields import RUN_TIME, BadValue, Fraction, FunctionName, MicroBatchSize, NonNegativeFloat, Section

RuleName = Literal[
    "foreign_word",
    "empty",
    "list_only",
    "repetition",
    "footer",
    "refusal",
    "wrong_language",
    "missing_end",
    "decomposed_sara_am",
]
"""The built-in rules (rewards/rules)."""
SelectorName = Literal["features", "answer-features", "reward-model", "model", "rules", "longest", "random"]
"""The built-in selectors (rewards/selectors)."""
FeatureGroup = Literal["reward", "rules", "agreement", "logprobs", "length"]
"""The groups of features of the `features` selector (rewards/selectors/features.py)."""


class BaseConfig(Section):
    """The frozen base model that all roles share."""

    model: str = "embedded"
    """The base model: `embedded` (a tiny Llama that the run trains itself, without a download), a hub id, or a folder that
    `from_pretrained` can load."""
    revision: str | None = None
    """The branch, tag or commit of a hub model. None means the default branch. The run records the commit and keeps using it."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run on your machine. Set it only for models whose code you have read."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The number format of the base model's weights."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` loads the base in 4-bit NF4 with bitsandbytes, which must be installed. Source: QLoRA, arXiv 2305.14314."""
    gradient_checkpointing: Annotated[bool, RUN_TIME] = False
    """Recompute activations in the backward pass instead of keeping them. This saves memory and costs about a third more time."""
    pretraining_texts: list[Literal["world", "chosen"]] = ["world"]
    """Only for `embedded`: the texts that the tiny base is trained on. `chosen` adds the chosen completions of the training pairs."""
    pretraining_steps: PositiveInt = 300
    """Only for `embedded`: the number of optimizer steps when the tiny base is trained."""
    pretraining_batch_size: PositiveInt = 16
    """Only for `embedded`: the number of 128-token blocks in each of these steps, over all workers."""
    pretraining_learning_rate: PositiveFloat = 4e-3
    """Only for `embedded`: the highest learning rate of these steps. It falls along a cosine."""
    vocabulary_size: PositiveInt = 1536
    """Only for `embedded`: the number of tokens in the vocabulary (byte-level BPE)."""
    hidden_size: PositiveInt = 128
    """Only for `embedded`: the size of the hidden states. The MLP is three times as wide."""
    num_layers: PositiveInt = 3
    """Only for `embedded`: the number of decoder layers."""
    num_heads: PositiveInt = 4
    """Only for `embedded`: the number of attention heads."""


class LoraSection(Section):
    """The LoRA adapter that every role gets."""

    rank: PositiveInt = 16
    """The rank of the adapter's matrices. Source: LoRA, arXiv 2106.09685."""
    alpha: PositiveFloat = 32.0
    """The adapter's change is multiplied by alpha / rank. Source: LoRA, arXiv 2106.09685."""
    layers: Literal["all", "upper-half"] = "all"
    """Which decoder layers get an adapter. With `upper-half` the lower layers stay as they are in the base, so their hidden states are
    computed once and reused. This makes PPO faster."""
    target_modules: str | list[str] = "all-linear"
    """Which linear layers get an adapter, in PEFT's notation."""


class DataConfig(Section):
    """The original preference pairs."""

    source: str | list[str] = "embedded"
    """Where the pairs come from: `embedded` (the built-in world), a hub data set, one or more .jsonl, .json, .csv or .parquet files
    (.jsonl.gz also works), or your own function that yields rows (`file.py:function` or `module:function`)."""
    split: str = "train"
    """Only for a hub data set: the split that is read."""
    heldout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.22
    """The fraction of the prompts that nothing is trained on, in any round. A prompt's side depends on its opening and on `seed`, so no
    dialogue is on both sides."""
    max_pairs: PositiveInt | None = None
    """Use at most this many pairs, drawn at random. None means all of them."""
    max_prompt_tokens: PositiveInt = 64
    """Leave out longer prompts, with their pairs. Tokens are counted with the base model's tokenizer, chat template included."""
    max_completion_tokens: PositiveInt = 64
    """Leave out pairs with a longer completion. `generation.max_new_tokens` must not be larger."""
    bad_rows: Literal["skip", "refuse"] = "skip"
    """What happens to a row that cannot be used, for example one with an empty answer: `skip` leaves it out and counts it, `refuse` stops
    the run."""
    labeler_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """The fraction of the pairs, of those that are not held out, that only trains the labeler of `labeler.kind: reward-model`. The run
    itself never sees them."""
    num_pairs: PositiveInt = 2000
    """Only for `embedded`: how many original training pairs are made."""


class TrainerSection(Section):
    """Supervised fine-tuning (SFT) of the first policy on the chosen completions. The names are those of TRL."""

    learning_rate: PositiveFloat = 1e-3
    """The highest learning rate. It rises during the warm-up and then falls linearly to 0."""
    num_epochs: PositiveFloat = 1.0
    """How often each row is used."""
    batch_size: PositiveInt = 64
    """The number of rows in each optimizer step, over all workers. It must be divisible by `runtime.workers`."""
    micro_batch_size: MicroBatchSize = None
    """The number of rows in one forward pass of one worker. A smaller value saves memory. None means all of the worker's rows."""
    warmup_ratio: Fraction = 0.05
    """The fraction of the steps in which the learning rate rises."""


class RewardConfig(TrainerSection):
    """The reward model: an adapter and a linear head on the last token, trained with TRL's RewardTrainer."""

    num_epochs: PositiveFloat = 2.0
    """How often each pair is used."""
    batch_size: PositiveInt = 16
    """The number of pairs in each optimizer step, over all workers. It must be divisible by `runtime.workers`."""
    normalization_samples: Annotated[int, Field(ge=2)] = 256
    """Scores are shifted and scaled to mean 0 and standard deviation 1 on this many samples of the reference policy. Source: arXiv
    2403.17031, section 6."""
    ensemble: Literal["last", "mean", "min"] = "last"
    """What PPO maximises: the score of the newest reward model, or the mean or the minimum of the scores of all rounds' reward models.
    Source: arXiv 2505.18126, where `last` is best."""


class GenerationConfig(Section):
    """How completions are sampled. The defaults sample from the model's own distribution."""

    temperature: PositiveFloat = 1.0
    """Logits are divided by this number, in sampling and in every log-probability of PPO. Source: arXiv 2403.17031 uses 0.7, as the
    presets for real models do."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample only from this many of the most likely tokens. 0 means from all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample only from the most likely tokens that together have this probability. 1 means from all."""
    max_new_tokens: PositiveInt = 32
    """The longest completion that is sampled, in tokens. It must not be larger than `data.max_completion_tokens`."""
    batch_size: Annotated[PositiveInt, RUN_TIME] = 128
    """How many completions are sampled together. A smaller value saves memory. Log-probabilities may differ in their last bits, so about
    one response in a thousand changes."""


class PPOConfig(Section):
    """Proximal policy optimization. Source: arXiv 1707.06347, with the details of arXiv 2403.17031."""

    num_updates: PositiveInt = 40
    """The number of PPO updates in a round. Each one samples a new batch."""
    batch_size: PositiveInt = 64
    """The number of responses in an update, over all workers. It must be divisible by `num_minibatches` x `runtime.workers` and by
    `samples_per_prompt` x `runtime.workers`."""
    advantage: Literal["gae", "rloo", "grpo"] = "gae"
    """How advantages are estimated. `gae` uses a critic. `rloo` compares a response with the mean of the other responses to its prompt.
    `grpo` uses the mean and the standard deviation of all responses to its prompt. Source: arXiv 1506.02438 (gae), 2402.14740 (rloo),
    2402.03300 (grpo)."""
    samples_per_prompt: PositiveInt = 1
    """How many responses each prompt of a batch gets. `rloo` and `grpo` need two or more."""
    num_epochs: PositiveInt = 2
    """How often each response of a batch is used. Source: arXiv 2403.17031 uses 4."""
    num_minibatches: PositiveInt = 2
    """The number of optimizer steps in each of these epochs."""
    micro_batch_size: MicroBatchSize = None
    """The number of responses in one forward pass of one worker. A smaller value saves memory. None means all of the worker's
    minibatch."""
    learning_rate: PositiveFloat = 4e-4
    """The learning rate of AdamW at the first update. Source: arXiv 2403.17031 uses 3e-6 for a whole model; an adapter of a tiny model
    needs more."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """`linear` lowers the learning rate to 0 over the updates. Source: arXiv 2403.17031."""
    adam_epsilon: PositiveFloat = 1e-5
    """The epsilon of AdamW. Source: arXiv 2403.17031."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger norm are scaled down to it. TRL's PPO does not do this."""
    gamma: Fraction = 1.0
    """The discount of later rewards. Source: arXiv 2403.17031."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalized advantage estimation. Source: arXiv 1506.02438; the value is that of arXiv 2403.17031."""
    clip_range: PositiveFloat = 0.2
    """How far the probability ratio may move from 1 before the policy loss is clipped. Source: arXiv 1707.06347, equation 7."""
    value_clip_range: PositiveFloat = 0.2
    """How far a value may move from the value at sampling before its loss is clipped. Source: arXiv 2403.17031."""
    value_coefficient: NonNegativeFloat = 0.1
    """The weight of the value loss. Source: arXiv 2403.17031."""
    value_model: Literal["head", "adapter"] = "head"
    """The critic: `head` is a linear head on the policy's own hidden states, `adapter` has an adapter of its own as well. Both start from
    the reward model."""
    score: Literal["reward-model", "features"] = "features"
    """What PPO maximises. `reward-model` is the reward model's normalised score. `features` is the score of the selector
    `answer-features` that the last round has fitted to the labels, in log-odds; it has the reward model's score among its features. Round
    0 has no labels of its own samples yet, so it always takes the reward model."""
    kl_coefficient: NonNegativeFloat = 0.2
    """The weight of the KL penalty, which is part of each token's reward. Source: arXiv 1909.08593, equation 2; arXiv 2403.17031 uses
    0.05."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """How the KL divergence of a token is estimated. Source: Schulman, "Approximating KL divergence", 2020."""
    kl_target: PositiveFloat | None = None
    """If set, `kl_coefficient` is adapted so that the KL divergence of a response, in nats, approaches this value. None keeps it fixed.
    Source: arXiv 1909.08593, section 2.2."""
    kl_horizon: PositiveInt = 10_000
    """The larger this number, the more slowly `kl_coefficient` is adapted. Source: arXiv 1909.08593, section 2.2."""
    whiten_rewards: bool = False
    """Whether rewards are scaled to variance 1. Their mean is not shifted."""
    whiten_advantages: bool = True
    """Only for `gae`: whether advantages are shifted and scaled to mean 0 and variance 1. Source: arXiv 2403.17031."""
    missing_end_penalty: NonNegativeFloat = 1.0
    """Subtracted from the score of a response that has no end token. Source: arXiv 2403.17031, section 7 ("EOS trick"), in TRL's form."""
    recompute_logprobs: bool = False
    """Whether the log-probabilities and values of a batch are computed again after sampling. `false` keeps those from sampling, where the
    adapter is merged into the weights: they differ by about 1e-6 in float32 and by 1e-2 in bfloat16. `true` makes the first ratio 1."""
    init: Literal["sft", "last", "interpolate", "selected"] = "sft"
    """Where the policy of a round starts: from the SFT adapter, from the last round's policy, from an interpolation of both, or from the
    SFT policy that was fine-tuned on the kept completions (`keep`). Source: arXiv 2505.18126, where `sft` is best of the first three."""
    interpolate_weight: Fraction = 0.5
    """Only for `init: interpolate`: the weight of the last round's policy. The SFT adapter has the rest."""
    reference: Literal["sft", "start"] = "sft"
    """From where PPO measures the KL divergence: from the SFT policy, or from where PPO starts in this round. `evaluate` always measures it
    from the SFT policy."""


class SampleConfig(Section):
    """The samples of the policy that the labeler judges."""

    num_prompts: Annotated[int, Field(ge=2)] = 450
    """How many prompts the policy answers in a round."""
    heldout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """The fraction of these prompts that is held out (see `data.heldout_fraction`). Their comparisons evaluate the reward model and the
    selector, and train nothing."""
    num_completions: Annotated[int, Field(ge=2)] = 4
    """How many completions each prompt gets."""
    earlier_fraction: Fraction = 0.0
    """The fraction of the prompts that the last round's policy answers as well."""


class LabelerConfig(Section):
    """Who decides which of two completions is better."""

    kind: Literal["gold", "preferences-file", "reward-model"] | FunctionName = "gold"
    """`gold` is the true reward of the embedded world. `preferences-file` reads comparisons that people or programs write into a file.
    `reward-model` trains a model on `data.labeler_fraction` of the pairs and lets it answer for people. Your own judge is named as
    `file.py:function` or `module:function`."""
    path: str | None = None
    """Only for `preferences-file`: the JSONL file with the comparisons. `{round}` in the path stands for the round's number. Without it,
    one file serves all rounds."""
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

    @model_validator(mode="after")
    def _needs_path(self) -> "LabelerConfig":
        if self.kind == "preferences-file" and not self.path:
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


class RetrainConfig(Section):
    """What the next reward model is trained on."""

    data: Literal["concat", "last", "sample"] = "concat"
    """`concat` uses the original pairs and the comparisons of all rounds. `last` uses this round's comparisons only. `sample` draws
    `mixture_pairs` from everything. Source: arXiv 2505.18126, where `concat` is best."""
    mixture_pairs: PositiveInt = 2600
    """Only for `data: sample`: how many pairs are drawn."""
    max_pairs: PositiveInt | None = None
    """Only for `data: concat`: at most this many pairs are used, so that a round does not take longer and longer. None means all of them.
    The settings below say which ones are drawn. A share that has too few pairs is filled up from the other ones."""
    original_fraction: Fraction = 0.4
    """Only with `max_pairs`: the share of the original pairs. 0 leaves them out."""
    fresh_fraction: Fraction = 0.4
    """Only with `max_pairs`: the share of this round's comparisons. The rest is the share of the earlier rounds' comparisons."""
    half_life: PositiveFloat = 2.0
    """Only with `max_pairs`: after this many rounds, a comparison is drawn half as often."""
    init: Literal["sft", "last"] = "last"
    """Where training starts: from the SFT adapter with a new head, or from this round's reward model. See decision 12 in
    `docs/decisions.md`."""

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
    filters: list[RuleName | FunctionName] = [name for name in get_args(RuleName) if name not in ("refusal", "list_only")]
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
    rules: list[RuleName | FunctionName] = list(get_args(RuleName))
    """The defects that are counted in the samples: built-in rules, and your own ones as `file.py:function` or `module:function`. Selectors
    use them too."""
    best_of: Annotated[int, Field(ge=0)] = 4
    """How many completions of each of these prompts the selector chooses from, to measure what its choice is worth. 0 and 1 leave that
    out."""


class RuntimeConfig(Section):
    """Where and how a run is computed. These settings may change between two starts of a run."""

    executor: Literal["ray", "in-process"] = "ray"
    """Where stages run. `ray` uses Ray actors. `in-process` uses one worker inside the command itself, without Ray. It is meant for tests
    and small experiments."""
    address: str | None = None
    """The Ray cluster to join: None starts Ray on this machine, `auto` joins the cluster that runs here, `host:port` joins a remote
    one."""
    workers: PositiveInt = 1
    """The number of data-parallel workers: one per GPU, or processes that share the cores of a CPU machine."""
    threads: PositiveInt | None = None
    """The number of CPU threads of a worker. None divides all cores by the number of workers."""
    dashboard_port: PositiveInt | None = None
    """The port of Ray's dashboard. None means 8265, or the next free one."""
    checkpoint_seconds: NonNegativeFloat = 30.0
    """The time between two checkpoints inside a stage, which is the most that a kill can cost. Saving takes at most 2 % of the time, so a
    slow disk saves less often. 0 saves after every step."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often a stage is continued with new workers after one has died or hung."""
    hang_seconds: PositiveFloat = 120.0
    """Workers that give no sign of life for this long are replaced."""
    start_seconds: PositiveFloat = 120.0
    """How long each step of the start (Ray, then the workers) may take without a sign of life, before the start is tried again."""

    @model_validator(mode="after")
    def _one_process_has_one_worker(self) -> "RuntimeConfig":
        if self.executor == "in-process" and self.workers > 1:
            raise BadValue(
                f"runtime.executor=in-process has one worker, but runtime.workers is {self.workers}",
                "set runtime.workers=1, or runtime.executor=ray",
            )
        return self
