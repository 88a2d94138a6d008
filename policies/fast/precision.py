"""What is computed in float32 where the base is bfloat16 or float16.

Products with the base's weights run in the base's dtype. Adapters are float32, and are cast for the products of a pass. Norms, the rotary
embedding and softmax of short rows, log-probs and the differences of probabilities that their gradients start from are float32.
"""

import torch


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for a narrower dtype, and any other dtype itself."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in its `wide_dtype`, without a copy if it has it already."""
    return tensor.to(wide_dtype(tensor.dtype))
