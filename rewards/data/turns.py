"""Messages of a dialogue, in the forms that people have them, as the `Prompt` of our records. Plain data; imports no ML library.

A message keeps its role and its text, and a tool's turn the name of the tool. Text may come as a list of parts, as in the APIs of today:
parts of text are joined, and any other part (a picture, a sound) is refused, because nothing here could read it.
"""

import re
from typing import Any

from rewards.comparisons import Prompt
from rewards.data.unusable import BadRow

ROLES = ("system", "user", "assistant", "tool")
"""The roles that chat templates know. With any other role it is unclear who speaks."""
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Who speaks in ShareGPT's form -> the role."""
KEPT = ("name", "tool_call_id")
"""Further keys of a message that are kept where they are text: templates write them."""
HH_TURN = re.compile(r"\n\n(Human|Assistant):")

Turn = dict[str, Any]


def as_messages(value: Any, name: str) -> list[Turn]:
    """A list of messages. Raises BadRow if it is none, with `name` for what is meant."""
    if not isinstance(value, list):
        raise BadRow(f"{name} is not text or messages")
    return [_message(message) for message in value]


def as_prompt(value: Any, name: str = "prompt") -> Prompt:
    """Text as it is, or a list of messages. Raises BadRow for anything else."""
    return value if isinstance(value, str) else as_messages(value, name)


def from_sharegpt(value: Any) -> list[Turn]:
    """ShareGPT's turns, which say `from` and `value`, as messages. Raises BadRow if there are none."""
    if not isinstance(value, list):
        raise BadRow("conversations is not a list of turns")
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
            raise BadRow("a turn lacks from or value")
        if turn["from"] == "function_call":
            raise BadRow("a turn calls a function in ShareGPT's form")
        if turn["from"] not in SHAREGPT_ROLES:
            raise BadRow("a turn's from is no role of ShareGPT's form")
        turns.append({"role": SHAREGPT_ROLES[turn["from"]], "content": _text(turn["value"])})
    return turns


def from_hh(text: str) -> list[Turn]:
    """HH's "\\n\\nHuman: ...\\n\\nAssistant: ..." as messages. Raises BadRow if there is text before the first turn."""
    before, *parts = HH_TURN.split("\n\n" + text.lstrip())
    if before.strip():
        raise BadRow("there is text before the first turn of a dialogue")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


def split_answer(turns: list[Turn]) -> tuple[list[Turn], str]:
    """The messages before the last one, and its text, which is an answer. Raises BadRow if it is none."""
    if not turns or turns[-1]["role"] != "assistant":
        raise BadRow("a dialogue does not end with the assistant")
    if turns[-1].get("tool_calls"):
        raise BadRow("an answer calls tools")
    return turns[:-1], turns[-1]["content"]


def question_and_answer(turns: list[Turn]) -> tuple[list[Turn], str | None]:
    """What a dialogue asks, and its last answer. If it ends with somebody else, all of it is the question, and there is no answer."""
    return split_answer(turns) if turns and turns[-1]["role"] == "assistant" else (turns, None)


def said_in(prompt: Prompt) -> str:
    """All text of a prompt."""
    return prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)


def _message(message: Any) -> Turn:
    if not isinstance(message, dict) or "role" not in message:
        raise BadRow("a message lacks role or text content")
    if message["role"] not in ROLES:
        raise BadRow(f"a message's role is none of {', '.join(ROLES)}")
    calls = message.get("tool_calls")
    content = message.get("content")
    turn: Turn = {"role": message["role"], "content": "" if content is None and calls else _text(content)}
    if calls:
        if message["role"] != "assistant" or not isinstance(calls, list):
            raise BadRow("tool_calls is not a list of the assistant's calls")
        turn["tool_calls"] = calls
    return turn | {name: message[name] for name in KEPT if isinstance(message.get(name), str)}


def _text(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow("a message lacks role or text content")
    texts = [part if isinstance(part, str) else _text_of_part(part) for part in content]
    return "".join(texts)


def _text_of_part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else None
    raise BadRow(f"a message has a part that is no text ({kind[:30]})" if isinstance(kind, str) else "a message has a part that is no text")
