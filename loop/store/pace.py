"""How fast a running stage goes, found out by those who look at its progress again and again.

Nothing that a run computes depends on it. Must never import torch or Ray.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from loop.store.progress import Progress

WINDOW_SECONDS = 60.0
"""The pace is that of the last minute, because the steps of a stage may become slower or faster."""


class Pace:
    """The pace of one stage. It begins anew where the stage begins another count, as the stage `retrain` does after training."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._looks: deque[tuple[float, int]] = deque()
        self._now = Progress()

    def look(self, now: Progress) -> int:
        """Take note of the progress. Returns how many steps were done since the last look."""
        is_same = now.total == self._now.total and now.done >= self._now.done
        if not is_same:
            self._looks.clear()
        steps = now.done - self._now.done if is_same else now.done
        if steps or not self._looks:
            self._looks.append((self._clock(), now.done))
        while len(self._looks) > 2 and self._looks[-1][0] - self._looks[0][0] > WINDOW_SECONDS:
            self._looks.popleft()
        self._now = now
        return steps

    @property
    def steps_per_second(self) -> float | None:
        """None before two different looks. A stage that stands still becomes slower with every moment."""
        if len(self._looks) < 2:
            return None
        (began, first), (seen, last) = self._looks[0], self._looks[-1]
        step = (seen - began) / (last - first)
        return (last - first) / (seen - began + max(0.0, self._clock() - seen - step))

    @property
    def seconds_left(self) -> float | None:
        """How long the present count still takes at this pace; None while that is not known."""
        pace = self.steps_per_second
        return (self._now.total - self._now.done) / pace if pace and self._now.total else None


def samples_in_a_step(metrics: Mapping[str, float], config: Mapping[str, Any]) -> tuple[int, float]:
    """How many completions a step of a running stage samples, and their mean length in tokens. (0, 0.0) where it samples none.

    metrics: what the stage reports. A step of PPO samples a whole batch. A step of other stages that sample is one completion.
    """
    if "val/response_length" in metrics:
        return config["ppo"]["batch_size"], metrics["val/response_length"]
    return (1, metrics["length"]) if "length" in metrics else (0, 0.0)
