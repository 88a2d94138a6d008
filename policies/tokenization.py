"""Texts and token ids. The only place that knows chat templates, special tokens and end tokens.

An answer may end with any of a model's end tokens (`end_tokens`), or in a stop string. Where training and judging append an end token, it
is always the tokenizer's own `eos_token`, so one answer has one form.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers.utils import chat_template_utils

Prompt = str | list[dict[str, str]]
"""Plain text, or messages of `role` and `content` (TRL's conversational form)."""
DAY = datetime(2024, 7, 26)
"""The day that chat templates write that ask for today's, as those of Llama 3.2 and SmolLM3 do. A prompt must be the same on every day, so
that a run that goes on tomorrow ends with the same bytes. This one is what Llama 3.2's template writes where it cannot ask."""
HH_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}
"""How the roles are called in the form of HH, which base models without a chat template get."""


class DialogueRefused(Exception):
    """The chat template cannot write a dialogue; the text is its reason."""


def last_turn(prompt: Prompt) -> str:
    """Return what was said last in a prompt, for people to read."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt, ready for the model to answer.

    Messages are encoded by `encode_messages`. Plain text is encoded as the tokenizer does it, without what it may write behind every text.
    Special tokens in plain text are taken as such, because some data sets contain prompts that a chat template has written. So is a start
    token: the tokenizer's own is then left out.
    """
    if isinstance(prompt, str):
        return _to_continue(tokenizer, tokenizer(prompt)["input_ids"])
    return encode_messages(tokenizer, prompt, add_generation_prompt=True)


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int] | DialogueRefused]:
    """What `encode_prompt` returns, or the error that it raises, for each prompt. Plain texts are encoded at once, which is faster."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = (_to_continue(tokenizer, ids) for ids in (tokenizer(texts)["input_ids"] if texts else []))
    return [next(encoded) if isinstance(prompt, str) else _encode_or_refuse(tokenizer, prompt) for prompt in prompts]


def _encode_or_refuse(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int] | DialogueRefused:
    try:
        return encode_messages(tokenizer, messages, add_generation_prompt=True)
    except DialogueRefused as error:
        return error


@lru_cache(maxsize=8)
def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer writes in front of every text and behind it, for example the end token with `add_eos_token`."""
    bare, whole = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    starts = [i for i in range(len(whole) - len(bare) + 1) if bare and whole[i : i + len(bare)] == bare]
    return (whole[: starts[0]], whole[starts[0] + len(bare) :]) if starts else ([], [])


def closing_tokens(tokenizer: Any) -> int:
    """Return how many special tokens a tokenizer writes behind every text."""
    return len(_frame(tokenizer)[1])


def opens_with_start(tokenizer: Any) -> bool:
    """Tell whether a tokenizer writes its start token in front of every text."""
    return tokenizer.bos_token_id is not None and _frame(tokenizer)[0][:1] == [tokenizer.bos_token_id]


def _to_continue(tokenizer: Any, ids: list[int]) -> list[int]:
    """The ids of a text that is to be continued, from those that the tokenizer gives.

    An answer after an end token would be that to another text. A text that spells out its start token gets no second one.
    """
    start = 1 if ids[:2] == [tokenizer.bos_token_id] * 2 and opens_with_start(tokenizer) else 0
    return ids[start : len(ids) - closing_tokens(tokenizer)]


