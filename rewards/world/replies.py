"""Completions as rules see them. Only the embedded world knows where declining is the right answer."""

from rewards.comparisons import Prompt
from rewards.rules.reply import Reply
from rewards.world import writer


def reply_to(prompt_id: str, prompt: Prompt, source: str, completion: str, finished: bool) -> Reply:
    """A completion of any prompt, of the embedded world or not, as a rule gets it."""
    known = writer.all_prompts().get(prompt_id)
    return Reply(prompt, completion, finished, source, refusal_is_due=known is not None and known.source == "redteam")
