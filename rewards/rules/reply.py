"""What a rule is asked about."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from configs.fields import ExpectedLanguage
from rewards.comparisons import Prompt
from rewards.rules.verdict import Verdict


class OtherTexts(Protocol):
    """Completions to compare with (`duplicates.Texts`)."""

    def nearest(self, prompt: Prompt, text: str) -> float:
        """How similar the nearest completion of another prompt is, from 0 to 1."""
        ...


@dataclass(frozen=True)
class Reply:
    """A completion and what a rule may know of it."""

    prompt: Prompt
    """Text, or messages of `role` and `content`."""
    text: str
    """The completion as the policy wrote it."""
    finished: bool = True
    """Whether the policy ended the completion itself. It is False if the token limit cut it off."""
    source: str = ""
    """The part of the data that the prompt comes from."""
    refusal_is_due: bool = False
    """Whether declining is the right answer. It is only known in the embedded world."""
    expected_language: ExpectedLanguage = "same"
    """The language that the answer should be in."""
    others: "OtherTexts | None" = field(default=None, repr=False, compare=False)
    """Completions of other prompts that this one should not repeat; None where there are none to compare with."""

    @property
    def question(self) -> str:
        """Everything that the user has said, joined by spaces: a follow-up alone is too short to tell its language."""
        if isinstance(self.prompt, str):
            return self.prompt
        return " ".join(message["content"] for message in self.prompt if message["role"] == "user")

    @property
    def last_turn(self) -> str:
        """The last thing that was said before the completion."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]


Rule = Callable[[Reply], Verdict | bool]
"""Looks for one defect in a reply. A user's rule may return a truth value alone."""
