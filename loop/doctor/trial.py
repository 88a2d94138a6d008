"""A child process, `python -m loop.doctor.trial`: does a few steps of a run on a random model and measures them.

It reads one JSON object from standard input and writes one to standard output (`measuring.py` has both). Nothing imports it, so the
command line stays free of torch. Every part of a run that takes time is one function of `UNITS`, which returns seconds.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from typing import Any

from configs.schema import RunConfig
from loop.doctor.lengths import Lengths
from loop.doctor.needs import SCORING_ROWS
from loop.executors.executor import QUIET_LIBRARIES
from loop.executors.worker import Worker
from policies.shapes import embedded_config

HEAD = 0.01
"""The weights of the random reward model's head."""


def main() -> None:
    """Do what standard input asks for."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not mix with the answer
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    request = json.load(sys.stdin)
    worker = Worker(0, request["threads"])
    worker.ready()
    _warm_up()
    before = _peak_bytes()
    trial = Trial(RunConfig.model_validate(request["config"]), request["model"], Lengths(**request["lengths"]), request["steps"])
    seconds = {unit: UNITS[unit](trial) for unit in request["units"]}
    json.dump({"seconds": seconds, "peak_bytes": _peak_bytes() - before, "program_bytes": before, "paths": asdict(trial.paths)}, answer)


class Trial:
    """A random model, and rows of made-up text that are as long as those of the run."""

    def __init__(self, config: RunConfig, model: dict[str, Any], lengths: Lengths, steps: int):
        """model: the object in the base's config.json. steps: how many steps of a training are timed, after one to warm up."""
        self.config, self.model, self.lengths, self.steps = config, model, lengths, steps

    @cached_property
    def backbone(self) -> Any:
        """The random base with the adapter `sft`."""
        from policies.backbone import Backbone
        from policies.random_model import make_random_model

        base, generation, mean = self.config.base, self.config.generation, self.lengths.mean_completion
        ends = mean if mean < self.lengths.longest_response else None
        model, tokenizer = make_random_model(self.model, base.dtype, generation.temperature, ends)
        backbone = Backbone(model, tokenizer, self.config.lora, "random", base.gradient_checkpointing)
        backbone.add_adapter("sft")
        return backbone

    @cached_property
    def scorer(self) -> Any:
        """A reward model."""
        from rewards.scoring import Scorer

        self.backbone.add_adapter("reward")
        return Scorer(self.backbone, "reward", _head(self.backbone))

    @property
    def paths(self) -> Any:
        """The fast paths of the random model."""
        return self.backbone.fast.paths

    def words(self, tokens: int, seed: int) -> str:
        """A text of this many tokens."""
        from policies.random_model import make_text

        return make_text(tokens, len(self.backbone.tokenizer), seed)

    def prompts(self, count: int, first: int = 0) -> list[list[int]]:
        """The token ids of prompts."""
        return [self.ids(self.words(self.lengths.prompt_at(i, count), first + i)) for i in range(count)]

    def completions(self, count: int) -> list[list[int]]:
        """The token ids of completions, each with its end token."""
        lengths = [max(1, self.lengths.completion_at(i, count) - 1) for i in range(count)]
        return [[*self.ids(self.words(n, count + i)), self.backbone.tokenizer.eos_token_id] for i, n in enumerate(lengths)]

    def ids(self, text: str) -> list[int]:
        return self.backbone.tokenizer(text)["input_ids"]

    def rows(self, count: int) -> list[list[int]]:
        """Prompts with their completions."""
        return [prompt + completion for prompt, completion in zip(self.prompts(count), self.completions(count), strict=True)]


class Stamps:
    """A `Report` that keeps when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, done: int, total: int, metrics: Any = None, texts: Any = (), warning: str = "") -> None:
        self.times.append(time.perf_counter())

    def seconds_of_a_step(self) -> float:
        """The median of all steps but the first. It leaves out a step in which another program was busy."""
        return statistics.median(after - before for before, after in pairwise(self.times))


# -- what is timed ------------------------------------------------------------------------------------------------------


def pretraining(trial: Trial) -> float:
    """A step of the tiny base's training."""
    from policies.random_model import make_random_model
    from policies.tiny_base import BLOCK, pretrain

    base, stamps = trial.config.base, Stamps()
    model, _ = make_random_model(trial.model, base.dtype, 1.0, None)
    blocks = [[token % base.vocabulary_size for token in range(BLOCK)]] * base.pretraining_batch_size
    short = base.model_copy(update={"pretraining_steps": trial.steps + 1})
    pretrain(model, blocks, short, _no_checkpoints(), 0, stamps)
    return stamps.seconds_of_a_step()


