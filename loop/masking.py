"""Takes secrets out of texts that others wrote: tracebacks, logs, and what the libraries of trackers print and say.

A secret is the value of an environment variable whose name says so (WANDB_API_KEY, HF_TOKEN, MLFLOW_TRACKING_PASSWORD), a user name and
password in an address, or what follows a word such as `password=`. A library may also keep keys in files of its own: those are found only
where such a word stands before them.
"""

import io
import os
import re
from collections.abc import Iterable
from typing import TextIO

from configs.schema import RunConfig

MASK = "***"
SHORTEST = 6
"""How many characters a value has at least. Shorter ones would be found in ordinary words and numbers."""
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|CONNECTION_STRING|_PASS|_PAT)$", re.IGNORECASE)
_ADDRESS = re.compile(r"://\S*@")
_NAMED = re.compile(
    r"""((?:(?:api|account|access)[_-]?key|token|password|passwd|secret)["']?\s*[=:]\s*["']?"""
    r"""|authorization["']?\s*[=:]\s*["']?(?:bearer|basic)\s+)[^\s"',;&]+""",
    re.IGNORECASE,
)


def secrets_here(also: Iterable[str] = ()) -> list[str]:
    """The secrets in the environment, the longest first. also: variables that hold one, whatever their names are."""
    names = {name for name in os.environ if _SECRET_NAME.search(name)} | set(also)
    values = {os.environ.get(name, "").strip() for name in names}
    return sorted((value for value in values if len(value) >= SHORTEST), key=lambda value: (-len(value), value))


def secrets_of(config: RunConfig) -> list[str]:
    """The secrets in the environment, with those of which only the settings of a run say that they are secrets."""
    return secrets_here(filter(None, (config.judge.key_variable, config.pivot.key_variable)))


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without secrets."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _NAMED.sub(rf"\g<1>{MASK}", _ADDRESS.sub(f"://{MASK}@", text))


class MaskedLog(io.TextIOBase):
    """A log without secrets. Must never write a part of a line, because a secret may be written in two parts: the rest of a line is kept
    until the line ends or the log is closed."""

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, file: TextIO, secrets: Iterable[str]):
        self._file, self._secrets, self._line = file, list(secrets), ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take text in. Raises TypeError for bytes, and ValueError if the log is closed."""
        if self.closed:
            raise ValueError("the log is closed")
        lines, end, self._line = (self._line + text).rpartition("\n")
        self._file.write(masked(lines + end, self._secrets))
        return len(text)

    def flush(self) -> None:
        if not self.closed:
            self._file.flush()

    def close(self) -> None:
        """Write what is left, and end. The file stays open."""
        if not self.closed:
            self._file.write(masked(self._line, self._secrets))
            self._file.flush()
        super().close()
