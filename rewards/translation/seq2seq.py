"""A sequence-to-sequence model of transformers as a translator: NLLB, M2M100, mBART, Marian.

A model of many languages is told two of them: the tokenizer marks the source (`src_lang`), and the first token of the translation is the
mark of the target (`forced_bos_token_id`). A model that knows one direction only has no such marks; `pivot.model_back` names the other one.
The search takes no random number, so a text always gets the same translation on one kind of machine.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.pivot import PivotConfig
from rewards.labelers.endpoint import Reply, ReplyCache

NLLB_CODES = {"th": "tha_Thai", "en": "eng_Latn"}
"""What NLLB calls the two languages that this project is about. `pivot.codes` names others."""
LONGEST = 512
"""The most tokens of a text. A longer one has no translation, because such models have not learned more."""


class Seq2Seq:
    """One model for both directions, or one for each. A model is loaded when the first text asks for it that is not in the cache.

    `name`: the models, as the records say.
    """

    def __init__(self, config: PivotConfig, cache: ReplyCache):
        self.config, self._cache = config, cache
        self.name = " and ".join(filter(None, (config.model, config.model_back)))
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._files = {name: _hash_folder(Path(name)) for name in filter(None, (config.model, config.model_back)) if Path(name).is_dir()}

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """The translation of each text; None for one that is too long, or whose translation would be cut off. Each new one is on disk
        before it is used."""
        keys = {text: self._key(text, source, target) for text in texts}
        known = {text: reply.text for text, key in keys.items() if (reply := self._cache.get(key)) is not None}
        new = sorted((text for text in keys if text not in known), key=len)
        for start in range(0, len(new), self.config.batch_size):
            batch = new[start : start + self.config.batch_size]
            for text, translation in zip(batch, self._generate(batch, source, target), strict=True):
                self._cache.put(keys[text], Reply(translation, 0, 0, datetime.now(UTC).isoformat(timespec="seconds")))
                known[text] = translation
        return [known[text] for text in texts]

    def _generate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        import torch

        model, tokenizer = self._load(self._model_of(source))
        first = {}
        if hasattr(tokenizer, "src_lang"):
            begin = self._code(tokenizer, source)
            _mark(tokenizer, begin)  # an unknown source would be read as if nothing was said of it
            tokenizer.src_lang = begin
            first = {"forced_bos_token_id": _mark(tokenizer, self._code(tokenizer, target))}
        longest = min(LONGEST, tokenizer.model_max_length)
        short = [text for text in texts if len(tokenizer(text)["input_ids"]) <= longest]
        if not short:
            return [None] * len(texts)
        batch = tokenizer(short, return_tensors="pt", padding=True).to(model.device)
        limit = {"max_new_tokens": self.config.max_reply_tokens} if self.config.max_reply_tokens else {}
        with torch.no_grad():
            # an end that is forced at the limit would hide that the translation is cut off there
            ids = model.generate(**batch, **first, **limit, num_beams=self.config.beams, do_sample=False, forced_eos_token_id=None)
        written = zip(ids.tolist(), tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True)
        # some models begin with the token that also ends a text
        found = [text.strip() if tokenizer.eos_token_id in tokens[1:] else None for tokens, text in written]
        translations = dict(zip(short, found, strict=True))
        return [translations.get(text) for text in texts]

    def _load(self, name: str) -> tuple[Any, Any]:
        """A model and its tokenizer. Raises UserError if it cannot be loaded, or is of another kind."""
        if name not in self._loaded:
            import torch
            from safetensors import SafetensorError
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

            given = {"revision": self.config.revision} if self.config.revision else {}
            try:
                model = AutoModelForSeq2SeqLM.from_pretrained(name, **given)
                tokenizer = AutoTokenizer.from_pretrained(name, **given)
            except (OSError, ValueError, ImportError, KeyError, TypeError, SafetensorError) as error:
                to_do = "name a sequence-to-sequence model by its hub id or folder, for example facebook/nllb-200-distilled-600M"
                raise UserError(f"the translator cannot be loaded: {error}", f"pivot.model={name}", to_do) from None
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._loaded[name] = model.eval().to(device), tokenizer
        return self._loaded[name]

    def _model_of(self, source: str) -> str:
        back = self.config.model_back
        return back if back and source == self.config.language else self.config.model

    def _code(self, tokenizer: Any, language: str) -> str:
        named = self.config.codes.get(language)
        return named or (NLLB_CODES.get(language, language) if type(tokenizer).__name__.startswith("Nllb") else language)

    def _key(self, text: str, source: str, target: str) -> str:
        """What a translation depends on."""
        config = self.config
        model = self._model_of(source)
        asked = [self._files.get(model, model), config.revision, config.codes, config.beams, config.max_reply_tokens, source, target, text]
        return hashlib.sha256(json.dumps(["whole by seq2seq", *asked], sort_keys=True).encode()).hexdigest()


def _hash_folder(folder: Path) -> str:
    """SHA-256 of the files of a model, so that other weights in the same folder have translations of their own."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _mark(tokenizer: Any, code: str) -> int:
    """The id of the token that begins a translation into a language. Raises UserError for a language that the model does not know."""
    try:
        found = tokenizer.get_lang_id(code) if hasattr(tokenizer, "get_lang_id") else tokenizer.convert_tokens_to_ids(code)
    except KeyError:
        found = None
    if found is None or found == tokenizer.unk_token_id:
        raise UserError(f"the translator does not know the language {code!r}", "pivot.codes", "write what the model calls the language")
    return int(found)
