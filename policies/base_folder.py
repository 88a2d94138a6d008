"""What can be told of a base model without loading it: from the plain JSON files of its folder. Must never import an ML library.

The driver looks here before Ray starts. What only transformers can tell (a model of the hub, a tokenizer's special tokens) is
checked by the `base` stage, in `backbone.py`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import DataConfig, RunConfig

MAX_POSITIONS = 1024
"""Of the embedded base."""
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
"""What architectures call the longest sequence that they can read. Those without a limit have none of them."""
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json", "*.tiktoken")
WEIGHT_FILES = ("*.safetensors", "*.bin")
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Tokenizer classes that have no special tokens of their own."""


def check_base(config: RunConfig, where: str) -> None:
    """Raises UserError where the base cannot work: no model there, no tokenizer, too few positions. `where`: what named it.

    A hub id passes: nothing of it is here yet.
    """
    model = config.base.model
    if model == "embedded":
        check_positions({POSITIONS[0]: MAX_POSITIONS}, config.data, "the embedded base")
    elif os.path.isdir(model):
        _check_folder(Path(model), config, where)
    elif os.path.exists(model):
        raise UserError(f"the base is a file: {model}", where, "give the folder that holds config.json, the weights and the tokenizer")
    elif model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise UserError(f"the base's folder does not exist: {model}", where, f"check the path, from {os.getcwd()}, or give a hub id")


def check_architecture(found: Mapping[str, Any], where: str) -> None:
    """Raises UserError if a model's config.json does not declare a decoder-only language model."""
    declared = " ".join(found.get("architectures") or [])
    if found.get("is_encoder_decoder") or (declared and "CausalLM" not in declared and "LMHead" not in declared):
        kind = declared or found.get("model_type", "an encoder and a decoder")
        raise UserError(f"the base is not a causal language model ({kind})", where, "choose a decoder-only model")


def check_positions(found: Mapping[str, Any], limits: DataConfig, model: str) -> None:
    """Raises UserError if the longest prompt and completion that `limits` allows are more tokens than the model can read."""
    text: Mapping[str, Any] = found.get("text_config") or found
    positions = next((int(text[name]) for name in POSITIONS if text.get(name)), None)
    longest = limits.max_prompt_tokens + limits.max_completion_tokens
    if positions is not None and longest > positions:
        raise UserError(
            f"{model} reads at most {positions} tokens, and a prompt with its completion may have {longest}",
            f"data.max_prompt_tokens={limits.max_prompt_tokens}, data.max_completion_tokens={limits.max_completion_tokens}",
            f"lower them until together they are at most {positions}",
        )


def _check_folder(folder: Path, config: RunConfig, where: str) -> None:
    if (folder / "adapter_config.json").exists():
        merge = "merge it into its base and save that (PEFT: merge_and_unload, then save_pretrained)"
        raise UserError(f"the base is an adapter, not a model: {folder}", where, merge)
    if not (folder / "config.json").exists():
        raise UserError(f"there is no config.json in the base's folder: {folder}", where, "give a folder that save_pretrained wrote")
    found = _read_json(folder / "config.json")
    check_architecture(found, where)
    if not _has(folder, WEIGHT_FILES):
        raise UserError(f"there are no weights in the base's folder: {folder}", where, "put model.safetensors there")
    if not _has(folder, TOKENIZER_FILES) and not config.base.trust_remote_code:
        raise UserError(f"there is no tokenizer in the base's folder: {folder}", where, "save it there: tokenizer.save_pretrained(folder)")
    settings = _read_json(folder / "tokenizer_config.json") | _read_json(folder / "special_tokens_map.json")
    if settings.get("tokenizer_class") in PLAIN_TOKENIZERS and not settings.get("eos_token"):
        raise no_end_token(where)
    check_positions(found, config.data, str(folder))


def no_end_token(where: str) -> UserError:
    return UserError(
        "the base's tokenizer has no end token, so no answer could end", where, "set its eos_token and save it (save_pretrained)"
    )


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is no file. Raises UserError for anything else."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read: {(str(error).splitlines() or [''])[0]}", str(path), "save the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is not a JSON object", str(path), "save the model again")
    return found
