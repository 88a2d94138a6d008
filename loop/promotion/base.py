"""What the card of a model says about its base: its name for others, and its license. Nothing is downloaded for it."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from configs.schema import BaseConfig
from policies.named_bases import NAMED_BASES


@dataclass(frozen=True)
class BaseFacts:
    """hub_id: where others find the base; None if that is not known. text: what it is. licence: by its own card; empty if unknown."""

    hub_id: str | None
    text: str
    licence: str = ""


def base_facts(config: BaseConfig, commit: str | None) -> BaseFacts:
    """What is known about the base of a run. commit: of a base from the hub."""
    quantized = ", used in 4-bit NF4" if config.quantization == "nf4" else ""
    if config.model == "embedded":
        return BaseFacts(None, "a tiny Llama that the run trained itself on texts that loop wrote")
    if named := NAMED_BASES.get(config.model):
        text = f"{named.hub_id}, with the weights of the 4-bit file {named.file}{quantized}"
        return BaseFacts(named.hub_id, text, named.licence)
    if os.path.isdir(config.model):
        folder = Path(config.model).resolve()
        return BaseFacts(None, f"a model in a folder called {folder.name}{quantized}", licence_in(folder / "README.md"))
    from huggingface_hub import try_to_load_from_cache  # it takes a third of a second to import

    card = try_to_load_from_cache(config.model, "README.md", revision=commit)
    at = f" at commit {commit}" if commit else ""
    return BaseFacts(config.model, f"{config.model}{at}{quantized}", licence_in(Path(card)) if isinstance(card, str) else "")


def licence_in(card: Path) -> str:
    """The license in the header of a model card; empty where there is no card or no license in it."""
    try:
        lines = card.read_text(encoding="utf-8").splitlines()
        header = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)])) if lines[:1] == ["---"] else None
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    found = header.get("license") if isinstance(header, dict) else None
    return found if isinstance(found, str) else ""
