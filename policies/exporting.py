"""A policy as other programs load it: a model with the adapter added to the base's weights, or the adapter alone.

    config.json                    of a model: the base's own, with the number format of the weights
    model.safetensors              of a model: the base's weights with the adapter added
    adapter_config.json, adapter_model.safetensors      of an adapter
    generation_config.json         how the run sampled: end tokens, temperature, top-k, top-p, max_new_tokens
    tokenizer.json and others      the tokenizer with its chat template

transformers 5 writes configs that its older versions read wrongly or not at all, and other programs still use those. So these files say
the same in the older form too.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import transformers
from transformers.utils.hub import cached_file

from configs.errors import UserError
from configs.schema import BaseConfig, GenerationConfig, LoraSection
from policies.adapters import WEIGHTS_FILE, AdaptedModel
from policies.loading import check_causal_lm, load_causal_lm, load_tokenizer
from policies.tokenization import end_also_at, end_tokens, hh_template

POLICY = "policy"
MODEL_CONFIG, ADAPTER_CONFIG, TOKENIZER_CONFIG = "config.json", "adapter_config.json", "tokenizer_config.json"
NOT_IN_JSON = ("*.model", "*.tiktoken", "*.py")
"""Files of a base's folder that transformers may not write: a tokenizer's first form, which converters read, and the model's code."""
OLD_NAMES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Names of tokenizer classes in transformers 5 -> in version 4. Version 5 knows both."""


def export_model(folder: Path, policy: Path, source: str, base: BaseConfig, lora: LoraSection) -> dict[str, Any]:
    """Write the base with the adapter of the folder `policy` added. Return how many parameters it has, and what rounding has lost.

    source: what `from_pretrained` is given for the base. A base in NF4 is written in plain weights, with the values that its 4-bit numbers
    stand for, because these are what the adapter was trained on. Raises UserError for a base that is quantized in another way.
    """
    model = load_causal_lm(source, base, "cpu")
    if base.quantization == "nf4":
        model = model.dequantize()
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError("the weights of the base are quantized, so nothing can be added to them", source, "export the adapter (--adapter)")
    adapted = AdaptedModel(model, lora, location=source)
    adapted.add_adapter(POLICY, folder=policy)
    merged, lost = adapted.merge(POLICY)
    merged.save_pretrained(folder)
    original = _read_json(Path(str(cached_file(source, MODEL_CONFIG, revision=base.revision))))
    saved = _read_json(folder / MODEL_CONFIG)
    _write_json(folder / MODEL_CONFIG, _config(original, saved))
    if Path(source).is_dir():
        for file in (path for pattern in NOT_IN_JSON for path in Path(source).glob(pattern)):
            shutil.copyfile(file, folder / file.name)
    return {"parameters": merged.num_parameters(), "rounding": lost}


def export_adapter(folder: Path, policy: Path, source: str, base: BaseConfig) -> None:
    """Write the adapter of the folder `policy`. It names the base by its present place, and by its commit if it is from the hub."""
    shutil.copyfile(policy / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    place = {"base_model_name_or_path": source, "revision": base.revision}
    _write_json(folder / ADAPTER_CONFIG, _read_json(policy / ADAPTER_CONFIG) | place)


def export_usage(folder: Path, source: str, base: BaseConfig, generation: GenerationConfig, is_chat: bool) -> dict[str, Any]:
    """Write tokenizer and generation config. Return the end tokens, and whether there is a chat template.

    is_chat: whether the run's prompts were messages. If the base has no chat template, the form that they were written in becomes one.
    """
    config = check_causal_lm(source, base)
    tokenizer = load_tokenizer(source, base, config)
    try:
        before = transformers.GenerationConfig.from_pretrained(source, revision=base.revision)  # type: ignore[arg-type]  # None is main
    except OSError:  # a base may have no such file
        before = transformers.GenerationConfig.from_model_config(config)
    end_also_at(tokenizer, before.eos_token_id)
    if is_chat and not tokenizer.chat_template:
        tokenizer.chat_template = hh_template(tokenizer)
    tokenizer.save_pretrained(folder)
    _write_json(folder / TOKENIZER_CONFIG, _tokenizer_config(_read_json(folder / TOKENIZER_CONFIG)))
    ends = end_tokens(tokenizer)
    transformers.GenerationConfig(
        do_sample=True,
        temperature=generation.temperature,
        top_k=generation.top_k,
        top_p=generation.top_p,
        max_new_tokens=generation.max_new_tokens,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=before.bos_token_id,
    ).save_pretrained(folder)
    return {"end_tokens": [tokenizer.convert_ids_to_tokens(end) for end in ends], "has_template": bool(tokenizer.chat_template)}


def _config(original: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """The config of a merged model. It is the base's own, because all programs that load the base know that one.

    original: of the base. saved: what transformers has written.
    """
    config = dict(original if original.get("model_type") == saved["model_type"] else saved)
    config |= {"architectures": saved["architectures"], "dtype": saved["dtype"], "torch_dtype": saved["dtype"], "use_cache": True}
    config.pop("_name_or_path", None)  # a path of this machine
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # the same for all layers
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {name: value for name, value in rope.items() if name != "rope_theta"})
    return config


def _tokenizer_config(saved: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in saved.items() if name != "is_local"}
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    return config | {"tokenizer_class": OLD_NAMES.get(config["tokenizer_class"], config["tokenizer_class"])}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
