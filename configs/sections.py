"""The settings of a run, group by group: type, default, meaning and, where one is published, source.

The text below each setting becomes its entry in `docs/configuration.md` (`python -m docs.generate`); the part after "Source:" becomes
the entry's source. The defaults are those of the embedded world. The presets beside this file change what a larger model needs.
`data.py` and `curation.py` have the groups for the data, `judging.py` those for what comes after PPO, and `endpoints.py` those for a model
that is asked over HTTP. `schema.py` joins all groups and checks what must fit together. Must never import an ML library.
"""

import os
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from configs.fields import RUN_TIME, UNSET_IN_NO_KEY, BadValue, Fraction, FunctionName, MicroBatchSize, NonNegativeFloat, RuleName, Section


class BaseConfig(Section):
    """The frozen base model that all roles share."""

    model: str = "embedded"
    """The base model: `embedded` (a tiny Llama that the run trains itself, without a download), `smollm2-135m`
    (SmolLM2-135M-Instruct, from a package of PyPI), a hub id, or a folder that `from_pretrained` can load."""
    revision: str | None = None
    """The branch, tag or commit of a hub model. None means the default branch. The run records the commit and keeps using it."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run on your machine. Set it only for models whose code you have read."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The number format of the base model's weights. float16 is refused, because small gradients would be rounded to 0 in it."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` loads the base in 4-bit NF4 with bitsandbytes, which must be installed. Source: QLoRA, arXiv 2305.14314."""
    gradient_checkpointing: Annotated[bool, RUN_TIME] = False
    """Recompute activations in the backward pass instead of keeping them. This saves memory and costs about a third more time."""
    pretraining_texts: list[Literal["world", "mostly-english", "chosen"]] = ["world"]
    """Only for `embedded`: the texts that the tiny base is trained on. `mostly-english` is the world with nineteen dialogues in English for
    each in Thai, as the web has it. `chosen` adds the chosen completions of the training pairs."""
    pretraining_steps: PositiveInt = 300
    """Only for `embedded`: the number of optimizer steps when the tiny base is trained."""
    pretraining_batch_size: PositiveInt = 16
    """Only for `embedded`: the number of 128-token blocks in each of these steps, over all workers."""
    pretraining_learning_rate: PositiveFloat = 4e-3
    """Only for `embedded`: the highest learning rate of these steps. It falls along a cosine."""
    vocabulary_size: PositiveInt = 1536
    """Only for `embedded`: the number of tokens in the vocabulary (byte-level BPE)."""
    hidden_size: PositiveInt = 128
    """Only for `embedded`: the size of the hidden states, a multiple of twice `num_heads`. The MLP is three times as wide."""
    num_layers: PositiveInt = 3
    """Only for `embedded`: the number of decoder layers."""
    num_heads: PositiveInt = 4
    """Only for `embedded`: the number of attention heads."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _refuse_float16(cls, value: object) -> object:
        """Say why float16 is missing, instead of only listing the other formats."""
        if value in ("float16", "fp16", "half"):
            raise BadValue(
                f"base.dtype={value} cannot be trained in: gradients below 6e-8 become 0, and the losses are not scaled",
                "set base.dtype=bfloat16, or base.dtype=float32 where the GPU does not compute in bfloat16",
            )
        return value


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

    init: Annotated[Literal["sft", "pmp"] | None, UNSET_IN_NO_KEY] = None
    """Where the run's reward models start: from the SFT adapter with a new head (`sft`), or from what preference-model pretraining has
    learned (`pmp`). None means `pmp` where `pmp.sources` names any, else `sft`."""
    num_epochs: PositiveFloat = 2.0
    """How often each pair is used."""
    batch_size: PositiveInt = 16
    """The number of pairs in each optimizer step, over all workers. It must be divisible by `runtime.workers`."""
    normalization_samples: Annotated[int, Field(ge=2)] = 256
    """Scores are shifted and scaled to mean 0 and standard deviation 1 on this many samples of the reference policy. Source: arXiv
    2403.17031, section 6."""
    ensemble: Literal["last", "mean", "min"] = "last"
    """What PPO maximizes: the score of the newest reward model, or the mean or the minimum of the scores of all rounds' reward models.
    Source: arXiv 2505.18126, where `last` is best."""
    targets: Literal["hard", "soft"] = "hard"
    """What a comparison says of its two completions. `hard`: the chosen one is better, and ties train nothing. `soft`: it is better with
    the probability `confidence` of the comparison (1 where there is none, 0.5 for a tie), so ties pull the two scores together."""


class GenerationConfig(Section):
    """How completions are sampled. The defaults sample from the model's own distribution."""

    temperature: PositiveFloat = 0.7
    """Logits are divided by this number, in sampling and in every log-probability of PPO. Source: arXiv 2403.17031 uses 0.7."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample only from this many of the most likely tokens. 0 means from all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample only from the most likely tokens that together have this probability. 1 means from all."""
    max_new_tokens: PositiveInt = 32
    """The longest completion that is sampled, in tokens. It must not be larger than `data.max_completion_tokens`."""
    stop_strings: list[Annotated[str, Field(min_length=1)]] = []
    """Texts in which a completion ends, besides the model's end tokens (the tokenizer's, and all that its `generation_config.json`
    names). A completion keeps the stop string, and what its last token holds after it, as in transformers' `generate`. It counts as
    finished."""
    batch_size: Annotated[PositiveInt, RUN_TIME] = 128
    """How many completions are sampled together. A smaller value saves memory. Log-probabilities may differ in their last bits, so about
    one response in a thousand changes."""


