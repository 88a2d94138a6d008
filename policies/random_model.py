"""A random model of a given shape with a tokenizer of made-up words, for measuring what a run of that shape costs.

Nothing is downloaded or read from disk. The words are `t0`, `t1` and so on, one for each token, so that a text of a known number of tokens
can be written. The end token has the probability that gives responses the wanted mean length.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

PAD, END, FIRST_WORD = 0, 1, 3
NEVER = -1e4
"""The bias of a token that is never sampled."""


def make_random_model(config: Mapping[str, Any], dtype: str, temperature: float, mean_length: float | None) -> tuple[Any, Any]:
    """Return a causal language model with the shape of a config.json, on the device that is there, and its tokenizer.

    mean_length: how many tokens the mean response has when it is sampled at `temperature`, if nothing cuts it off. None: no response ends.
    """
    torch.manual_seed(0)
    tokens = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": None}
    ignored = {"quantization_config", "torch_dtype", "dtype"}
    settings = {name: value for name, value in config.items() if name not in ignored} | tokens
    model_config = transformers.AutoConfig.for_model(**settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model: Any = transformers.AutoModelForCausalLM.from_config(model_config, dtype=getattr(torch, dtype))
    vocabulary = model_config.get_text_config().vocab_size
    # Random weights give logits near 0, so P(end) = e^(b/T) / (V - 1 + e^(b/T)), which is 1 / mean at b = T log((V - 1) / (mean - 1)).
    bias = torch.zeros(vocabulary, dtype=getattr(torch, dtype), device=device)
    bias[END] = NEVER if mean_length is None else temperature * math.log((vocabulary - 1) / (max(mean_length, 1.5) - 1))
    bias[PAD] = NEVER
    model.get_output_embeddings().bias = nn.Parameter(bias)
    return model, _make_tokenizer(vocabulary)


def make_text(tokens: int, vocabulary: int, seed: int) -> str:
    """Return a text of this many tokens."""
    words = random.Random(seed)
    return " ".join(f"t{words.randrange(FIRST_WORD, vocabulary)}" for _ in range(tokens))


def _make_tokenizer(vocabulary: int) -> Any:
    words = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="t0", eos_token="t1", clean_up_tokenization_spaces=False
    )
