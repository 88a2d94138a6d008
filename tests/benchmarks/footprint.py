"""Compares the memory that `loop doctor` predicts with what processes really take, on a CPU.

    python -m tests.benchmarks.footprint [--model NAME ...] [--stage NAME ...]

Each stage of each model is a process of its own, with one thread, and all rows have the same length. What is compared is the peak over
that of the libraries alone.
"""

import argparse

from configs.loading import load_config
from loop.doctor.fitting import plan_for
from loop.doctor.lengths import Lengths
from loop.doctor.measuring import measure
from policies.shapes import embedded_config, read_shape

PROMPT, COMPLETION = 32, 32
SMALL_BATCHES = [
    f"data.max_prompt_tokens={PROMPT}",
    f"data.max_completion_tokens={COMPLETION}",
    f"generation.max_new_tokens={COMPLETION}",
    "sft.batch_size=16",
    "reward.batch_size=16",
    "ppo.batch_size=32",
    "num_rounds=1",
    "runtime.workers=1",
]
LLAMA = {"model_type": "llama", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
QWEN2 = {"model_type": "qwen2", "vocab_size": 16000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6}
MODELS = {
    "embedded": embedded_config(load_config().base),
    "llama": LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False},
    "qwen2": QWEN2 | {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "vocab_size": 16000, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 1024},
}
STAGES = ("sft", "reward", "policy")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--stage", choices=STAGES, action="append")
    options = parser.parse_args()
    for name in options.model or MODELS:
        shape = read_shape(MODELS[name])
        config = load_config(overrides=["num_rounds=1"] if name == "embedded" else SMALL_BATCHES)
        lengths = Lengths(PROMPT, PROMPT, COMPLETION, COMPLETION, COMPLETION)
        for stage in options.stage or STAGES:
            predicted = predict(shape, config, lengths, stage)
            measured = measure(config, MODELS[name], lengths, [stage], threads=1, steps=1).peak_bytes
            print(
                f"{name:<9} {stage:<7} predicted {predicted / 2**20:6.0f} MiB, measured {measured / 2**20:6.0f} MiB, "
                f"{predicted / measured - 1:+.0%}",
                flush=True,
            )


def predict(shape, config, lengths: Lengths, stage: str) -> int:
    """The bytes of the stage's training, or of all phases of PPO."""
    phases = [need for phases in plan_for(shape, config, lengths, on_gpu=False).phases() for need in phases if need.stage == stage]
    return max(need.total for need in phases if stage == "policy" or need.phase == "training")


if __name__ == "__main__":
    main()
