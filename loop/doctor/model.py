"""The shape of the base of a run, from its config.json: in its folder, in the hub's cache, or in a small table that comes with the code.

Nothing but config.json is ever read or downloaded. Must never import torch.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.sections import BaseConfig
from policies.known_models import KNOWN_MODELS
from policies.shapes import Shape, embedded_config, read_shape


@dataclass(frozen=True)
class BaseModel:
    """The config.json of a base, and where it comes from, as text for people."""

    config: dict[str, Any]
    source: str

    @property
    def shape(self) -> Shape:
        """The sizes in it. Raises UserError for a family that is not known."""
        return read_shape(self.config, self.source)


def find_base_model(base: BaseConfig, download: bool) -> BaseModel:
    """The base that a config names. Raises UserError where its shape cannot be found.

    download: whether config.json may be fetched from the hub, if it is neither on this machine nor in the table.
    """
    if base.model == "embedded":
        return BaseModel(embedded_config(base), "the settings of the embedded base")
    file = Path(base.model) / "config.json"
    if os.path.isdir(base.model) or os.path.exists(file):
        return BaseModel(_read(file), str(file))
    if cached := _from_hub(base, download=False):
        return BaseModel(_read(cached), "its config.json, downloaded earlier")
    if base.model in KNOWN_MODELS:
        return BaseModel(KNOWN_MODELS[base.model], "the table of known models (its config.json is not on this machine)")
    if download and (fetched := _from_hub(base, download=True)):
        return BaseModel(_read(fetched), "its config.json on the hub")
    raise UserError(
        f"the shape of {base.model} is not known: its config.json is not on this machine, and the hub cannot be reached",
        f"base.model={base.model}",
        f"connect to the network, give the folder of a model, or take one of the known models: {', '.join(KNOWN_MODELS)}",
    )


def _from_hub(base: BaseConfig, download: bool) -> Path | None:
    """The path of config.json in the hub's cache; None where it is not there and cannot be fetched."""
    from huggingface_hub import hf_hub_download  # late, because commands that need no model should start quickly
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would report every try
    try:
        return Path(hf_hub_download(base.model, "config.json", revision=base.revision, local_files_only=not download))
    except (OSError, ValueError):  # all errors of the network are of the first kind; a malformed name is of the second
        return None


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"the base's config.json cannot be read: {error}", str(file), "give the folder of a model") from None