ANSWERS_LOOKED_AT = 2
"""How many answers each held-out prompt gets while PPO trains (`ppo.evaluate_prompts`). The score chooses among them."""


class PPOConfig(Section):
    """Proximal policy optimization. Source: arXiv 1707.06347, with the details of arXiv 2403.17031."""

    num_updates: Annotated[int, Field(ge=0)] = 80
    """The number of PPO updates in a round. Each one samples a new batch. 0 leaves the policy where it starts, which is for
    experiments."""
    batch_size: PositiveInt = 64
    """The number of responses in an update, over all workers. It must be divisible by `num_minibatches` x `runtime.workers` and by
    `samples_per_prompt` x `runtime.workers`."""
    advantage: Literal["gae", "rloo", "grpo"] = "rloo"
    """How advantages are estimated. `gae` uses a critic. `rloo` compares a response with the mean of the other responses to its prompt.
    `grpo` uses the mean and the standard deviation of all responses to its prompt. Source: arXiv 1506.02438 (gae), 2402.14740 (rloo),
    2402.03300 (grpo)."""
    samples_per_prompt: PositiveInt = 4
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
    clip_range_high: PositiveFloat | None = None
    """The same for a ratio above 1 ("clip-higher"), so that unlikely tokens can gain more. None means `clip_range`. Source: DAPO, arXiv
    2503.14476, section 3.1, which uses 0.28."""
    importance_ratio: Literal["token", "sequence"] = "token"
    """Only for `rloo` and `grpo`: `sequence` gives all tokens of a response one ratio, the geometric mean of their ratios. It moves far
    less than that of a token, so the clip ranges must be much smaller. Source: GSPO, arXiv 2507.18071, equation 7, with clip ranges of
    3e-4 and 4e-4."""
    loss_type: Literal["token", "sequence", "dr_grpo"] = "token"
    """Over what the policy loss is averaged. `token` is over the tokens of a minibatch. `sequence` is over the tokens of each response, and
    then over the responses. `dr_grpo` divides the sum over tokens by the number of responses x `generation.max_new_tokens`. The value loss
    is always averaged over tokens. Source: DAPO, arXiv 2503.14476, section 3.3 (token); arXiv 2402.03300, equation 3 (sequence); Dr. GRPO,
    arXiv 2503.20783, section 3.2 (dr_grpo)."""
    mask_truncated: bool = False
    """Whether responses without an end token are left out of all losses. Their scores still count in the advantages of the others. Source:
    DAPO, arXiv 2503.14476, section 3.4 ("overlong filtering")."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """The weight of an entropy bonus: the mean entropy of the policy at the tokens of the responses. 0 computes none. Source: arXiv
    1707.06347, equation 9."""
    target_kl: PositiveFloat | None = None
    """If set, an update does no further epoch after one in which the policy has moved further than this from where it sampled, in nats per
    token (`policy/approxkl_avg`). None always does `num_epochs`. `kl_target` is something else: the KL from the reference. Source:
    "The 37 Implementation Details of PPO", 2022, detail "early stopping"."""
    value_clip_range: PositiveFloat = 0.2
    """How far a value may move from the value at sampling before its loss is clipped. Source: arXiv 2403.17031."""
    value_coefficient: NonNegativeFloat = 0.1
    """The weight of the value loss. Source: arXiv 2403.17031."""
    value_model: Literal["head", "adapter"] = "head"
    """Only for `gae`: the critic. `head` is a linear head on the policy's own hidden states, `adapter` has an adapter of its own as well.
    Both start from the reward model."""
    value_warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Only for `gae`: in the first updates of a round, as many as this number says, only the critic is trained. Source: VC-PPO, arXiv
    2503.01491 ("value pretraining")."""
    score: Literal["reward-model", "features"] | FunctionName = "features"
    """What PPO maximizes. `reward-model` is the reward model's normalized score. `features` is logistic regression
    on the features of an answer (`select.features` without agreement), which the last round has fitted to the labels, in log-odds. The
    reward model's score is one of the features. Round 0 has no labels of samples yet, so it takes the reward model. A function of yours
    scores answers in every round, for example by checking them (`examples/gsm8k_reward.py`)."""
    penalties: dict[RuleName | FunctionName, NonNegativeFloat] = {}
    """What is subtracted from the score of a response for each defect that a rule finds, for example `{repetition: 0.5}`."""
    kl_coefficient: NonNegativeFloat = 0.2
    """The weight of the KL penalty. With 0, the KL divergence is not measured, which saves a pass of the reference. Source: arXiv
    1909.08593, equation 2; arXiv 2403.17031 uses 0.05."""
    kl_in: Literal["reward", "loss"] | None = None
    """Where the KL penalty is: in the reward of each token, or in the loss. None means `loss` for `grpo` and `reward` for the others. In
    the reward, `grpo` would divide the noise of the KL divergence by the group's standard deviation. Source: arXiv 1909.08593, equation 2
    (reward); arXiv 2402.03300, equation 3 (loss)."""
    kl_estimator: Literal["k1", "k2", "k3"] | None = None
    """How the KL divergence of a token is estimated. None means `k1` in the reward and `k3` in the loss. `k1` is refused in the loss, where
    its gradient is 0 on average; `k2` has the exact one there. Source: Schulman, "Approximating KL divergence", 2020; arXiv 2402.03300,
    equation 4 (k3); arXiv 2510.01555 (gradients)."""
    kl_target: PositiveFloat | None = None
    """If set, `kl_coefficient` is adapted so that the KL divergence of a response, in nats, approaches this value. None keeps it fixed.
    Source: arXiv 1909.08593, section 2.2."""
    kl_horizon: PositiveInt = 10_000
    """The larger this number, the more slowly `kl_coefficient` is adapted. Source: arXiv 1909.08593, section 2.2."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Only for `grpo`: by which standard deviation of the rewards advantages are divided: that of the prompt's responses, that of the whole
    batch, or none. Source: arXiv 2402.03300, section 4.1.2 (group); arXiv 2508.08221 (batch); Dr. GRPO, arXiv 2503.20783, section 3.2
    (none)."""
    whiten_rewards: bool = False
    """Whether rewards are scaled to variance 1. Their mean is not shifted."""
    whiten_advantages: bool = True
    """Only for `gae`: whether advantages are shifted and scaled to mean 0 and variance 1. Source: arXiv 2403.17031."""
    missing_end_penalty: NonNegativeFloat = 1.0
    """Subtracted from the score of a response that has no end token. Source: arXiv 2403.17031, section 7 ("EOS trick"), in TRL's form."""
    recompute_logprobs: bool = False
    """Whether the log-probabilities and values of a batch are computed again after sampling. `false` keeps those from sampling, which are
    rounded differently: they differ by about 1e-6 in float32 and by 1e-2 in bfloat16. `true` makes the first ratio 1."""
    init: Literal["sft", "last", "interpolate", "selected"] = "last"
    """Where the policy of a round starts: from the SFT adapter, from the last round's policy, from an interpolation of both, or from the
    SFT policy that was fine-tuned on the kept completions (`keep`). Source: arXiv 2505.18126, where `sft` is best of the first three."""
    interpolate_weight: Fraction = 0.5
    """Only for `init: interpolate`: the weight of the last round's policy. The SFT adapter has the rest."""
    reference: Literal["sft", "start"] = "start"
    """From where PPO measures the KL divergence: from the SFT policy, or from where PPO starts in this round. `evaluate` always measures it
    from the SFT policy."""

    evaluate_every: Annotated[int, Field(ge=0)] = 10
    """After how many updates the policy is looked at on held-out prompts (`heldout.jsonl`); also after half as many, after the last one,
    and sooner if the policy moves fast. This changes nothing that is trained. 0 leaves it out."""
    evaluate_prompts: PositiveInt = 32
    """On how many held-out prompts. Each gets two answers."""
    guard: Literal["warn", "stop", "best"] = "warn"
    """What is done if the policy then seems to exploit its reward (`docs/win-rate.md`). `warn` says so and goes on. `stop` ends PPO of this
    round. `best` ends it and goes back to the last policy that was looked at without an alarm."""

    @property
    def has_critic(self) -> bool:
        """Whether values are learned. `rloo` and `grpo` compare responses instead."""
        return self.advantage == "gae"

    @property
    def kl_is_in_loss(self) -> bool:
        """Whether the KL penalty is in the loss, and not in the rewards (`kl_in`)."""
        return (self.kl_in or ("loss" if self.advantage == "grpo" else "reward")) == "loss"

    @property
    def kl_estimator_used(self) -> str:
        """The estimator of the KL divergence (`kl_estimator`)."""
        return self.kl_estimator or ("k3" if self.kl_is_in_loss else "k1")

    @model_validator(mode="after")
    def _options_fit_together(self) -> "PPOConfig":
        advantage = f"ppo.advantage is {self.advantage}"
        kl_place = f"ppo.kl_in is {self.kl_in}" if self.kl_in else f"{advantage}, which has the KL penalty there by default"
        rules = (
            (
                self.kl_target is not None and not self.kl_coefficient,
                "ppo.kl_target multiplies ppo.kl_coefficient by a factor in each update, so a coefficient of 0 would stay 0",
                "set ppo.kl_coefficient to the value to start from, for example 0.05",
            ),
            (
                self.kl_target is not None and self.batch_size >= 5 * self.kl_horizon,
                f"ppo.kl_horizon is {self.kl_horizon}, so an update of {self.batch_size} responses (ppo.batch_size) could lower the KL "
                "coefficient to 0 or below, where it would reward moving away",
                f"set ppo.kl_horizon to more than {self.batch_size // 5}, for example 10000",
            ),
            (
                self.kl_is_in_loss and self.kl_estimator == "k1",
                f"ppo.kl_estimator=k1 has a gradient of 0 on average in the loss, and {kl_place}",
                "set ppo.kl_estimator to k2 or k3, or set ppo.kl_in=reward",
            ),
            (
                self.scale_rewards != "group" and self.advantage != "grpo",
                f"ppo.scale_rewards={self.scale_rewards} changes how grpo scales rewards, but {advantage}",
                "remove the setting, or set ppo.advantage=grpo",
            ),
            (
                self.importance_ratio == "sequence" and self.has_critic,
                f"ppo.importance_ratio=sequence needs one advantage for each response, but {advantage}, which has one for each token",
                "remove the setting, or set ppo.advantage to rloo or grpo",
            ),
            (
                self.value_warmup_updates > 0 and not self.has_critic,
                f"ppo.value_warmup_updates trains a critic, but {advantage}, which has none",
                "remove the setting, or set ppo.advantage=gae",
            ),
            (
                self.value_warmup_updates >= self.num_updates > 0,
                f"ppo.value_warmup_updates is {self.value_warmup_updates}, and ppo.num_updates is {self.num_updates}, so the policy would "
                "never be trained",
                "lower the first or raise the second",
            ),
            (
                self.guard != "warn" and not self.evaluate_every,
                f"ppo.guard={self.guard} needs looks at held-out prompts, but ppo.evaluate_every is 0",
                "set ppo.evaluate_every, for example to 10, or set ppo.guard=warn",
            ),
            (
                self.target_kl is not None and self.num_epochs == 1,
                "ppo.target_kl leaves out the later epochs of an update, but ppo.num_epochs is 1",
                "remove the setting, or raise ppo.num_epochs",
            ),
        )
        for is_broken, what, to_do in rules:
            if is_broken:
                raise BadValue(what, to_do)
        return self


