"""What a running stage tells the outside: a small JSON file in its work directory, replaced a few times a second.

    {"done": 12, "total": 40, "metrics": {"objective/kl": 0.7}, "texts": ["..."], "warning": ""}

The main worker writes it; the driver's progress bar and `status` read it. Nothing that a run computes depends on it. Must never
import torch or Ray.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

INTERVAL_SECONDS = 0.2
"""How much time passes between two writes at least. The last step of a stage is always written."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is. `total` is 0 while it is not known. `metrics` are the latest figures, `texts` a few samples. `warning` is what
    the user should know now."""

    done: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    texts: Sequence[str] = ()
    warning: str = ""


class ProgressFile:
    """The file as the worker sees it."""

    def __init__(self, path: Path):
        self.path, self._written = path, 0.0

    def write(
        self, done: int, total: int, metrics: Mapping[str, float] | None = None, texts: Sequence[str] = (), warning: str = ""
    ) -> None:
        """Replace the file, unless it was replaced a moment ago."""
        now = time.monotonic()
        if now - self._written >= INTERVAL_SECONDS or done == total:
            self._written = now
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(asdict(Progress(done, total, metrics or {}, list(texts), warning))), encoding="utf-8")
            temporary.replace(self.path)


def read_progress(path: Path) -> Progress:
    """What the file says; nothing done where there is no file yet."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Progress()
