"""Who may use the page: one-time tokens, the keys that browsers get for them, the names of the raters, and the Host header.

A token is in the fragment of the address, which browsers send to nobody. The page exchanges it once for a key, which is bound to a rater's
name, and sends the key with every request in a header. So no other site can send one in the rater's name. Keys outlive the server: their
hashes are on disk, and a page that is open works again after a restart. Must never write a key or a token to disk.
"""

import hashlib
import ipaddress
import json
import secrets
import unicodedata
from contextlib import suppress
from pathlib import Path

from configs.errors import UserError
from loop.printing import printable
from loop.store.artifacts import write_synced

MAX_NAME = 40


class Door:
    """The token that is open now, and the rater of each key. file: where the hashes of the keys are kept."""

    def __init__(self, file: Path):
        self._file = file
        self.token = secrets.token_urlsafe(16)
        try:
            self._raters: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except (OSError, ValueError):
            raise UserError("the list of raters cannot be read", str(file), "delete it: raters then open a new address") from None

    def enter(self, token: str, rater: str) -> str | None:
        """Exchange the token for a key, and open another token. None if it is not the one that is open now."""
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode()):
            return None
        key = secrets.token_urlsafe(32)
        self._raters[_hash(key)] = rater
        self._file.parent.mkdir(exist_ok=True)
        write_synced(self._file, json.dumps(self._raters, ensure_ascii=False, indent=1) + "\n")
        self.token = secrets.token_urlsafe(16)
        return key

    def rater(self, key: str) -> str | None:
        """Whose key this is."""
        return self._raters.get(_hash(key))


def check_rater(name: object) -> str:
    """A rater's name in the form in which labels have it. Raises ValueError with what is wrong, for the page."""
    if not isinstance(name, str) or not (name := unicodedata.normalize("NFC", name).strip()):
        raise ValueError("Type a name.")
    if len(name) > MAX_NAME:
        raise ValueError(f"Type a name of at most {MAX_NAME} characters.")
    if "," in name or "\n" in name or printable(name) != name:
        raise ValueError("Type a name without commas and control characters.")  # a comma joins the names of several raters
    return name


def is_allowed(host_header: str, host: str) -> bool:
    """Whether a request was sent to this page under its own name. host: the one that the page listens on.

    A page of another site can give this machine a name of its own and then read what the page answers (DNS rebinding). It cannot
    do that with an address.
    """
    name = host_header.rpartition(":")[0] if host_header.rpartition(":")[2].isdigit() else host_header
    name = name.strip("[]").casefold()
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in ("localhost", host.casefold())


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
