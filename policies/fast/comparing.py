"""How near two ways to compute the same numbers must be to each other, and the rows of tokens on which they are compared."""

from typing import Any

import torch

LIMIT = 1e-4
"""The largest difference in float32 and float64, relative to the norm. Rounding makes about 1e-6."""
LIMITS = {torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""The same for formats that round more. SmolLM2-135M's form with random weights, 30 layers, differs by 1.4e-2 in bfloat16."""
LONGEST_WINDOW = 512
"""The comparison has a row that is longer than a sliding window, if the window is at most this long."""

Rows = list[list[int]]


def limit_of(causal_lm: Any) -> float:
    """Return the limit for a model. Quantized weights are rounded in every product, so their limit is that of bfloat16."""
    return LIMITS[torch.bfloat16] if getattr(causal_lm, "is_quantized", False) else LIMITS.get(causal_lm.dtype, LIMIT)


def close(found: torch.Tensor, expected: torch.Tensor, limit: float) -> bool:
    """Tell whether two tensors differ by less than `limit` times the norm of the second. Numbers that are not finite never do."""
    difference, norm = (found.float() - expected.float()).norm(), expected.float().norm()
    return bool(difference < limit * norm)


def rows_to_compare(config: Any, longest_short: int, max_tokens: int | None) -> list[Rows]:
    """Return two batches of random rows of unequal lengths, one of short rows and one with a long row.

    The long row is longer than `longest_short` tokens, and than a sliding window of the model with this `config`. No row is longer than
    `max_tokens`.
    """
    windows = [getattr(config, name, None) or 0 for name in ("sliding_window", "window_size", "attention_chunk_size")]
    longest = max([longest_short, *(window for window in windows if isinstance(window, int) and window <= LONGEST_WINDOW)]) + 8
    limit = longest if max_tokens is None else min(longest, max_tokens)
    generator = torch.Generator().manual_seed(0)

    def row(length: int) -> list[int]:
        return torch.randint(config.vocab_size, (min(length, limit),), generator=generator).tolist()

    return [[row(21), row(9)], [row(5), row(longest)]]
