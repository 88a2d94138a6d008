"""How many tokens prompts and completions have, where nobody needs the tokens. Cheaper than encoding them, with the same result.

A length that is at most `limit` may be too high: in byte-level BPE, a text never has more tokens than bytes, so a text of few bytes is not
encoded at all. A length beyond `limit` is exact, and so is 0. Must never tell a length for a text that `tokenization.py` would encode
otherwise.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import transformers
from tokenizers import models, pre_tokenizers

from policies.tokenization import (
    DialogueRefused,
    Prompt,
    Written,
    closing_tokens,
    encode_completions,
    encode_prompts,
    opens_with_start,
    write_messages,
)


def measure_prompts(tokenizer: Any, prompts: Sequence[Prompt], limit: int) -> list[int | DialogueRefused]:
    """Return the length of each prompt as `encode_prompt` encodes it, or the error that it raises."""
    if not _is_ordinary(tokenizer):
        return [ids if isinstance(ids, DialogueRefused) else len(ids) for ids in encode_prompts(tokenizer, prompts)]
    found: dict[int, int | DialogueRefused] = {}
    written: dict[int, Written] = {}
    for number, prompt in enumerate(prompts):
        try:
            text = _write(tokenizer, prompt)
        except DialogueRefused as error:
            found[number] = error
            continue
        if text is None:
            (ids,) = encode_prompts(tokenizer, [prompt])
            found[number] = ids if isinstance(ids, DialogueRefused) else len(ids)
        else:
            written[number] = text
    found |= zip(written, _measure(tokenizer, list(written.values()), limit), strict=True)
    return [found[number] for number in range(len(prompts))]


def measure_completions(tokenizer: Any, completions: Sequence[tuple[str, bool]], limit: int) -> list[int]:
    """Return the length of each completion as `encode_completion` encodes it. completions: texts, and whether they are finished."""
    if not _is_ordinary(tokenizer):
        return list(map(len, encode_completions(tokenizer, completions)))
    texts = [Written(text, adds_special_tokens=False, splits_special_tokens=True) for text, _ in completions]
    lengths = _measure(tokenizer, texts, limit - 1)
    return [length + int(finished) for length, (_, finished) in zip(lengths, completions, strict=True)]


def _is_ordinary(tokenizer: Any) -> bool:
    """Tell whether the backend alone decides what a text's tokens are. A few models have a class of their own that does more."""
    ordinary, own = transformers.PreTrainedTokenizerFast, type(tokenizer)
    return isinstance(tokenizer, ordinary) and own._encode_plus is ordinary._encode_plus and own.__call__ is ordinary.__call__


def _write(tokenizer: Any, prompt: Prompt) -> Written | None:
    if isinstance(prompt, str):
        if opens_with_start(tokenizer) and tokenizer.bos_token in prompt:
            return None  # it may be left out in front
        return Written(prompt, adds_special_tokens=True, splits_special_tokens=tokenizer.split_special_tokens)
    return write_messages(tokenizer, prompt, add_generation_prompt=True)


def _measure(tokenizer: Any, texts: Sequence[Written], limit: int) -> list[int]:
    """The length of each text. What certainly is within the limit is not encoded."""
    beyond = _tokens_beyond_bytes(tokenizer)
    lengths: dict[int, int] = {}
    by_form: dict[tuple[bool, bool], list[int]] = {}
    for number, (text, adds, splits) in enumerate(texts):
        if beyond is not None and text and (most := len(text.encode()) + beyond) <= limit:
            lengths[number] = most
        else:
            by_form.setdefault((adds, splits), []).append(number)
    for form, numbers in by_form.items():
        lengths |= zip(numbers, _count(tokenizer, [texts[number].text for number in numbers], *form), strict=True)
    return [lengths[number] for number in range(len(texts))]


def _count(tokenizer: Any, texts: list[str], adds_special_tokens: bool, splits_special_tokens: bool) -> list[int]:
    """Count the tokens of some texts. Other than in a call of the tokenizer, nobody finds where each token is, and makes lists of ids."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    closing = closing_tokens(tokenizer) if adds_special_tokens else 0  # only prompts get special tokens, and they are left open
    backend.encode_special_tokens = splits_special_tokens
    return [len(found) - closing for found in backend.encode_batch_fast(texts, add_special_tokens=adds_special_tokens)]


@lru_cache(maxsize=8)
def _tokens_beyond_bytes(tokenizer: Any) -> int | None:
    """How many tokens a text can have beyond its bytes, for a tokenizer that makes no more than one token of a byte; None for any other.

    Byte-level BPE begins with one symbol for each byte and only joins symbols. A normalizer might make a text longer, and bytes without a
    symbol would be no tokens at all. Pre-tokenizers that put a space in front of a text may do so in front of each of its pieces. Special
    tokens may stand around a text.
    """
    backend, letter = tokenizer.backend_tokenizer, "ก"
    splits, alphabet = backend.pre_tokenizer, pre_tokenizers.ByteLevel.alphabet()
    if not isinstance(backend.model, models.BPE) or backend.normalizer is not None or splits is None:
        return None
    symbols = "".join(piece for piece, _ in splits.pre_tokenize_str(letter))
    if len(symbols) != len(letter.encode()) or not set(alphabet) <= backend.get_vocab().keys():
        return None
    return backend.num_special_tokens_to_add(False)
