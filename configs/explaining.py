"""Turns pydantic's errors about a config into one plain sentence, with the nearest valid name for an unknown one. Never raises."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.errors import UserError
from configs.schema import MAPPINGS, RunConfig

Path = tuple[str, ...]
"""The parts of a setting's name, for example ("ppo", "num_updates")."""

ALIASES: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "learning_rate_scheduler": ("learning_rate_schedule",),
    "lr_scheduler_type": ("learning_rate_schedule",),
    "beta": ("kl_coefficient",),
    "kl": ("kl_coefficient",),
    "kl_coef": ("kl_coefficient",),
    "init_kl_coef": ("kl_coefficient",),
    "adaptive_kl": ("kl_target",),
    "cliprange": ("clip_range",),
    "epsilon": ("clip_range",),
    "epsilon_high": ("clip_range_high",),
    "importance_sampling_level": ("importance_ratio",),
    "mask_truncated_completions": ("mask_truncated",),
    "ent_coef": ("entropy_coefficient",),
    "entropy_coeff": ("entropy_coefficient",),
    "critic_warmup": ("value_warmup_updates",),
    "use_kl_loss": ("kl_in",),
    "cliprange_value": ("value_clip_range",),
    "vf_coef": ("value_coefficient",),
    "lam": ("gae_lambda",),
    "lambda": ("gae_lambda",),
    "missing_eos_penalty": ("missing_end_penalty",),
    "epochs": ("num_epochs",),
    "num_train_epochs": ("num_epochs",),
    "num_ppo_epochs": ("num_epochs",),
    "steps": ("num_updates", "pretraining_steps"),
    "max_steps": ("num_updates", "pretraining_steps"),
    "updates": ("num_updates",),
    "bs": ("batch_size",),
    "mini_batch_size": ("num_minibatches", "micro_batch_size"),
    "num_mini_batches": ("num_minibatches",),
    "per_device_train_batch_size": ("micro_batch_size",),
    "gradient_accumulation_steps": ("micro_batch_size",),
    "warmup_steps": ("warmup_ratio",),
    "max_length": ("max_new_tokens", "max_completion_tokens"),
    "max_seq_length": ("max_completion_tokens",),
    "max_tokens": ("max_new_tokens", "max_completion_tokens"),
    "response_length": ("max_new_tokens",),
    "temp": ("temperature",),
    "r": ("rank",),
    "lora_r": ("rank",),
    "lora_alpha": ("alpha",),
    "model_name": ("model",),
    "model_name_or_path": ("model",),
    "torch_dtype": ("dtype",),
    "precision": ("dtype",),
    "load_in_4bit": ("quantization",),
    "dataset": ("source",),
    "dataset_name": ("source",),
    "file": ("source", "path"),
    "files": ("source",),
    "rounds": ("num_rounds",),
    "num_workers": ("workers",),
    "gpus": ("workers",),
    "num_gpus": ("workers",),
    "port": ("dashboard_port",),
}
"""The name of a setting in other tools -> its names here. The first one that exists in the same group is suggested."""

EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "string_pattern_mismatch": "module:function or file.py:function",
    "list": "a list of texts",
    "model": "a group of settings",
    "dict": "names with numbers, such as {{repetition: 0.5}}",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal": "{expected}",
    "missing": "given",
}
"""What a value must be. The longest key with which the type of pydantic's error starts is used; other errors bring their own text."""

SEE = "docs/configuration.md explains every setting"


