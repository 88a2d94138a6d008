"""The model card (README.md) of a promoted policy: what it is, how to load it, what it was trained on, and what was measured.

Names of data and of users are shown as text: they cannot become markup of the card.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from configs.schema import RunConfig
from configs.user_functions import is_function
from loop import __version__
from loop.promotion.base import BaseFacts
from loop.promotion.choosing import Choice, evaluation_stage, policy_stage
from loop.round import BASE, LABEL, data_stage
from loop.store.estimates import Estimate, estimate, estimates
from loop.store.journal import RunState
from loop.store.measures import find_measure
from loop.wording import round_name
from rewards.data.sources import source_kind

SHOWN = (
    "gold",
    "gold_over_sft",
    "gold_over_last",
    "gold_unseen_facts",
    "win_rate",
    "length_controlled_win_rate",
    "win_ties",
    "proxy_gain",
    "kl",
    "length",
    "defects",
    "reward_accuracy",
)
"""The metrics of an evaluation that the card shows, in order."""
WHAT = {
    "sft": "The policy after supervised fine-tuning. No reward model has trained it.",
    "ppo": "A policy that was trained with PPO to get a high score from {scorer}.",
    "dpo": "A policy that was trained with DPO on comparisons of answers.",
}
LOAD = {
    "transformers": """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)""",
    "peft": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder)
model.generation_config = GenerationConfig.from_pretrained(folder)""",
}
CHAT = """messages = [{"role": "user", "content": "What colour is a mango?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]"""
PLAIN = """prompt = tokenizer("What colour is a mango?")["input_ids"]"""


@dataclass(frozen=True)
class Promoted:
    """What a card is about. sources: the accounts of the data. found: what the worker has said. is_adapter: which form was exported."""

    run: str
    config: RunConfig
    config_digest: str
    state: RunState
    choice: Choice
    base: BaseFacts
    sources: Sequence[Mapping[str, Any]]
    found: Mapping[str, Any]
    is_adapter: bool


def card(promoted: Promoted) -> str:
    """The text of README.md."""
    number = promoted.choice.round
    parts = [
        f"---\n{yaml.safe_dump(header(promoted), sort_keys=False, allow_unicode=True)}---",
        f"# {promoted.run}, {round_name(number)}",
        _what(promoted),
        "## Load it",
        _loading(promoted),
        "## Why this round",
        "\n".join(f"- {text(line)}" for line in promoted.choice.lines),
        "## What was measured",
        _measured(promoted),
        "## What it was trained on",
        _data(promoted),
        "## Where it comes from",
        _origin(promoted),
    ]
    return "\n\n".join(parts) + "\n"


def header(promoted: Promoted) -> dict[str, Any]:
    """The metadata, as the hub of Hugging Face reads them. What is not known is left out."""
    base, kind = promoted.base, "adapter" if promoted.is_adapter else "finetune"
    datasets = [source["path"] for source in promoted.sources if source_kind(source["path"]) == "hub"]
    return {
        **({"base_model": base.hub_id, "base_model_relation": kind} if base.hub_id else {}),
        "library_name": "peft" if promoted.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        **({"license": base.licence} if base.licence else {}),
        **({"datasets": datasets} if datasets else {}),
        "tags": ["rlhf", _trainer(promoted), *(["lora"] if promoted.is_adapter else [])],
    }


def _trainer(promoted: Promoted) -> str:
    return "sft" if promoted.choice.round is None else promoted.config.trainer


def _what(promoted: Promoted) -> str:
    base, score = promoted.base, promoted.config.ppo.score
    scorer = f"the function {text(score)}" if is_function(score) else "models that learned from comparisons of answers"
    licence = f"The base's license is {text(base.licence)}." if base.licence else "The license of the base is not known here."
    if promoted.config.base.model == "embedded":
        licence = "The base has no license of its own."
    form = "a LoRA adapter for its base" if promoted.is_adapter else "a whole model: the base with the LoRA adapter added to its weights"
    lines = [f"{WHAT[_trainer(promoted)].format(scorer=scorer)} This is {form}.", f"The base is {text(base.text)}. {licence}"]
    pivot = promoted.config.pivot
    if promoted.config.respond == "pivot":
        reads = (
            f"to prompts in {text(pivot.from_language)}"
            if pivot.prompt == "keep"
            else f"to prompts that were translated from {text(pivot.from_language)}"
        )
        lines.append(f"It answers in {text(pivot.language)} {reads}, and what was measured is of its answers translated back.")
    if rounding := promoted.found.get("rounding"):
        share = f"The weights are in {promoted.config.base.dtype}: rounding to it has changed them by {rounding:.0%} of what the adapter"
        lines.append(f"{share} has changed (in the Frobenius norm). The adapter itself (`loop promote --adapter`) has no such loss.")
    return "\n".join(lines)


