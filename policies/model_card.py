"""The files beside an adapter that make it usable elsewhere: the tokenizer, and a model card that says what it is and how to load it.

The card has the same bytes in every run directory, because a base that the run has made is named by its place relative to the adapter.
"""

from pathlib import Path
from typing import Any

from policies.backbone import Backbone

OWN_BASE = "../../setup/base"
"""The place of the embedded base, relative to a stage's directory."""
WHAT = {
    "sft": "The policy after supervised fine-tuning on the chosen completions. PPO starts from it, and its KL penalty refers to it.",
    "policy": "The policy after PPO against the reward model of the same round.",
    "dpo": "The policy after DPO on the pairs that the reward model of the same round was trained on.",
    "refresh": "The SFT policy after fine-tuning on kept completions and original chosen ones. PPO of the next round starts from it.",
    "pmp": "The preference model that has learned from public votes. Reward models of the run start from it. Its scores are raw.",
    "reward": "The reward model that PPO maximized in this round: a higher score means a better completion.",
    "retrain": "The reward model after retraining on original pairs and on comparisons of the rounds so far. The next round uses it.",
}
"""What the adapter is, by the stage that makes it. The stage `policy` makes the one of `dpo` where the config asks for it."""
CHAT = """messages = [{"role": "user", "content": "What colour is a mango?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]"""
PLAIN = """prompt = tokenizer("\\n\\nHuman: What colour is a mango?\\n\\nAssistant:")["input_ids"]"""
"""Bases without a chat template get the form of `tokenization.encode_messages`."""
GENERATE = """import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(folder)
{prompt}
answer = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=32)[0, len(prompt) :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
SCORE = """import json
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
{padding}scale = json.load(open(f"{folder}/normalization.json"))
{prompt}
answer = tokenizer("Yellow.", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
with torch.no_grad():
    raw = model(input_ids=torch.tensor([prompt + answer])).logits[0, 0].item()
print((raw - scale["mean"]) / scale["std"])"""
NO_PADDING = "model.config.get_text_config().pad_token_id = None  # it is the end token, where the score is read\n"
"""transformers reads the score in front of all pad tokens. Some bases pad with the end token."""


def write_card(folder: Path, backbone: Backbone, what: str, round_number: int | None) -> None:
    """Write tokenizer and README.md beside the adapter in `folder`. what: a key of WHAT."""
    backbone.tokenizer.save_pretrained(folder)
    base = OWN_BASE if backbone.name == "embedded" else backbone.name
    pads_with_end = backbone.causal_lm.config.get_text_config().pad_token_id == backbone.tokenizer.eos_token_id
    (folder / "README.md").write_text(card(what, round_number, base, backbone.tokenizer, pads_with_end), encoding="utf-8")


def card(what: str, round_number: int | None, base: str, tokenizer: Any, pads_with_end: bool = False) -> str:
    """Return the text of README.md, with PEFT's front matter. pads_with_end: whether the base's pad token is the end token."""
    is_policy = what in ("sft", "policy", "dpo", "refresh")
    made = "before round 0" if round_number is None else f"in round {round_number}"
    code = (GENERATE if is_policy else SCORE).replace("{prompt}", CHAT if tokenizer.chat_template else PLAIN)
    code = code.replace("{padding}", NO_PADDING if pads_with_end else "")
    scale = (
        ""
        if is_policy
        else "`normalization.json` has the mean and the standard deviation of the scores on samples of the reference policy.\n\n"
    )
    return f"""---
base_model: {base}
library_name: peft
pipeline_tag: {"text-generation" if is_policy else "text-classification"}
tags:
- lora
- {"rlhf" if is_policy else "reward-model"}
---

# {what}, made {made}

{WHAT[what]}

This is a LoRA adapter for the base model `{base}`. `adapter_config.json` names the base by its place on the machine where the run was made.
If the base is in another place on your machine, change `base_model_name_or_path` in your copy of the adapter.

{scale}```python
{code}
```
"""
