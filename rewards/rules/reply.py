"""What a rule is asked about."""

from collections.abc import Callable
from dataclasses import dataclass

from rewards.comparisons import Prompt


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

    @property
    def question(self) -> str:
        """Everything that the user has said, joined by spaces: a follow-up alone is too short to tell its language."""
        if isinstance(self.prompt, str):
            return self.prompt
        return " ".join(message["content"] for message in self.prompt if message["role"] == "user")


Rule = Callable[[Reply], bool]
"""Whether a reply has one defect."""
