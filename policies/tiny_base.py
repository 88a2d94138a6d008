"""The tiny base of the embedded default: a tokenizer and a small Llama, trained from scratch on dialogues."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from configs.schema import BaseConfig, TrainerSection
from policies import parallel
from policies.base_folder import MAX_POSITIONS
from policies.checkpoints import Checkpoints
from policies.reporting import Report
from policies.tokenization import encode_messages
from policies.training import Log, Training

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern with marks (\\p{M}) inside words. GPT-2's own separates Thai vowels and tone marks from their consonants."""
BLOCK = 128
"""Tokens in a row of pretraining."""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Train byte-level BPE with a pad token and a chat template of four special tokens."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[0],
        eos_token=SPECIAL_TOKENS[1],
        additional_special_tokens=SPECIAL_TOKENS[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def train_tiny_base(
    dialogues: Sequence[tuple[Sequence[dict[str, str]], str]],
    config: BaseConfig,
    output: Path,
    checkpoints: Checkpoints,
    seed: int,
    report: Report,
) -> Log:
    """Train tokenizer and model on pairs of messages and answer, and save both to `output` as `from_pretrained` reads them.

    This is plain language modeling on full blocks with transformers' own Trainer. SFTTrainer would also measure entropies.
    """
    texts = [text for messages, answer in dialogues for text in (*(m["content"] for m in messages), answer)]
    tokenizer = train_tokenizer(texts, config.vocabulary_size)
    encoded: dict[str, list[int]] = {}  # a third of the world's dialogues occur more than once
    stream: list[int] = []
    for messages, answer in dialogues:
        dialogue = [*messages, {"role": "assistant", "content": answer}]
        if (name := repr(dialogue)) not in encoded:
            encoded[name] = encode_messages(tokenizer, dialogue)
        stream += encoded[name]
    blocks = [stream[start : start + BLOCK] for start in range(0, len(stream) - BLOCK, BLOCK)]
    torch.manual_seed(seed % 2**31)
    model = _small_llama(tokenizer, config)
    log = pretrain(model, blocks, config, checkpoints, seed, report)
    if parallel.is_main():
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
    return log


def pretrain(model: Any, blocks: Sequence[list[int]], config: BaseConfig, checkpoints: Checkpoints, seed: int, report: Report) -> Log:
    """Train all of the model on blocks of BLOCK token ids, by plain language modeling. Returns the log."""
    section = TrainerSection(learning_rate=config.pretraining_learning_rate, batch_size=config.pretraining_batch_size)
    return Training(section, checkpoints, seed, report, config.pretraining_steps).fit(
        transformers.Trainer,
        transformers.TrainingArguments,
        model,
        [{"input_ids": block, "labels": block} for block in blocks],
        [BLOCK] * len(blocks),
        arguments={"lr_scheduler_type": "cosine"},
    )


def _small_llama(tokenizer: Any, config: BaseConfig) -> Any:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * 3,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