def explain(error: ValidationError, place: Callable[[Path], str]) -> UserError:
    """Return the first problem as a UserError. `place` returns where a setting was written."""
    errors = error.errors()
    first = errors[0]
    given = _without_numbers(first["loc"])
    if first["type"] == "extra_forbidden":
        meant = " or ".join(".".join(name) for name in _meant(given))
        what = f"there is no setting {'.'.join(given)!r}" + (f", did you mean {meant!r}?" if meant else "")
        return UserError(what, place(_written(first["loc"])), f"use {meant}; {SEE}" if meant else _legal_in(given[:-1]))
    if first["type"] == "invalid_key":
        return UserError(f"the name of a setting must be text, not {first['loc'][-1]!r}", place(given), SEE)
    path = _known_part(given)
    if first["type"] == "value_error":
        what, bad = first["msg"].removeprefix("Value error, "), first["ctx"]["error"]
        words = [tuple(word.split(".")) for word in re.findall(r"[a-z]+\.[a-z_]+", what)]
        named = [name for name in words if name in _names(RunConfig)] or [path]
        return UserError(what, "; ".join(dict.fromkeys(map(place, named))), getattr(bad, "to_do", f"change it; {SEE}"))
    same = [e for e in errors if _known_part(_without_numbers(e["loc"])) == path]
    inside = [e for e in same if path not in MAPPINGS and any(isinstance(part, int) for part in e["loc"])]  # one item of a list
    wrong = inside[0] if inside else first
    expected = " or ".join(dict.fromkeys(_expected(e) for e in inside[:1] or same))
    item = f", item {next(part for part in wrong['loc'] if isinstance(part, int)) + 1}," if inside else ""
    value = "empty" if wrong["input"] is None else repr(wrong["input"])[:100]
    legal = re.findall(r"'([^']*)'", wrong.get("ctx", {}).get("expected", ""))
    near = difflib.get_close_matches(str(wrong["input"]), legal, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    is_number = "text" in expected and isinstance(wrong["input"], int | float)
    to_do = "put the value in quotes; on the command line, write KEY='\"VALUE\"'" if is_number else f"change the value; {SEE}"
    subject = f"{_subject(path, wrong['loc'])}{item}"
    return UserError(f"{subject} must be {expected}, not {value}{hint}", place(_written(wrong["loc"], path)), to_do)


def _subject(path: Path, loc: Sequence[Any]) -> str:
    """What of a setting is wrong: the whole of it, or one name in a mapping of names, or the value of that name."""
    name, inside = ".".join(path), loc[len(path) :]
    if path not in MAPPINGS or not inside:
        return name
    return f"a name in {name}" if "[key]" in inside else f"{name}.{inside[0]}"


def _without_numbers(loc: Sequence[Any]) -> Path:
    """Return the names in a place of pydantic's, without the numbers of items."""
    return tuple(str(part) for part in loc if not isinstance(part, int))


def _written(loc: Sequence[Any], otherwise: Path | None = None) -> Path:
    """Return the setting under which something was written: a list is written as a whole."""
    first = next((at for at, part in enumerate(loc) if isinstance(part, int)), None)
    return (_without_numbers(loc) if otherwise is None else otherwise) if first is None else _known_part(tuple(map(str, loc[:first])))


def _expected(error: Any) -> str:
    kinds = [kind for kind in EXPECTED if error["type"].startswith(kind)]
    return EXPECTED[max(kinds, key=len)].format(**error.get("ctx", {})) if kinds else error["msg"]


def _known_part(path: Path) -> Path:
    """Return the name of the setting without the parts that pydantic adds for the types that its value may have."""
    legal = _names(RunConfig)
    while path and path not in legal:
        path = path[:-1]
    return path


def _meant(path: Path) -> list[Path]:
    """Return the settings that the user may have meant by an unknown name, which may be the name in another tool."""
    *section, word = path
    legal = _names(RunConfig)
    siblings = {name[-1]: name for name in legal if list(name[:-1]) == section}
    meant = [word, *ALIASES.get(word.lower(), ())]

    def close(names: Sequence[str], cutoff: float) -> list[str]:
        return difflib.get_close_matches(word, names, n=1, cutoff=cutoff)

    found: list[Path] = [siblings[name] for name in meant if name in siblings][:1]
    found = found or [siblings[name] for name in close(list(siblings), 0.75)]
    found = found or [name for alias in meant for name in legal if name[-1] == alias]
    found = found or [siblings[name] for name in close(list(siblings), 0.6)]
    if not found:
        by_key = {".".join(name): name for name in legal}
        found = [by_key[key] for key in difflib.get_close_matches(".".join(path), list(by_key), n=1, cutoff=0.7)]
    if not found:
        by_word = {name[-1]: name for name in legal}
        found = [by_word[name] for name in close(list(by_word), 0.6)]
    return found


def _legal_in(section: Path) -> str:
    names = [name[-1] for name in _names(RunConfig) if name[:-1] == section]
    where = f"the settings of {'.'.join(section)}" if section else "these settings"
    return f"use one of {where}: {', '.join(names)}; {SEE}" if names else SEE


def _names(model: type[BaseModel], section: Path = ()) -> list[Path]:
    """Return the names of all settings and groups of settings."""
    names: list[Path] = []
    for name, field in model.model_fields.items():
        names.append((*section, name))
        inner = (get_args(field.annotation) or (None,))[0] if get_origin(field.annotation) is list else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _names(inner, (*section, name))
    return names
