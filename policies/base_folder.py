"""Checks of a base model that need no ML library, only the JSON files in its folder.

The driver runs them before Ray starts. What only transformers can check (a model on the hub, the special tokens of a tokenizer) is checked
by the `base` stage, with `loading.py`.
"""

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.data import DataConfig
from configs.errors import UserError
from configs.schema import RunConfig
from policies.named_bases import NAMED_BASES

MAX_POSITIONS = 1024
"""Positions of the embedded base."""
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
"""Names that architectures use for the longest sequence that they can read. Architectures without a limit have none of them."""
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json", "*.tiktoken")
WEIGHT_FILES = ("*.safetensors", "*.bin")
RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
"""Model types that have a state in place of keys and values. Padding in front of a prompt would change it."""
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Tokenizer classes that have no special tokens of their own."""


def check_base(config: RunConfig, where: str) -> None:
    """Raise UserError if the base cannot work: no model, no tokenizer, too few positions, or no library for its weights.

    A model on the hub is not looked at. where: the setting or file that names the base.
    """
    model = config.base.model
    if config.base.quantization == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        to_do = "install it with `pip install bitsandbytes`, or set base.quantization=none"
        raise UserError("base.quantization=nf4 needs bitsandbytes, which is not installed", where, to_do)
    if model == "embedded":
        check_positions({POSITIONS[0]: MAX_POSITIONS}, config.data, "the embedded base")
    elif named := NAMED_BASES.get(model):
        if not named.folder.is_dir():
            named.find_file(where)
        check_positions({POSITIONS[0]: named.positions}, config.data, model)
    elif os.path.isdir(model):
        _check_folder(Path(model), config, where)
    elif os.path.exists(model):
        raise UserError(f"the base is a file: {model}", where, "give the folder that holds config.json, the weights and the tokenizer")
    elif looks_like_a_path(model):
        raise UserError(f"the base's folder does not exist: {model}", where, f"check the path, from {os.getcwd()}, or give a hub id")


def check_architecture(found: Mapping[str, Any], where: str) -> None:
    """Raise UserError if a model's config.json does not declare a decoder-only language model with attention."""
    declared = " ".join(found.get("architectures") or [])
    if found.get("is_encoder_decoder") or (declared and "CausalLM" not in declared and "LMHead" not in declared):
        kind = declared or found.get("model_type", "an encoder and a decoder")
        raise UserError(f"the base is not a causal language model ({kind})", where, "choose a decoder-only model")
    if (kind := found.get("model_type")) in RECURRENT:
        why = "without keys and values prompts of several lengths cannot be answered in one batch"
        raise UserError(f"the base is a recurrent model ({kind}): {why}", where, "choose a model with attention, such as Llama or Qwen")


def check_positions(found: Mapping[str, Any], limits: DataConfig, model: str) -> None:
    """Raise UserError if the longest prompt and completion that `limits` allow are together more tokens than the model can read.

    Some models read more, but with other rotary angles for the whole batch as soon as one row of it is that long. The numbers of a row
    would depend on the rows beside it, and in sampling on the tokens that are still to come. So that is refused.
    """
    text: Mapping[str, Any] = found.get("text_config") or found
    positions = max_positions(text)
    longest = limits.max_prompt_tokens + limits.max_completion_tokens
    where = f"data.max_prompt_tokens={limits.max_prompt_tokens}, data.max_completion_tokens={limits.max_completion_tokens}"
    for kind, fixed in _rope_limits(text, positions):
        if longest > fixed:
            raise UserError(
                f"beyond {fixed} tokens, the positions of {model} (RoPE {kind!r}) depend on the longest row of a batch, and a prompt with "
                f"its completion may have {longest}",
                where,
                f"lower them until together they are at most {fixed}, or choose a base with RoPE 'yarn' or 'llama3'",
            )
    if positions is not None and longest > positions:
        raise UserError(
            f"{model} reads at most {positions} tokens, and a prompt with its completion may have {longest}",
            where,
            f"lower them until together they are at most {positions}",
        )


def max_positions(text_config: Mapping[str, Any]) -> int | None:
    """Return the largest number of tokens that a model can read, from its config. None if it has no limit."""
    return next((int(text_config[name]) for name in POSITIONS if text_config.get(name)), None)


def _rope_limits(text: Mapping[str, Any], positions: int | None) -> Iterator[tuple[str, int]]:
    """Yield the kinds of RoPE that change with the length of a batch, each with the number of tokens up to which it stays the same.

    transformers changes `dynamic` beyond `max_position_embeddings`, and `longrope` beyond the length of the first training.
    """
    found = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for rope in (found, *(part for part in found.values() if isinstance(part, dict))):  # some models have several, by kind of layer
        kind = rope.get("rope_type") or rope.get("type")
        first = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings") or positions
        fixed = positions if kind == "dynamic" else first if kind in ("longrope", "su") else None
        if fixed:
            yield str(kind), int(fixed)


def _check_folder(folder: Path, config: RunConfig, where: str) -> None:
    if (folder / "adapter_config.json").exists():
        merge = "merge it into its base and save that (PEFT: merge_and_unload, then save_pretrained)"
        raise UserError(f"the base is an adapter, not a model: {folder}", where, merge)
    if not (folder / "config.json").exists():
        raise UserError(f"there is no config.json in the base's folder: {folder}", where, "give a folder that save_pretrained wrote")
    found = read_json(folder / "config.json")
    check_architecture(found, where)
    if not has_file(folder, WEIGHT_FILES):
        raise UserError(f"there are no weights in the base's folder: {folder}", where, "put model.safetensors there")
    if not has_file(folder, TOKENIZER_FILES) and not config.base.trust_remote_code:
        raise UserError(f"there is no tokenizer in the base's folder: {folder}", where, "save it there: tokenizer.save_pretrained(folder)")
    settings = read_json(folder / "tokenizer_config.json") | read_json(folder / "special_tokens_map.json")
    if settings.get("tokenizer_class") in PLAIN_TOKENIZERS and not settings.get("eos_token"):
        raise no_end_token(where)
    check_positions(found, config.data, str(folder))


def no_end_token(where: str) -> UserError:
    """Return the error for a tokenizer without an end token."""
    return UserError(
        "the base's tokenizer has no end token, so no answer could end", where, "set its eos_token and save it (save_pretrained)"
    )


def looks_like_a_path(model: str) -> bool:
    """Return whether this can be a folder only, and no hub id."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1


def has_file(folder: Path, patterns: tuple[str, ...]) -> bool:
    """Return whether a folder has a file of one of these names."""
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if there is no file. Raises UserError for anything else."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read: {(str(error).splitlines() or [''])[0]}", str(path), "save the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is not a JSON object", str(path), "save the model again")
    return found
