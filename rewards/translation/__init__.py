"""Translators. `pivot.translator` names one.

    dictionary           the phrases of the embedded world (rewards/world/dictionary.py)
    seq2seq              any sequence-to-sequence model of transformers, such as NLLB or M2M100 (seq2seq.py)
    http                 a language model behind an endpoint (over_http.py)
    module:function      the user's own function, also as file.py:function: texts, source, target -> a translation of each, or None

Languages are given by their codes in the config. What `seq2seq` and `http` translate is kept on disk by its content, so they translate no
text twice, in any stage, round or run; a kill loses only what was under way. The dictionary and a function of the user's are asked again by
each stage. To add a translator, write a class with the members of `Translator` and enter it in TRANSLATORS and in `PivotConfig.translator`
(configs/pivot.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from configs import user_functions
from configs.cache import cache_folder
from configs.errors import UserError
from configs.pivot import PivotConfig
from rewards.labelers.endpoint import ReplyCache
from rewards.translation.over_http import OverHTTP
from rewards.translation.seq2seq import Seq2Seq
from rewards.world.dictionary import Dictionary


class Translator(Protocol):
    """Translates texts. `name` says in every record who it was."""

    name: str

    def translate(self, texts: Sequence[str], source: str, target: str) -> Sequence[str | None]:
        """A translation of each text; None for one that cannot be translated."""
        ...


class OwnFunction:
    """The user's function as a translator. What it returns is checked."""

    def __init__(self, name: str):
        self.name, self._function = name, user_functions.load(name)

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """As `Translator` says. Raises UserError for anything but one text or None for each text."""
        found = list(self._function(list(texts), source, target))
        if len(found) != len(texts):
            raise UserError(f"it gave {len(found)} translations of {len(texts)} texts", self.name, "return one for each text, or None")
        if bad := [text for text in found if not isinstance(text, str | None)]:
            raise UserError(f"it gave {bad[0]!r} as a translation", self.name, "return a text, or None")
        return found


TRANSLATORS: dict[str, Callable[[PivotConfig, ReplyCache], Translator]] = {
    "dictionary": lambda config, cache: Dictionary(config.error_rate),
    "seq2seq": Seq2Seq,
    "http": OverHTTP,
}
"""The built-in translators by name."""


def find_translator(config: PivotConfig) -> Translator:
    """The translator of a config. Raises UserError for a user's function that cannot be used."""
    cache = ReplyCache(Path(config.cache).expanduser() if config.cache else cache_folder() / "translations")
    name = config.translator
    return OwnFunction(name) if user_functions.is_function(name) else TRANSLATORS[name](config, cache)
