"""Loading the base model and its tokenizer, with checks that name what is wrong."""

import re
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils.hub import cached_file, extract_commit_hash

from configs.errors import UserError
from configs.schema import BaseConfig
from policies.base_folder import check_architecture, no_end_token

NOISE = re.compile(r"drop|^(input_jitter_noise|jitter_noise|moe_jitter_eps)$")
"""Names of the numbers that make a model random in train mode: dropout probabilities, and the noise of routers to experts."""


def load_causal_lm(folder: str, config: BaseConfig, device: str) -> Any:
    """Load the base with `AutoModelForCausalLM.from_pretrained`, in 4 bits if the config asks for it. Raises UserError if it fails."""
    check_causal_lm(folder, config)
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.quantization == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
        options["device_map"] = {"": device}
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.dtype), **options)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"the base model cannot be loaded: {first_line(error)}", folder, "check base.model") from None
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights at the first forward pass in eval mode, and then drop their gradients in training.
            module.support_avx512bf16_for_cpu = False
    return model if config.quantization == "nf4" else model.to(device)


def check_causal_lm(folder: str, config: BaseConfig) -> Any:
    """Return the model's config. Raises UserError if it is missing or not that of a decoder-only language model."""
    try:
        found = transformers.AutoConfig.from_pretrained(folder, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise _not_available("model", folder, error) from None
    check_architecture(found.to_dict(), folder)
    known = type(found) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    remote = config.trust_remote_code and "AutoModelForCausalLM" in (getattr(found, "auto_map", None) or {})
    if not (known or remote):
        raise UserError(f"the base is not a causal language model ({type(found).__name__})", folder, "choose a decoder-only model")
    return found


def load_tokenizer(folder: str, config: BaseConfig, model_config: Any) -> Any:
    """Load the base's tokenizer and give it a pad token if it has none.

    Raises UserError if there is no tokenizer, if it has no end token, or if it belongs to another model.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:  # what the many tokenizer classes raise on missing files
        raise _not_available("tokenizer", folder, error) from None
    if tokenizer.eos_token_id is None:
        raise no_end_token(folder)
    largest, rows = max(tokenizer.get_vocab().values()), model_config.get_text_config().vocab_size
    if largest >= rows:
        raise UserError(
            f"the tokenizer knows tokens up to number {largest}, and the model only {rows} of them", folder, "use the model's own tokenizer"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    # transformers would save whether this process may use the network, and equal runs would have different digests.
    tokenizer.init_kwargs.pop("local_files_only", None)
    return tokenizer


def resolved_commit(model: str, revision: str | None) -> str | None:
    """Return the commit of a hub model that a revision means now, as the hub's cache records it. None if it is not recorded."""
    path = cached_file(model, "config.json", revision=revision)
    return extract_commit_hash(path, None)


def switch_noise_off(model: nn.Module) -> None:
    """Set every number of `NOISE` to 0, so that the model computes the same in train mode as in eval mode.

    Such numbers are in dropout modules, in plain attributes (OPT, XGLM) and in configs, which some models read in every pass (BLT).
    """
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    for owner in (*model.modules(), *configs.values()):
        for name in [name for name, value in vars(owner).items() if NOISE.search(name) and isinstance(value, float)]:
            setattr(owner, name, 0.0)
        if isinstance(owner, nn.modules.dropout._DropoutNd):
            owner.p = 0.0


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def hub_cannot_be_reached(what: str, where: str, error: Exception) -> UserError | None:
    """Explain an error of the hub's library if the network is its cause. what: the part of a model that was asked for."""
    if "connect" not in str(error) and "offline" not in str(error):
        return None
    to_do = "connect to the network, set HF_ENDPOINT to a mirror, or give the folder of a model that is already on this machine"
    return UserError(f"the hub cannot be reached, and this {what} was never downloaded here", where, to_do)


def _not_available(what: str, folder: str, error: Exception) -> UserError:
    """Explain why a part of the base cannot be loaded: it does not exist, or the hub cannot be reached."""
    where, to_do = f"base.model={folder}", "give base.model a hub id, or a folder with config.json, weights and tokenizer"
    return hub_cannot_be_reached(what, where, error) or UserError(f"there is no {what} to load: {first_line(error)}", where, to_do)
