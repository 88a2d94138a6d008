"""The whole config of a run: all groups of settings together, and the checks on settings that must fit together.

The settings themselves are in `sections.py`, `data.py`, `curation.py`, `pretraining.py`, `judging.py`, `endpoints.py` and `pivot.py`, and
`docs/configuration.md` lists them. This module must never import an ML library, and it reads no file: `loading.py` does that.
"""

from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from configs.curation import CurationConfig
from configs.data import DataConfig
from configs.endpoints import JudgeConfig
from configs.fields import RUN_TIME, BadValue, Section, check_name
from configs.judging import EvaluateConfig, KeepConfig, LabelerConfig, RetrainConfig, RulesConfig, SampleConfig, SelectConfig
from configs.pivot import PivotConfig
from configs.pretraining import PMPConfig
from configs.sections import (
    BaseConfig,
    DPOConfig,
    GenerationConfig,
    LoraSection,
    PPOConfig,
    RewardConfig,
    RuntimeConfig,
    TrainerSection,
)

SHORT_FORMS = {"base": "model", "data": "source"}
"""`base: X` means `base: {model: X}`, and `data: X` means `data: {source: X}`."""


class RunConfig(Section):
    """Everything that defines a run."""

    name: Annotated[str, AfterValidator(check_name), RUN_TIME] = "embedded"
    """The name of the run and of its directory. The option `--name` sets it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """All random numbers of the run are derived from this number."""
    num_rounds: Annotated[PositiveInt, RUN_TIME] = 2
    """How many rounds there are in all. The option `--rounds` sets it."""
    trainer: Literal["ppo", "dpo"] = "ppo"
    """How the policy of a round is trained: by PPO (`ppo`), or by DPO on the comparisons that the round's reward model was trained on
    (`dpo`). All other stages are the same, so the two can be compared. With `dpo`, the policy does not depend on the settings of `ppo`."""
    respond: Literal["direct", "pivot"] = "direct"
    """How prompts are answered: in their own language (`direct`), or by way of another one (`pivot`): the prompt is translated, the policy
    answers in the pivot language, and the answer is translated back. `docs/across-languages.md` says when that pays."""
    report_to: Annotated[list[Literal["tensorboard", "trackio", "wandb", "mlflow"]], RUN_TIME] = []
    """Trackers that are told the figures of the run, besides its own directory. Each needs its library: `pip install
    'loop-rlhf[tensorboard]'`. `docs/watching.md` says where they write."""
    base: BaseConfig = BaseConfig()
    data: DataConfig = DataConfig()
    curation: CurationConfig = CurationConfig()
    pivot: PivotConfig = PivotConfig()
    lora: LoraSection = LoraSection()
    generation: GenerationConfig = GenerationConfig()
    sft: TrainerSection = TrainerSection()
    pmp: PMPConfig = PMPConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    dpo: DPOConfig = DPOConfig()
    rules: RulesConfig = RulesConfig()
    sample: SampleConfig = SampleConfig()
    labeler: LabelerConfig = LabelerConfig()
    judge: JudgeConfig = JudgeConfig()
    retrain: RetrainConfig = RetrainConfig()
    select: SelectConfig = SelectConfig()
    keep: KeepConfig = KeepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: Annotated[RuntimeConfig, RUN_TIME] = RuntimeConfig()

    @model_validator(mode="before")
    @classmethod
    def _expand_short_forms(cls, values: Any) -> Any:
        """Expand SHORT_FORMS."""
        if isinstance(values, dict):
            short = {key: name for key, name in SHORT_FORMS.items() if isinstance(values.get(key), str | list)}
            values = values | {key: {name: values[key]} for key, name in short.items()}
        return values

    @model_validator(mode="after")
    def _check_lengths(self) -> "RunConfig":
        new, limit = self.generation.max_new_tokens, self.data.max_completion_tokens
        if new > limit:
            raise BadValue(
                f"generation.max_new_tokens is {new}, but data.max_completion_tokens allows completions of only {limit} tokens",
                f"set generation.max_new_tokens={limit} or data.max_completion_tokens={new}",
            )
        return self

    @model_validator(mode="after")
    def _check_base(self) -> "RunConfig":
        hidden, pairs = self.base.hidden_size, 2 * self.base.num_heads  # the rotary embedding turns pairs of numbers
        if self.base.model == "embedded" and hidden % pairs:
            raise BadValue(
                f"base.hidden_size={hidden} cannot be divided among base.num_heads={self.base.num_heads} heads of an even size",
                f"change one of them, for example base.hidden_size={_round_up(hidden, pairs)}",
            )
        return self

    @model_validator(mode="after")
    def _check_lora(self) -> "RunConfig":
        target = self.lora.target_modules
        if self.lora.layers == "upper-half" and isinstance(target, str) and target != "all-linear":
            raise BadValue(
                f"lora.layers=upper-half needs the names of layers, but lora.target_modules is the pattern {target!r}",
                "give a list of names, for example lora.target_modules='[q_proj, v_proj]', or set lora.layers=all",
            )
        return self

    @model_validator(mode="after")
    def _check_ppo(self) -> "RunConfig":
        ppo, workers = self.ppo, self.runtime.workers
        for name in ("num_minibatches", "samples_per_prompt"):
            parts = getattr(ppo, name) * workers
            if ppo.batch_size % parts:
                raise BadValue(
                    f"ppo.batch_size must be divisible by ppo.{name} x runtime.workers, but {ppo.batch_size} is not divisible by {parts}",
                    f"change one of them, for example ppo.batch_size={_round_up(ppo.batch_size, parts)}",
                )
        if ppo.advantage != "gae" and ppo.samples_per_prompt < 2:
            raise BadValue(
                f"ppo.advantage={ppo.advantage} compares responses to the same prompt, but ppo.samples_per_prompt is 1",
                "set ppo.samples_per_prompt to 2 or more",
            )
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> "RunConfig":
        workers = self.runtime.workers
        sizes = {f"{name}.batch_size": getattr(self, name).batch_size for name in ("sft", "pmp", "reward", "dpo", "select", "keep")}
        if self.base.model == "embedded":
            sizes["base.pretraining_batch_size"] = self.base.pretraining_batch_size
        for name, size in sizes.items():
            if size % workers:
                raise BadValue(
                    f"{name} must be divisible by runtime.workers, but {size} is not divisible by {workers}",
                    f"change one of them, for example {name}={_round_up(size, workers)}",
                )
        return self

    @model_validator(mode="after")
    def _check_reward_init(self) -> "RunConfig":
        if self.reward.init == "pmp" and not self.pmp.sources:
            raise BadValue(
                "reward.init=pmp starts reward models from votes, but pmp.sources names none",
                "name sources of votes, for example pmp.sources='[{path: votes.jsonl}]', or set reward.init=sft",
            )
        return self

    @property
    def uses_pmp(self) -> bool:
        """Whether the run's reward models start from preference-model pretraining."""
        return bool(self.pmp.sources) and self.reward.init != "sft"

    @property
    def is_refreshed(self) -> bool:
        """Whether PPO of the next round starts from the SFT policy that was fine-tuned on the kept completions."""
        return self.trainer == "ppo" and self.ppo.init == "selected"

    @model_validator(mode="after")
    def _check_sharding(self) -> "RunConfig":
        if self.runtime.shard_base and self.base.quantization != "none":
            raise BadValue(
                f"runtime.shard_base divides plain weights only, but base.quantization is {self.base.quantization}",
                "set base.quantization=none or runtime.shard_base=false",
            )
        return self

    @model_validator(mode="after")
    def _check_labeler(self) -> "RunConfig":
        if "gold" in self.labeler.kinds and self.data.source != "embedded":
            raise BadValue(
                "labeler.kind=gold works with the embedded world only, but data.source names other data",
                "with your own data, choose labeler.kind=preferences-file or labeler.kind=reward-model",
            )
        if "reward-model" in self.labeler.kinds and not (self.labeler.model or self.data.labeler_fraction):
            raise BadValue(
                "labeler.kind=reward-model is trained on a part of the pairs, but data.labeler_fraction is 0",
                "set it, for example data.labeler_fraction=0.5, or name a model that is trained already: labeler.model=FOLDER",
            )
        if self.labeler.model and self.data.labeler_fraction:
            raise BadValue(
                f"data.labeler_fraction={self.data.labeler_fraction:g} keeps pairs for a labeler that the run trains, but labeler.model "
                "names one that is trained already, so nobody would use these pairs",
                "set data.labeler_fraction=0, or leave out labeler.model",
            )
        return self

    @model_validator(mode="after")
    def _check_pivot(self) -> "RunConfig":
        if self.respond == "direct":
            return self
        if self.pivot.translator == "dictionary" and self.data.source != "embedded":
            raise BadValue(
                "pivot.translator=dictionary knows the embedded world only, but data.source names other data",
                "choose pivot.translator=seq2seq or pivot.translator=http",
            )
        if self.rules.expected_language not in ("same", "any"):
            raise BadValue(
                f"rules.expected_language={self.rules.expected_language} cannot hold for two languages at once, and respond is pivot",
                "leave it out: shown answers are then expected in the language of the question, and others in the pivot language",
            )
        return self


MAPPINGS = {
    (group, name)
    for group, section in RunConfig.model_fields.items()
    for name, setting in getattr(section.annotation, "model_fields", {}).items()
    if get_origin(setting.annotation) is dict
}
"""The settings whose value is a mapping of names, such as `ppo.penalties`, and not a group of settings."""


def _round_up(number: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is not smaller than `number`."""
    return -(-number // divisor) * divisor
