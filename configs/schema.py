"""Every setting of a run, with its default, its meaning and, where one is published, its source.

The defaults here are those of the embedded world; the presets beside this file change what a larger model needs.
Must never import an ML library, nor read a file: `loading.py` does.
"""

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
RUN_TIME = "run time"
"""Marks a setting that says how a run is computed and not what: it may change between two starts of one run and is in no stage's key.
What is computed stays the same, up to the order in which float numbers are added."""
MicroBatchSize = Annotated[PositiveInt | None, RUN_TIME]
"""Rows in one forward pass of one worker; None: all rows of the batch that are this worker's. A smaller one saves memory. Sums over rows
are then added in another order, so trained weights may differ in their last bits."""
SHORT_FORMS = {"base": "model", "data": "source"}
"""`base: X` means `base: {model: X}`, `data: X` means `data: {source: X}`."""

MAX_NAME_BYTES = 100
"""File systems allow 255, and Ray's actors and forks add to the name."""


class BadValue(ValueError):
    """What is wrong with one value or with some that do not go together, and what to do about it."""

    def __init__(self, what: str, to_do: str):
        super().__init__(what)
        self.to_do = to_do


def check_name(name: str) -> str:
    """A run's name, which is also the name of its directory. Raises BadValue."""
    odd = [letter for letter in name if letter not in "-_." and unicodedata.category(letter)[0] not in "LMN"]
    if odd or not name or name[0] in "-." or len(name.encode()) > MAX_NAME_BYTES:
        what = f"not a run name: {name!r}" + (f" ({odd[0]!r} may not be in it)" if odd else "")
        raise BadValue(what, f"use letters, digits, -, _ and ., at most {MAX_NAME_BYTES} bytes, without - or . in front")
    return name


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values are fixed once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would take `true` (which YAML also makes of `yes` and `on`) for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("no_truth", "something else than true or false")
        return value


class BaseConfig(Section):
    """The frozen base model that every role shares."""

    model: str = "embedded"
    """`embedded` (a tiny Llama trained here, no download), a hub id, or a folder with a `from_pretrained` model."""
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "nf4"] = "none"
    """nf4: 4-bit weights by bitsandbytes (QLoRA, arXiv 2305.14314)."""
    gradient_checkpointing: Annotated[bool, RUN_TIME] = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    pretraining_texts: list[Literal["world", "chosen"]] = ["world"]
    """For `embedded` only: what the tiny base reads. `chosen` adds the chosen texts of the training pairs."""
    pretraining_steps: PositiveInt = 300
    pretraining_batch_size: PositiveInt = 16
    pretraining_learning_rate: PositiveFloat = 4e-3
    vocabulary_size: PositiveInt = 1536
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4


class LoraSection(Section):
    """The adapter that each role gets (LoRA, arXiv 2106.09685)."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    layers: Literal["all", "upper-half"] = "all"
    target_modules: str | list[str] = "all-linear"


class DataConfig(Section):
    """The original preference pairs."""

    source: str | list[str] = "embedded"
    """`embedded`, a hub id, or one or more .jsonl/.json/.parquet/.csv files (may be gzipped)."""
    split: str = "train"
    heldout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.22
    """Share of the prompts that nothing is trained on, in any round: by opening and `seed`, so that no dialogue is on both sides."""
    max_pairs: PositiveInt | None = None
    max_prompt_tokens: PositiveInt = 64
    """A longer prompt is left out, with its pairs. Token counts are those of the base's tokenizer, its chat template included."""
    max_completion_tokens: PositiveInt = 64
    """Pairs with a longer completion are left out. `generation.max_new_tokens` may not be larger."""
    bad_rows: Literal["skip", "refuse"] = "skip"
    """A row with an empty or non-string answer: counted and skipped, or the run is refused."""
    labeler_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the pairs kept away from the run, to train `labeler.kind: reward-model` on."""
    num_pairs: PositiveInt = 2000
    """For `embedded` only: how many original pairs are drawn."""


class TrainerSection(Section):
    """Settings of a supervised stage; TRL's names."""

    learning_rate: PositiveFloat = 1e-3
    num_epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 64
    micro_batch_size: MicroBatchSize = None
    warmup_ratio: Fraction = 0.05


