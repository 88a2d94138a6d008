"""Turns the GGUF file of a named base into a folder that `from_pretrained` can load.

transformers reads the file and turns its 4-bit numbers into float32. It refuses to save a model that was read from such a file, so the
weights are written here. The folder is filled under another name, flushed and renamed: under its own name it is always whole.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from configs.errors import UserError
from policies.loading import first_line
from policies.named_bases import NAMED_BASES, NamedBase, source_of

NOT_KEPT = ("quantization_config", "_model_name_or_path", "transformers_version")
"""Entries of the configs that are not true of the converted model, or that would make its bytes depend on the version of transformers."""


def make_available(model: str) -> str:
    """Return what `from_pretrained` is given for `base.model`. A named base is converted first, if the cache does not have it.

    Raises UserError if its file is missing or is another one than `named_bases.py` knows, or if the cache cannot be written. Several
    processes may call this at once.
    """
    base = NAMED_BASES.get(model)
    if base is not None and not base.folder.is_dir():
        try:
            _fill_cache(base)
        except (OSError, SafetensorError) as error:
            to_do = "make room for 600 MB, or set LOOP_CACHE to another folder"
            raise UserError(f"{model} cannot be put into the cache: {first_line(error)}", str(base.folder), to_do) from None
    return source_of(model)


def convert(base: NamedBase, output: Path) -> None:
    """Write weights in float32, config and tokenizer of a named base to `output`. Raises UserError for a file that is not known."""
    where = f"base.model={base.name}"
    file = base.find_file(where)
    if hashlib.sha256(file.read_bytes()).hexdigest() != base.sha256:
        raise UserError(f"{file} is not the file that this version of loop knows", where, f"install that one: {base.install}")
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with redirect_stderr(io.StringIO()):  # a progress bar that no setting switches off
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    tied = set(model.all_tied_weights_keys)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    for part, name in ((model.config, "config.json"), (model.generation_config, "generation_config.json")):
        part.save_pretrained(output)
        found = json.loads((output / name).read_bytes())
        values = {key: value for key, value in found.items() if key not in NOT_KEPT}
        (output / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    # The model's own tokenizer separates every digit before it looks for words. GGUF has only the name of that rule, "smollm".
    words = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    tokenizer.init_kwargs.pop("local_files_only", None)
    tokenizer.save_pretrained(output)


def _fill_cache(base: NamedBase) -> None:
    """Convert a base, unless another process does: then wait for that."""
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    with base.folder.with_name(f"{base.folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if base.folder.is_dir():
            return
        unfinished = base.folder.with_name(f"{base.folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # by a process that died
        unfinished.mkdir()
        convert(base, unfinished)
        for file in unfinished.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        unfinished.rename(base.folder)