def sft(trial: Trial) -> float:
    """A step of SFT."""
    from policies.sft import train_sft

    section, stamps = trial.config.sft, Stamps()
    count = section.batch_size * (trial.steps + 1)
    rows = list(zip(trial.prompts(count), trial.completions(count), strict=True))
    train_sft(trial.backbone, "sft", rows, section.model_copy(update={"num_epochs": 1.0}), _no_checkpoints(), 0, stamps)
    return stamps.seconds_of_a_step()


def reward(trial: Trial) -> float:
    """A step of the reward model's training."""
    from rewards.comparisons import Comparison
    from rewards.reward_model import train_reward_model

    section, stamps = trial.config.reward, Stamps()
    count, lengths = section.batch_size * (trial.steps + 1), trial.lengths
    trial.backbone.add_adapter("reward")
    prompts = [trial.words(lengths.prompt_at(i, count), i) for i in range(count)]
    answers = [trial.words(max(1, lengths.completion_at(i, count) - 1), i) for i in range(count)]
    pairs = [Comparison(str(i), prompt, answer, answer) for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))]
    short = section.model_copy(update={"num_epochs": 1.0})
    train_reward_model(trial.backbone, "reward", pairs, short, _no_checkpoints(), 0, stamps)
    return stamps.seconds_of_a_step()


def policy(trial: Trial) -> float:
    """An update of PPO."""
    from policies.ppo import PPOTrainer, ValueModel
    from policies.responses import EncodedPrompt
    from rewards.scoring import ensemble

    backbone, config, stamps = trial.backbone, trial.config.ppo, Stamps()
    backbone.add_adapter("policy", copy_of="sft")
    adapter = "value" if config.value_model == "adapter" else None
    if adapter:
        backbone.add_adapter(adapter, copy_of="sft")
    value = ValueModel(backbone, _head(backbone), 0.0, adapter)
    score = ensemble([trial.scorer], "last")
    short = config.model_copy(update={"num_updates": trial.steps + 1})
    trainer = PPOTrainer(backbone, value, score, short, trial.config.generation, 0)
    count = config.batch_size // config.samples_per_prompt
    batches = [[EncodedPrompt(ids) for ids in trial.prompts(count, first=update * count)] for update in range(trial.steps + 1)]
    trainer.train(batches, _no_checkpoints(), stamps)
    return stamps.seconds_of_a_step()


def sample(trial: Trial) -> float:
    """A batch of samples."""
    from policies.generation import generate

    backbone, generation = trial.backbone, trial.config.generation
    backbone.add_adapter("policy", copy_of="sft")
    prompts = trial.prompts(generation.batch_size)

    def work() -> None:
        generate(backbone, "policy", prompts, list(range(len(prompts))), generation)

    return _seconds(work, trial.steps)


def score(trial: Trial) -> float:
    """A batch of scores by the reward model."""
    rows = trial.rows(SCORING_ROWS)
    return _seconds(lambda: trial.scorer.score(rows), trial.steps)


def logprobs(trial: Trial) -> float:
    """A batch of log-probabilities under one adapter."""
    from policies.responses import ResponseBatch

    prompts, completions = trial.prompts(SCORING_ROWS), trial.completions(SCORING_ROWS)
    batch = ResponseBatch.from_ids(trial.backbone, prompts, completions)
    rows = max(1, trial.config.runtime.tokens_per_batch // batch.batch.input_ids.shape[1])
    return _seconds(lambda: batch.under("sft", rows), trial.steps)


UNITS: dict[str, Callable[[Trial], float]] = {
    function.__name__: function for function in (pretraining, sft, reward, policy, sample, score, logprobs)
}


def _seconds(work: Callable[[], Any], times: int) -> float:
    """The median time of a call, after one that is not counted."""
    stamps = Stamps()
    for done in range(times + 1):
        work()
        stamps(done, times)
    return stamps.seconds_of_a_step()


def _warm_up() -> None:
    """Have libraries load what they load late, so that it does not count as memory of the model."""
    small = {"base": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "vocabulary_size": 99}, "ppo": {"batch_size": 8}}
    config = RunConfig.model_validate(small)
    trial = Trial(config, embedded_config(config.base), Lengths(4, 4, 4, 4, 4), steps=1)
    for unit in (sft, reward, policy):
        unit(trial)


def _head(backbone: Any) -> Any:
    """A linear head [1, H]."""
    return backbone.causal_lm.get_input_embeddings().weight.new_full((1, backbone.hidden_size), HEAD).float()


def _no_checkpoints() -> Any:
    from policies.checkpoints import Checkpoints

    return Checkpoints()


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