def encode_messages(tokenizer: Any, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
    """Return the token ids of a dialogue, written by the tokenizer's chat template.

    A base model without a template gets the form of HH ("\\n\\nHuman: ...\\n\\nAssistant:"). Only the template writes special tokens: those
    inside a message are encoded as plain text. Raises DialogueRefused if the template cannot write the dialogue. Many templates want
    turns that alternate, and some do not allow a system turn.
    """
    template = str(tokenizer.chat_template or "")  # some tokenizers have several, by name
    return list(_encode_turns(tokenizer, template, json.dumps(list(messages)), add_generation_prompt))


def hh_template(tokenizer: Any) -> str:
    """Return a chat template that writes what `encode_messages` writes for this tokenizer, which has none."""
    begins = "{{ bos_token }}" if opens_with_start(tokenizer) else ""
    name = f"{json.dumps(HH_NAMES)}.get(message['role'], message['role'])"
    turns = f"{{% for message in messages %}}{{{{ '\\n\\n' + {name} + ': ' + message['content'] }}}}{{% endfor %}}"
    return f"{begins}{turns}{{% if add_generation_prompt %}}{{{{ '\\n\\nAssistant:' }}}}{{% endif %}}"


class Written(NamedTuple):
    """A dialogue as one text, and how that is encoded."""

    text: str
    adds_special_tokens: bool
    splits_special_tokens: bool


def write_messages(tokenizer: Any, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False) -> Written | None:
    """Return the text whose tokens `encode_messages` returns. None where a message holds a special token, so that no text says which
    of them the template has written. Raises DialogueRefused as `encode_messages` does."""
    if not tokenizer.chat_template:
        return Written(_as_hh(messages, add_generation_prompt), adds_special_tokens=True, splits_special_tokens=True)
    if _holds_special_token(tokenizer, messages):
        return None
    with _writing():
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    return Written(text, adds_special_tokens=False, splits_special_tokens=False)


@lru_cache(maxsize=8192)
def _encode_turns(tokenizer: Any, template: str, dialogue: str, ask: bool) -> tuple[int, ...]:
    """What `encode_messages` returns. Cached, because every stage asks for the same few thousand prompts, and a template is slow.

    template: the tokenizer's own, or "" if it has none. dialogue: the messages as JSON, because the cache wants something that cannot
    change, and the calls of tools are nested.
    """
    messages = json.loads(dialogue)
    if not template:
        return tuple(_to_continue(tokenizer, tokenizer(_as_hh(messages, ask), split_special_tokens=True)["input_ids"]))
    # Sanitizing also encodes ordinary added tokens of the template, such as <think>, as plain text, so it is used only where needed.
    special = _holds_special_token(tokenizer, messages)
    with _writing():
        written = tokenizer.apply_chat_template(messages, add_generation_prompt=ask, return_dict=True, sanitize_control_tokens=special)
    return tuple(written["input_ids"])


def _as_hh(messages: Sequence[dict[str, Any]], ask: bool) -> str:
    """A dialogue in the form of HH."""
    if any(m.get("tool_calls") for m in messages):
        raise DialogueRefused("only a chat template can write the calls of tools, and the base has none")
    text = "".join(f"\n\n{HH_NAMES.get(m['role'], m['role'])}: {m['content']}" for m in messages)
    return text + ("\n\nAssistant:" if ask else "")


def _holds_special_token(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> bool:
    return any(_special_tokens(tokenizer).pattern.search(m["content"]) for m in messages)


class _StoppedClock:
    """What transformers asks for the time while a chat template writes."""

    @staticmethod
    def now() -> datetime:
        return DAY


@contextmanager
def _writing() -> Iterator[None]:
    """Lets a chat template write, always on the same DAY, and turns what it raises into DialogueRefused."""
    template_utils: Any = chat_template_utils
    clock, template_utils.datetime = getattr(template_utils, "datetime", None), _StoppedClock  # another version may not have it
    try:
        yield
    except (TemplateError, ValueError) as error:  # transformers raises ValueError if it cannot encode a token as plain text
        raise DialogueRefused(str(error)) from None
    finally:
        template_utils.datetime = clock


def encode_completion(tokenizer: Any, completion: str, finished: bool = True) -> list[int]:
    """Return the token ids of a completion, with the tokenizer's end token if it is finished. Special tokens in the text are plain text."""
    ids = tokenizer(completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + [tokenizer.eos_token_id] if finished else ids


def encode_completions(tokenizer: Any, completions: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """What `encode_completion` returns for each of the completions, which are texts and whether they are finished, at once."""
    texts = [text for text, _ in completions]
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
    return [ids + [tokenizer.eos_token_id] if finished else ids for ids, (_, finished) in zip(encoded, completions, strict=True)]


def end_also_at(tokenizer: Any, token_ids: int | Sequence[int] | None) -> None:
    """Have answers end with these tokens as well, as the generation config of a model names them: one, a list, or None."""
    tokenizer.more_end_tokens = [token_ids] if isinstance(token_ids, int) else list(token_ids or [])


def end_tokens(tokenizer: Any) -> list[int]:
    """Return the ids of the tokens with which an answer ends. The first one is the tokenizer's own."""
    return list(dict.fromkeys([tokenizer.eos_token_id, *getattr(tokenizer, "more_end_tokens", [])]))


def decode_completion(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of sampled ids, without the end token that closes them.

    Other special tokens are shown, because they were sampled. Bytes that are no valid text become U+FFFD.
    """
    return _decode(tokenizer, _without_end(tokenizer, ids))


def as_read(tokenizer: Any, ids: Sequence[int], finished: bool) -> list[int]:
    """Return sampled ids in the form in which they are judged, which is that of `encode_completion`.

    These are the same ids, unless the text does not show them: a special token inside, or an id for which the tokenizer has no text. In
    this case they are the ids of the text, because labelers see only the text. An answer that ended with another end token than the
    tokenizer's own, or in a stop string, gets the tokenizer's own.
    """
    inside = _without_end(tokenizer, ids)
    special, known = _special_tokens(tokenizer).ids, len(tokenizer)
    if any(id in special or id >= known for id in inside):
        return encode_completion(tokenizer, _decode(tokenizer, inside), finished)
    return [*inside, tokenizer.eos_token_id] if finished else inside


def holds_stop_string(tokenizer: Any, ids: Sequence[int], stop_strings: Sequence[str]) -> bool:
    """Tell whether the last token of sampled ids completes one of the stop strings.

    Only the end of the text is decoded: a stop string of n bytes lies in the last n tokens. The token before them is decoded as well,
    because some tokenizers drop the space in front of a text. Tokens of single bytes are decoded with all their neighbors of this kind:
    where these are no valid text together, none of them is shown.
    """
    longest = max(len(stop.encode()) for stop in stop_strings)
    start, single_bytes = max(0, len(ids) - longest - 1), _single_bytes(tokenizer)
    while start and ids[start] in single_bytes:
        start -= 1
    text = _decode(tokenizer, ids[start:])
    return any(stop in text for stop in stop_strings)


@lru_cache(maxsize=8)
def _single_bytes(tokenizer: Any) -> dict[int, int]:
    """The byte of each token with which some tokenizers, such as that of Llama 2, write what they have no other token for."""
    found = {id: int(token[3:5], 16) for token, id in tokenizer.get_vocab().items() if re.fullmatch(r"<0x[0-9A-F]{2}>", token)}
    return found if len(found) == 256 else {}


def _without_end(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    return list(ids[:-1] if ids and ids[-1] in end_tokens(tokenizer) else ids)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some ids. A letter that is cut off at the end is one U+FFFD, and does not make such of whole letters before it."""
    cut = _bytes_of_cut_letter(tokenizer, ids)
    text = tokenizer.decode(ids[: len(ids) - cut], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return f"{text}\ufffd" if cut else text


def _bytes_of_cut_letter(tokenizer: Any, ids: Sequence[int]) -> int:
    """How many tokens of single bytes at the end are the first bytes of a letter in UTF-8 whose last bytes are missing."""
    single_bytes = _single_bytes(tokenizer)
    for count, id in enumerate(reversed(ids[-3:]), start=1):
        byte = single_bytes.get(id, 0)
        if byte >= 0xC0:  # the first byte of a letter of two, three or four
            return count if count < 2 + (byte >= 0xE0) + (byte >= 0xF0) else 0
        if byte < 0x80:  # not within a letter
            return 0
    return 0


@dataclass(frozen=True)
class _SpecialTokens:
    """A tokenizer's special tokens: a pattern that matches their texts, and their ids."""

    pattern: re.Pattern[str]
    ids: frozenset[int]


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any) -> _SpecialTokens:
    """Cached, because Llama 3 has 256 of them and every prompt needs them."""
    found = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return _SpecialTokens(re.compile("|".join(map(re.escape, found.values())) or "(?!)"), frozenset(found))