class RewardConfig(TrainerSection):
    """The reward model: an adapter and a linear head on the last token, trained by TRL's RewardTrainer."""

    num_epochs: PositiveFloat = 2.0
    batch_size: PositiveInt = 16
    normalization_samples: Annotated[int, Field(ge=2)] = 256
    """Reference-policy samples on which scores are shifted and scaled to mean 0, std 1 (arXiv 2403.17031, section 6)."""
    ensemble: Literal["last", "mean", "min"] = "last"
    """How the reward models of all rounds so far are joined for PPO (arXiv 2505.18126: `last` wins)."""


class GenerationConfig(Section):
    """How completions are drawn. The defaults sample from the model's own distribution."""

    temperature: PositiveFloat = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: PositiveInt = 32
    batch_size: Annotated[PositiveInt, RUN_TIME] = 128
    """Rows decoded together. It has no influence on what is sampled; the log-probs that PPO keeps may differ in their last bits."""


class PPOConfig(Section):
    """Proximal policy optimisation (arXiv 1707.06347) with the details of arXiv 2403.17031."""

    num_updates: PositiveInt = 40
    batch_size: PositiveInt = 64
    """Responses of an update, over all workers."""
    advantage: Literal["gae", "rloo", "grpo"] = "gae"
    """gae: with a critic (arXiv 1506.02438). Without one, a response is compared with the others to its prompt: rloo (their mean,
    arXiv 2402.14740), grpo (mean and standard deviation of the group, arXiv 2402.03300)."""
    samples_per_prompt: PositiveInt = 1
    """Responses to each prompt of a batch; rloo and grpo need two or more."""
    num_epochs: PositiveInt = 2
    num_minibatches: PositiveInt = 2
    micro_batch_size: MicroBatchSize = None
    learning_rate: PositiveFloat = 4e-4
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    adam_epsilon: PositiveFloat = 1e-5
    max_grad_norm: PositiveFloat = 1.0
    gamma: Fraction = 1.0
    gae_lambda: Fraction = 0.95
    clip_range: PositiveFloat = 0.2
    value_clip_range: PositiveFloat = 0.2
    value_coefficient: NonNegativeFloat = 0.1
    value_model: Literal["head", "adapter"] = "head"
    """`head`: linear head on the policy's own hidden states; `adapter`: an adapter of its own. Both start as the reward model."""
    kl_coefficient: NonNegativeFloat = 0.2
    kl_estimator: Literal["k1", "k3"] = "k1"
    kl_target: PositiveFloat | None = None
    """Nats per response. Set: adaptive controller (arXiv 1909.08593, section 2.2); None: `kl_coefficient` stays fixed."""
    kl_horizon: PositiveInt = 10_000
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    """For gae only."""
    missing_end_penalty: NonNegativeFloat = 1.0
    """Subtracted from the score of a response without an end token (the "EOS trick" of arXiv 2403.17031, section 7, in TRL's form)."""
    recompute_logprobs: bool = False
    """Log-probs and values of a rollout: kept from sampling (False), or computed once more by the code that trains. Sampling merges
    the adapter into the weights; that differs by about 1e-6 in float32, by 1e-2 in bfloat16, where True makes the first ratio 1."""
    init: Literal["sft", "last", "interpolate"] = "sft"
    interpolate_weight: Fraction = 0.5
    """For `init: interpolate`: the last round's share; the SFT adapter has the rest."""


class SampleConfig(Section):
    """What the policy is asked after PPO, for the labeler."""

    num_prompts: Annotated[int, Field(ge=2)] = 450
    heldout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of these prompts that are held-out ones (`data.heldout_fraction`): their comparisons judge reward model and selector."""
    num_completions: Annotated[int, Field(ge=2)] = 4
    earlier_fraction: Fraction = 0.0
    """Share of the prompts that are also answered by the round before's policy."""


class LabelerConfig(Section):
    """Who says which of two completions is better."""

    kind: Literal["gold", "preferences-file", "reward-model"] = "gold"
    path: str | None = None
    """For `preferences-file`: JSONL; `{round}` in the path is replaced by the round's number. Without it, one file serves all rounds."""
    pairs_per_prompt: PositiveInt = 4

    @model_validator(mode="after")
    def _needs_path(self) -> "LabelerConfig":
        if self.kind == "preferences-file" and not self.path:
            raise BadValue(
                "labeler.kind preferences-file needs labeler.path",
                "say where the labels will be: labeler.path='labels/round-{round}.jsonl'",
            )
        return self


class RetrainConfig(Section):
    """What the next reward model is trained on."""

    data: Literal["concat", "last", "sample"] = "concat"
    """concat: original + every generation; last: this round only; sample: `mixture_pairs` drawn from all of it."""
    mixture_pairs: PositiveInt = 2600
    init: Literal["sft", "last"] = "last"
    """Where it starts: the SFT adapter with a new head, or this round's reward model. `last` goes on learning what one pass left."""


