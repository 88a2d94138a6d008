"""How long the prompts and completions of a run are, in tokens. Without the data, the limits of the config stand for all of them."""

from dataclasses import dataclass

from configs.schema import RunConfig

EMBEDDED_PROMPT, EMBEDDED_COMPLETION = (9, 30), (9, 28)
"""The mean and the longest prompt and completion of the embedded world, measured over its 2,000 default pairs with its own tokenizer."""


@dataclass(frozen=True)
class Lengths:
    """Mean and largest numbers of tokens. A response is what the policy samples; a completion is one of the data, with its end token."""

    mean_prompt: int
    longest_prompt: int
    mean_completion: int
    longest_completion: int
    longest_response: int

    def prompt_at(self, row: int, rows: int) -> int:
        """The length of one of `rows` prompts, spread around the mean."""
        return _spread(self.mean_prompt, self.longest_prompt, row, rows)

    def completion_at(self, row: int, rows: int) -> int:
        """The length of one of `rows` completions, spread around the mean."""
        return _spread(self.mean_completion, self.longest_completion, row, rows)


def expected_lengths(config: RunConfig) -> Lengths:
    """The lengths of the embedded world's rows; for other data the limits, which no row exceeds."""
    data, response = config.data, config.generation.max_new_tokens
    if data.source == "embedded" and config.base.model == "embedded":
        (mean_prompt, prompt), (mean_completion, completion) = EMBEDDED_PROMPT, EMBEDDED_COMPLETION
        prompt, completion = min(prompt, data.max_prompt_tokens), min(completion, data.max_completion_tokens)
        return Lengths(min(mean_prompt, prompt), prompt, min(mean_completion, completion), completion, response)
    prompt, completion = data.max_prompt_tokens, data.max_completion_tokens
    return Lengths(prompt, prompt, completion, completion, response)


def _spread(mean: int, longest: int, row: int, rows: int) -> int:
    """Lengths from mean - width to mean + width in equal steps, where the width is half of the mean or what `longest` allows."""
    width = min(mean / 2, longest - mean)
    place = 2 * row / max(1, rows - 1) - 1
    return max(1, round(mean + width * place))
