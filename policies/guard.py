"""What is done while PPO trains if its policy seems to exploit what it is scored by (`ppo.guard`).

Now and then, a function that PPO is given looks at the policy on prompts that it is not trained on, and says whether it is alarmed: every
few updates, and sooner if the policy moves fast.

    warn   PPO goes on
    stop   PPO ends, with the policy at which the alarm rose
    best   PPO ends, and goes back to the last policy that was looked at without an alarm, or to where it started

What is done follows from the looks so far and from the policy that is kept, and both are part of every checkpoint. So PPO that is resumed
decides as PPO that was never stopped. A look must never change the policy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from policies import parallel

Action = Literal["warn", "stop", "best"]
ALARM_OF_THE_MAIN_WORKER = "the main worker is alarmed"


@dataclass(frozen=True)
class Look:
    """What was seen of the policy after an update. alarm: what is wrong, for people; empty where nothing is. figures: any plain data.

    moved: the KL divergence of the policy in that update, in nats for each token of its responses.
    """

    update: int
    alarm: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    moved: float = 0.0


def is_time(update: int, every: int) -> bool:
    """Whether the policy is looked at after so many updates: every `every` updates, and a first time after half of them.

    A policy moves fastest in the first updates, and without that look `best` could only go back to where PPO started.
    """
    return every > 0 and (update % every == 0 or update == every // 2)


class Guard:
    """Looks at the policy when it is time, when it has moved, and after the last update. With `every` 0 it does nothing.

    step: how much farther than at all looks before the policy has to be for another look, in nats for each token. A policy that
    over-optimizes its reward moves fast, so this look comes soon, and a policy that stays where it is costs no further looks.
    """

    def __init__(self, action: Action = "warn", every: int = 0, look: Callable[[int], Look] = Look, step: float = math.inf):
        self.action, self.every, self._look, self.step = action, every, look, step
        self.looks: list[Look] = []
        self.kept: torch.Tensor | None = None
        """The parameters that `best` goes back to."""

    def begin(self, policy: torch.nn.Parameter) -> None:
        """Take note of where PPO starts. policy: the vector of its parameters. Not called where PPO is resumed."""
        self._keep(policy)

    def after(self, update: int, is_last: bool, policy: torch.nn.Parameter, moved: float = 0.0) -> None:
        """Look at the policy if there is a reason. All workers call this with the same numbers, and agree on the alarm.

        moved: the KL divergence of the policy in this update, in nats for each token of its responses.
        """
        has_moved = moved >= max((look.moved for look in self.looks), default=0.0) + self.step
        if not self.every or not (is_last or has_moved or is_time(update, self.every)):
            return
        look = replace(self._look(update), moved=moved)
        is_alarmed = parallel.agree(bool(look.alarm))
        if not is_alarmed:
            self._keep(policy)
        self.looks.append(replace(look, alarm=(look.alarm or ALARM_OF_THE_MAIN_WORKER) if is_alarmed else ""))

    @property
    def alarm(self) -> Look | None:
        """The first look with an alarm."""
        return next((look for look in self.looks if look.alarm), None)

    @property
    def has_ended(self) -> bool:
        """Whether PPO ends here."""
        return self.action != "warn" and self.alarm is not None

    @property
    def chosen(self) -> int | None:
        """After how many updates the policy was as it is given away. None means after all of them."""
        if not self.has_ended or not self.alarm:
            return None
        without = [look.update for look in self.looks if not look.alarm]
        return self.alarm.update if self.action == "stop" else max(without, default=0)

    def settle(self, policy: torch.nn.Parameter) -> None:
        """Give the policy the parameters that are given away."""
        if self.has_ended and self.kept is not None:
            with torch.no_grad():
                policy.copy_(self.kept)

    def _keep(self, policy: torch.nn.Parameter) -> None:
        if self.action == "best":
            self.kept = policy.detach().clone()