class SelectConfig(TrainerSection):
    """The selector: given a prompt's candidates, which one will be preferred? Softmax over the candidates."""

    num_epochs: PositiveFloat = 2.0
    batch_size: PositiveInt = 16
    init: Literal["sft", "reward"] = "reward"
    """What the selector's adapter starts from."""


class EvaluateConfig(Section):
    """Held-out prompts on which every policy is measured."""

    num_prompts: PositiveInt = 512


class RuntimeConfig(Section):
    """Where things run. Changing these does not change what is computed, beyond float summation order."""

    address: str | None = None
    """Ray cluster to join: None starts one here, `auto` joins the running one, or host:port."""
    workers: PositiveInt = 1
    threads: PositiveInt | None = None
    """CPU threads of a worker; None: all cores divided by the workers."""
    dashboard_port: PositiveInt | None = None
    """None: Ray's 8265, or the next free one."""
    checkpoint_seconds: NonNegativeFloat = 30.0
    """Between two saves inside a stage: what a kill can cost. Saving takes at most 2 % of the time, so a slow disk saves less often."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often a stage goes on with new workers after one has died or hung."""
    hang_seconds: PositiveFloat = 120.0
    """A worker that gives no sign of life for so long is replaced."""


class RunConfig(Section):
    """Everything that defines a run."""

    name: Annotated[str, AfterValidator(check_name), RUN_TIME] = "embedded"
    seed: Annotated[int, Field(ge=0)] = 0
    num_rounds: Annotated[PositiveInt, RUN_TIME] = 2
    base: BaseConfig = BaseConfig()
    data: DataConfig = DataConfig()
    lora: LoraSection = LoraSection()
    generation: GenerationConfig = GenerationConfig()
    sft: TrainerSection = TrainerSection()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    sample: SampleConfig = SampleConfig()
    labeler: LabelerConfig = LabelerConfig()
    retrain: RetrainConfig = RetrainConfig()
    select: SelectConfig = SelectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: Annotated[RuntimeConfig, RUN_TIME] = RuntimeConfig()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """See SHORT_FORMS."""
        if isinstance(values, dict):
            short = {key: name for key, name in SHORT_FORMS.items() if isinstance(values.get(key), str | list)}
            values = values | {key: {name: values[key]} for key, name in short.items()}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        new, limit = self.generation.max_new_tokens, self.data.max_completion_tokens
        if new > limit:
            raise BadValue(
                f"generation.max_new_tokens is {new}, and data.max_completion_tokens is {limit}: no completion may be longer",
                f"set generation.max_new_tokens={limit} or data.max_completion_tokens={new}",
            )
        ppo, workers = self.ppo, self.runtime.workers
        for name in ("num_minibatches", "samples_per_prompt"):
            parts = getattr(ppo, name) * workers
            if ppo.batch_size % parts:
                raise BadValue(
                    f"ppo.batch_size must be divisible by ppo.{name} x runtime.workers, and {ppo.batch_size} is not divisible by {parts}",
                    f"change one of them, for example ppo.batch_size={-(-ppo.batch_size // parts) * parts}",
                )
        if ppo.advantage != "gae" and ppo.samples_per_prompt < 2:
            raise BadValue(
                f"ppo.advantage {ppo.advantage} compares responses to one prompt, and ppo.samples_per_prompt is 1",
                "set ppo.samples_per_prompt to 2 or more",
            )
        sizes = {f"{name}.batch_size": getattr(self, name).batch_size for name in ("sft", "reward", "select")}
        if self.base.model == "embedded":
            sizes["base.pretraining_batch_size"] = self.base.pretraining_batch_size
        for name, size in sizes.items():
            if size % workers:
                raise BadValue(
                    f"{name} must be divisible by runtime.workers, and {size} is not divisible by {workers}",
                    f"change one of them, for example {name}={-(-size // workers) * workers}",
                )
        if self.labeler.kind == "gold" and self.data.source != "embedded":
            raise BadValue(
                "labeler.kind gold knows only the embedded world, and data.source is another",
                "with your own data choose labeler.kind=preferences-file or labeler.kind=reward-model",
            )
        if self.labeler.kind == "reward-model" and not self.data.labeler_fraction:
            raise BadValue(
                "labeler.kind reward-model is trained on a part of the pairs, and data.labeler_fraction is 0",
                "set it, for example data.labeler_fraction=0.5",
            )
        return self
