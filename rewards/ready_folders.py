"""Where a ready reward model is (`labeler.model`), and checks of its folders that need no ML library, only the files in them.

    a model       a sequence-classification model with one label: config.json, model*.safetensors and a tokenizer
    an adapter    a PEFT folder for sequence classification; its adapter_config.json names the base. The reward models of a run are such
                  folders (`RUN/round-001/retrain`), and `normalization.json` tells that they are

The driver runs the checks before Ray starts. What is on the hub is checked when it is loaded (`ready_model.py`).
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.judging import LabelerConfig
from policies.base_folder import TOKENIZER_FILES, has_file, looks_like_a_path, read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OF_A_RUN = "normalization.json"
"""What `Scorer.save` writes, and nobody else."""
HEADS = ("score", "classifier")
"""The names under which models for sequence classification have their head."""
LAST_LAYERS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
"""The layers of a head with one row for each label."""
GIVE_ONE = "give a model for sequence classification with one label, by hub id or folder, or a reward model of a run"
PICKLE = (
    "weights in other files (*.bin) are pickles, which can run code, and are not read: load the model where it can be trusted and save it "
    "again with save_pretrained"
)


@dataclass(frozen=True)
class ReadyModel:
    """model: a hub id or a folder. adapter: a PEFT folder on it. revision: of the hub id."""

    model: str
    adapter: Path | None
    revision: str | None

    @property
    def folders(self) -> list[Path]:
        """The folders on this machine that it is loaded from."""
        return [folder for folder in (Path(self.model), self.adapter) if folder and folder.is_dir()]

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer is. Adapters often have one of their own."""
        return str(self.adapter) if self.adapter and has_file(self.adapter, TOKENIZER_FILES) else self.model

    @property
    def is_of_a_run(self) -> bool:
        """Whether a run of this program made it, so that it reads answers in the form that runs train on."""
        return self.adapter is not None and (self.adapter / OF_A_RUN).exists()

    @property
    def head(self) -> Mapping[str, list[int]]:
        """The tensors of a head that the adapter brings: name -> shape."""
        if self.adapter is None or not (self.adapter / ADAPTER_WEIGHTS).exists():
            return {}
        shapes = tensor_shapes(self.adapter / ADAPTER_WEIGHTS)
        return {name: shape for name, shape in shapes.items() if is_of_head(name)}

    @property
    def other_base(self) -> str | None:
        """The base that the adapter names, if that is not the model that it is put on."""
        named = read_json(self.adapter / ADAPTER_CONFIG).get("base_model_name_or_path") if self.adapter else None
        return named if named and os.path.realpath(named) != os.path.realpath(self.model) else None


def find_model(config: LabelerConfig) -> ReadyModel | None:
    """The model that the config names; None if it names none."""
    if not config.model:
        return None
    folder = Path(config.model)
    if config.adapter:
        return ReadyModel(config.model, Path(config.adapter), config.revision)
    if not (folder / ADAPTER_CONFIG).exists():
        return ReadyModel(config.model, None, config.revision)
    found = read_json(folder / ADAPTER_CONFIG)
    return ReadyModel(str(found.get("base_model_name_or_path") or ""), folder, config.revision or found.get("revision"))


def weight_bytes(config: LabelerConfig) -> int:
    """What the weights take in memory, by the files in the model's folders. 0 for a model of the hub, because nothing is downloaded."""
    found = find_model(config)
    files = [file for folder in (found.folders if found else []) for file in folder.glob("*.safetensors")]
    numbers = sum(math.prod(shape) for file in files for shape in tensor_shapes(file).values())
    return numbers * (4 if config.dtype == "float32" else 2)


def check_ready_model(config: LabelerConfig, where: str) -> None:
    """Raise UserError if the model that the config names cannot give scores, as far as files tell. where: the setting that names it."""
    found = find_model(config)
    if found is None:
        return
    if found.adapter:
        _check_adapter(found, where)
    if os.path.isdir(found.model):
        _check_model(Path(found.model), found, config.trust_remote_code, where)
    elif os.path.exists(found.model):
        raise UserError(f"the reward model is a file: {found.model}", where, "give the folder that holds it")
    elif looks_like_a_path(found.model):
        what = f"the base that the adapter names does not exist: {found.model}" if found.adapter else f"there is no folder {found.model}"
        both = f"name both: labeler.model=BASE labeler.adapter={found.adapter}"
        to_do = f"check the path, from {os.getcwd()}, give a hub id, or wait until the run that makes it has come so far"
        raise UserError(what, where, both if found.adapter else to_do)


def check_one_label(number: int, where: str) -> None:
    """Raise UserError if a model has another number of labels than one."""
    if number != 1:
        what = f"the reward model has {number} labels, and a reward is one number"
        raise UserError(what, where, GIVE_ONE)


def is_of_head(name: str) -> bool:
    """Whether a tensor of this name belongs to a head, and is no adapter on one."""
    parts = name.split(".")
    return any(part in HEADS for part in parts) and not any(part.startswith("lora_") for part in parts)


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file, by name. Raises UserError if it is none."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        raise UserError(f"{path.name} is not a safetensors file", str(path), "save the model again") from None


def _check_adapter(found: ReadyModel, where: str) -> None:
    folder = found.adapter
    assert folder is not None
    if not (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"there is no {ADAPTER_CONFIG} in {folder}", where, "give a folder that PEFT's save_pretrained wrote")
    task = read_json(folder / ADAPTER_CONFIG).get("task_type")
    if task not in (None, "SEQ_CLS"):
        what = f"the adapter in {folder} is for {task}, and gives no scores"
        raise UserError(what, where, "give one for sequence classification (SEQ_CLS), for example RUN/round-001/retrain of a run")
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"there is no {ADAPTER_WEIGHTS} in {folder}", where, PICKLE)
    if not found.model:
        raise UserError(f"{folder / ADAPTER_CONFIG} names no base model", where, "add base_model_name_or_path")
    for name, shape in found.head.items():
        if name.endswith(LAST_LAYERS) and shape:
            check_one_label(shape[0], where)


def _check_model(folder: Path, found: ReadyModel, trusts_code: bool, where: str) -> None:
    if not (folder / "config.json").exists():
        raise UserError(f"there is no config.json in {folder}", where, GIVE_ONE)
    config = read_json(folder / "config.json")
    declared = " ".join(config.get("architectures") or [])
    if not found.head:
        if declared and "SequenceClassification" not in declared and not trusts_code:
            raise UserError(f"the model in {folder} gives no scores ({declared})", where, GIVE_ONE)
        check_one_label(_number_of_labels(config), where)
    if not has_file(folder, ("*.safetensors",)):
        raise UserError(f"there are no weights in {folder}, that is, no *.safetensors", where, PICKLE)
    if not has_file(Path(found.tokenizer), TOKENIZER_FILES) and not trusts_code:
        raise UserError(f"there is no tokenizer in {found.tokenizer}", where, "save it there: tokenizer.save_pretrained(folder)")


def _number_of_labels(config: Mapping[str, Any]) -> int:
    """As transformers reads a config.json: where it says nothing, there are two labels."""
    return len(config["id2label"]) if config.get("id2label") else int(config.get("num_labels") or 2)
