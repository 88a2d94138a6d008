"""Asks a language model over HTTP, by the chat-completions protocol of OpenAI. Knows nothing of labels.

A reply is paid for, so it is never paid twice: each one is on disk, fsynced, before it is used, under the hash of what was asked. Of
several threads that ask the same, one asks, and the others find its reply. A kill loses only what was under way, and such a request is sent
again with the same `Idempotency-Key`, by which an endpoint may know it.

    2xx                     a reply, whatever its text
    408, 409, 429, 5xx      tried again, as are time-outs, lost connections and replies that are not of the protocol
    400, 413, 422           `Refused`: the endpoint does not want this one request, for example for its content or its length
    any other               UserError: the address, the key or the name of the model is wrong

The key comes from the environment. It must never enter a message, a log or a file.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import httpx2 as httpx

from configs.endpoints import EndpointConfig
from configs.errors import UserError, WaitingForLabels

Config = TypeVar("Config", bound=EndpointConfig)
REFUSED, TRIED_AGAIN = (400, 413, 422), (408, 409, 429)
LONGEST_BACKOFF = 60.0
LONGEST_WAIT = 600.0
"""An endpoint that asks for a longer pause, in seconds, ends the run instead."""
SHOWN_CHARACTERS = 300
"""How much of an endpoint's error a message shows."""


@dataclass(frozen=True)
class Reply:
    """What the model said, how many tokens were paid for, and when. text: None if the reply has no text. is_cut: whether the endpoint says
    that a limit has cut it off. Replies that were kept before this was noted do not say so."""

    text: str | None
    input_tokens: int
    output_tokens: int
    at: str
    is_cut: bool = False


class Refused(Exception):
    """The endpoint does not answer this request. The text says why."""


class _Again(Exception):
    """The request may succeed later. seconds: how long the endpoint asks to wait."""

    def __init__(self, why: str, seconds: float = 0.0):
        super().__init__(why)
        self.seconds = seconds


class ReplyCache:
    """Replies by what was asked, one file each. A file is complete or absent: written under another name, fsynced, then renamed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply, or None if there is none, or none that can be read."""
        try:
            return Reply(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply. After this it survives a kill."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(reply), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class Endpoint(Generic[Config]):
    """One model at one address. Threads may share it. Use it in a `with` block, which closes its connections."""

    def __init__(self, config: Config, cache: ReplyCache, who: str = "the judge", section: str = "judge"):
        """who, section: what messages call the model, and the group of its settings."""
        self.config, self._cache = config, cache
        self._who, self._section = who, section
        self._key = _key(config, section)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(headers=headers, timeout=config.timeout_seconds)
        self._given_up = threading.Event()
        self._under_way: dict[str, threading.Lock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextmanager
    def giving_up_together(self) -> Iterator[None]:
        """If the block fails, threads that wait for another try stop waiting."""
        try:
            yield
        except BaseException:
            self._given_up.set()
            raise

    def ask(self, text: str, attempt: int = 0) -> Reply:
        """The reply to one message of a user. attempt: 0 for the first time; a further one is another reply to the same message.

        Raises Refused, UserError if no request can succeed, and WaitingForLabels if the endpoint does not answer in the allowed tries.
        """
        config = self.config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": config.sampling_temperature,
        }
        if config.max_reply_tokens is not None:
            body[config.token_limit] = config.max_reply_tokens
        asked = json.dumps({"url": config.url, "body": body, "attempt": attempt}, sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        with self._under_way.setdefault(key, threading.Lock()):
            found = self._cache.get(key)
            if found is None:
                found = self._try(json.dumps(body).encode(), key)
                self._cache.put(key, found)
        return found

    def _try(self, body: bytes, key: str) -> Reply:
        for tries in range(self.config.max_retries + 1):
            try:
                return self._post(body, key)
            except _Again as again:
                if tries == self.config.max_retries or again.seconds > LONGEST_WAIT or self._given_up.is_set():
                    raise WaitingForLabels(self._message(str(again))) from None
                self._given_up.wait(max(again.seconds, min(self.config.backoff_seconds * 2**tries, LONGEST_BACKOFF)))
        raise AssertionError("the last try has returned or raised")

    def _post(self, body: bytes, key: str) -> Reply:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        try:
            response = self._client.post(f"{self.config.url}/chat/completions", content=body, headers=headers)
        except httpx.TimeoutException:
            raise _Again(f"there was no reply within {self.config.timeout_seconds:g} seconds") from None
        except httpx.RequestError as error:  # of the connection, or of what came through it and cannot be unpacked
            raise _Again(f"the connection failed: {self._clean(str(error)) or type(error).__name__}") from None
        status = response.status_code
        if status in TRIED_AGAIN or status >= 500:
            raise _Again(f"status {status}: {self._said(response)}", _retry_after(response))
        if status in REFUSED:
            raise Refused(f"status {status}: {self._said(response)}")
        if not response.is_success:
            name = self._section
            raise UserError(
                f"{self._who}'s endpoint refuses all requests: status {status}: {self._said(response)}",
                self.config.url,
                f"check {name}.url, {name}.model, and the key in the environment variable that {name}.key_variable names",
            )
        return _read(response)

    def _message(self, why: str) -> str:
        return (
            f"{self._who} does not answer: {why}\n"
            f"  endpoint: {self.config.url}\n"
            "  replies so far are kept, and none is paid twice\n"
            "  run the same command again once the endpoint answers"
        )

    def _said(self, response: httpx.Response) -> str:
        """The endpoint's own message about an error, without the key."""
        try:
            said = response.json()
            said = said["error"]["message"] if isinstance(said["error"], dict) else said["error"]
        except (ValueError, TypeError, KeyError, RecursionError):
            said = response.text
        return self._clean(" ".join(str(said).split()))[:SHOWN_CHARACTERS]

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _key(config: EndpointConfig, section: str) -> str:
    """The key, or "" if the endpoint needs none. Raises UserError if the variable is not set."""
    if config.key_variable is None:
        return ""
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        what = "holds characters that no key has" if key else "is not set"
        raise UserError(
            f"the environment variable {config.key_variable} {what}", f"{section}.key_variable", "export it before you start the run"
        )
    return key


def _read(response: httpx.Response) -> Reply:
    """The reply in a response of the protocol. Raises _Again for any other: a proxy or a server that starts may send a page of its own."""
    try:
        said = response.json()
        choice = said["choices"][0]
        text, is_cut = choice["message"].get("content"), choice.get("finish_reason") == "length"
        usage = said.get("usage") or {}
        sent, received = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        raise _Again("the reply is not of the chat-completions protocol") from None
    return Reply(text if isinstance(text, str) else None, sent, received, datetime.now(UTC).isoformat(timespec="seconds"), is_cut)


def _retry_after(response: httpx.Response) -> float:
    """How many seconds the endpoint asks to wait: `Retry-After` is a number or a date, in UTC where it names no zone (RFC 9110, section
    5.6.7). 0 where it asks for nothing."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