def _loading(promoted: Promoted) -> str:
    stops = promoted.config.generation.stop_strings
    stop = f", stop_strings={stops!r}, tokenizer=tokenizer" if stops else ""
    code = [
        "import torch",
        LOAD["peft" if promoted.is_adapter else "transformers"],
        CHAT if promoted.found["has_template"] else PLAIN,
        f"answer = model.generate(input_ids=torch.tensor([prompt]){stop})[0, len(prompt) :]",
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]
    ends = ", ".join(f"`{end}`" for end in promoted.found["end_tokens"])
    generation = promoted.config.generation
    notes = [
        "`generation_config.json` says how the run sampled, so `generate` samples like that if it is told nothing else: "
        f"temperature {generation.temperature:g}, at most {generation.max_new_tokens} new tokens, end at {ends}.",
    ]
    if stops:
        notes.append(f"The run also ended an answer at {text(repr(stops))}, which programs have to be told as above.")
    if promoted.is_adapter:
        notes.append("`adapter_config.json` names the base by its place. Change `base_model_name_or_path` where that is another one.")
    return "```python\n" + "\n".join(code) + "\n```\n\n" + "\n".join(notes)


def _measured(promoted: Promoted) -> str:
    number = promoted.choice.round
    now = promoted.state.stage(evaluation_stage(number).name, number).metrics
    rows = [f"| {text(label)} | {found.mean:.2f} | {found.interval_text() or '-'} | {found.size or '-'} |" for label, found in _shown(now)]
    if not rows:
        return "This policy has not been evaluated."
    before = "Prompts that nothing was trained on; `over` means a difference that is taken prompt by prompt."
    return "\n".join([before, "", "| figure | value | 95% interval | values |", "| --- | ---: | ---: | ---: |", *rows])


def _shown(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Estimate]]:
    """The shown figures with their names: `gold`, or `win_rate: sft` for a part of one. The meaning stands behind the name."""
    for name in SHOWN:
        measure = find_measure(name)
        meaning = f" ({measure.meaning}, {measure.unit})" if measure else ""
        value = metrics.get(name)
        if whole := estimate(value):
            yield f"{name}{meaning}", whole
        else:
            yield from ((f"{name}: {part}{meaning}", found) for part, found in estimates(value).items())


def _data(promoted: Promoted) -> str:
    config, state, number = promoted.config, promoted.state, promoted.choice.round
    pairs = state.stage(data_stage(config).name, None).metrics.get("pairs")
    lines = [f"{pairs} original pairs." if pairs is not None else "Original pairs."]
    if config.data.source == "embedded":
        lines.append("They are from the embedded world of loop, which a program writes (Apache-2.0).")
    if number:
        labels = [state.stage(LABEL.name, r).metrics for r in range(number)]
        comparisons = sum(found.get("comparisons", 0) - found.get("heldout", 0) for found in labels)  # held-out ones only judge
        lines.append(f"{comparisons} comparisons of the policies' answers in the rounds before, by {text(config.labeler.kind)}.")
    if promoted.sources:
        lines += ["", "| source | license | rows | pairs | prompts | answers |", "| --- | --- | ---: | ---: | ---: | ---: |"]
        for source in promoted.sources:
            counts = " | ".join(str(source.get(name, "-")) for name in ("rows", "pairs", "prompts", "answers"))
            lines.append(f"| {text(source['name'])} | {text(source['licence']) or 'not known'} | {counts} |")
    return "\n".join(lines)


def _origin(promoted: Promoted) -> str:
    number, state = promoted.choice.round, promoted.state
    policy, base = state.stage(policy_stage(number).name, number), state.stage(BASE.name, None)
    rows = {
        "made by": f"loop {__version__}",
        "run, round": f"{promoted.run}, {round_name(number)} of {state.num_rounds} rounds",
        "SHA-256 of the run's config.yaml": promoted.config_digest,
        "digest of the policy": policy.digest,
        "digest of the base": base.digest,
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text(str(value))} |" for name, value in rows.items())])


def text(words: str) -> str:
    """Words that stay text in Markdown and in HTML, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(words.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