class DPOConfig(TrainerSection):
    """Direct preference optimization (DPO), only with `trainer: dpo`. It trains the policy on comparisons and needs no reward model. Each
    round starts from the SFT policy, which is also the reference. Source: arXiv 2305.18290."""

    learning_rate: PositiveFloat = 2e-4
    """The highest learning rate. It rises during the warm-up and then falls linearly to 0. Source: arXiv 2305.18290 uses 1e-6 for a whole
    model; an adapter of a tiny model needs more."""
    num_epochs: PositiveFloat = 2.0
    """How often each pair is used."""
    batch_size: PositiveInt = 32
    """The number of pairs in each optimizer step, over all workers. It must be divisible by `runtime.workers`."""
    beta: PositiveFloat = 0.1
    """How strongly the policy is kept near the SFT policy: a larger value keeps it nearer. Source: arXiv 2305.18290, equation 7 and
    appendix B."""


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
    tokens_per_batch: PositiveInt = 16384
    """The most tokens in one forward pass that scores answers, or that measures log-probabilities outside of PPO. A smaller value saves
    memory. Padding is counted, and no such pass takes more than 128 answers. `docs/performance.md` says how many bytes a token needs."""
    shard_base: bool = False
    """Whether the base model's weights are divided over the workers, for a base that is too large for one GPU. Each worker keeps its part,
    and they put together one layer at a time, in every pass. Sampling is then much slower, and all fast paths are off. It has no effect
    with one worker."""
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] | None = None
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

    @property
    def threads_per_worker(self) -> int:
        """The number of CPU threads that each worker gets on this machine (`threads`)."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)

    @model_validator(mode="after")
    def _one_process_has_one_worker(self) -> "RuntimeConfig":
        if self.executor == "in-process" and self.workers > 1:
            raise BadValue(
                f"runtime.executor=in-process has one worker, but runtime.workers is {self.workers}",
                "set runtime.workers=1, or runtime.executor=ray",
            )
        return self
