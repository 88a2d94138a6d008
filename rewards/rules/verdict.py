"""What a rule says about a completion."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What was measured, what it is compared with, and what follows. It counts as true if the rule fires.

    value: how much of the defect there is. threshold: the most that is accepted, so the rule fires if `value` is above it. measure: what
    was measured, where a rule measures several things; the one that is furthest above its threshold is given.
    """

    rule: str
    value: float
    threshold: float
    measure: str = ""

    @property
    def fires(self) -> bool:
        """Whether the completion has the defect."""
        return self.value > self.threshold

    def __bool__(self) -> bool:
        return self.fires
