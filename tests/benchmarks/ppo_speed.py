"""Our PPO beside TRL 1.12.0's (its last), on the same model, prompts, batch, response lengths and epochs. `make bench`.

Each measurement is a process of its own, ours and theirs in turn, so that a pair shares the machine's mood and peak memory is
that of one side. Theirs: `trl.experimental.ppo.PPOTrainer` with LoRA on the policy, reference = adapters off, separate value and
reward models. The model is random; a bias on the end token makes responses end at geometric lengths, or never.

    python -m tests.benchmarks.ppo_speed [--repeats 3] [--updates 1] [--case NAME ...]

Cases in bfloat16 also measure ours in float32, in turn with the others. Without `--case`, they run only where the processor or a GPU has
products in bfloat16: without them, such a product takes several times as long as in float32.

At the end ours alone with one and two workers of one thread each, and what the all-reduce of the gradients costs. `--case llama_1b`, a
model of a billion parameters in bfloat16, is for a GPU and runs only where it is named.
"""

import argparse
import json
import math
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loop.executors.executor import thread_variables

PEER_VERSION = "1.12.0"
VOCABULARY, PROMPT, RESPONSE, BATCH, MEAN_LENGTH = 2048, 16, 32, 64, 16
PAD, END, TEMPERATURE = 0, 1, 0.7
CASES = {
    "full_depth": {"layers": 8, "hidden": 512, "lora": "all", "lengths": "varied"},
    "upper_half": {"layers": 8, "hidden": 512, "lora": "upper-half", "lengths": "varied"},
    "full_length": {"layers": 8, "hidden": 512, "lora": "all", "lengths": "full"},
    "full_length_upper_half": {"layers": 8, "hidden": 512, "lora": "upper-half", "lengths": "full"},
    "small_model": {"layers": 4, "hidden": 128, "lora": "all", "lengths": "varied"},
    "llama_1b": {"layers": 16, "hidden": 2048, "lora": "all", "lengths": "varied", "dtype": "bfloat16"},
}
DEFAULT_CASES = list(CASES)[:5]
BFLOAT16_CASES = {f"{name}_bf16": name for name in DEFAULT_CASES}
"""Each case in bfloat16, and the case with the same model in float32."""
CASES |= {name: CASES[same] | {"dtype": "bfloat16"} for name, same in BFLOAT16_CASES.items()}


def make_model(case: dict[str, Any], kind: str = "causal") -> Any:
    """A random Llama on the device that is there.

    P(end token) is 1/16 a token for `varied` (geometric, mean 16 before the cut at 32), 0 for `full`.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=case["hidden"],
        intermediate_size=3 * case["hidden"],
        num_hidden_layers=case["layers"],
        num_attention_heads=case["hidden"] // 64 or 1,
        num_key_value_heads=case["hidden"] // 64 or 1,
        max_position_embeddings=256,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        tie_word_embeddings=False,
        num_labels=1,
    )
    place = {"device": "cuda" if torch.cuda.is_available() else "cpu", "dtype": getattr(torch, case.get("dtype", "float32"))}
    if kind == "score":
        return transformers.LlamaForSequenceClassification(config).to(**place)
    model = transformers.LlamaForCausalLM(config)
    head = torch.nn.Linear(case["hidden"], VOCABULARY, bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        # Weights of std 0.02 give logits near 0, so P(end) = e^(b/T) / (V - 1 + e^(b/T)), 1 / mean at b = T log((V - 1) / (mean - 1)).
        bias = TEMPERATURE * math.log((VOCABULARY - 1) / (MEAN_LENGTH - 1))
        head.bias[END] = bias if case["lengths"] == "varied" else -1e4
        head.bias[PAD] = -1e4
    model.lm_head = head
    return model.to(**place)


def make_tokenizer() -> Any:
    import transformers
    from tokenizers import Tokenizer, models

    words = {f"t{i}": i for i in range(VOCABULARY)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t2")), pad_token="t0", eos_token="t1", padding_side="left"
    )


def make_prompts(count: int) -> list[list[int]]:
    import torch

    return torch.randint(3, VOCABULARY, (count, PROMPT), generator=torch.Generator().manual_seed(1)).tolist()


def measure_ours(case: dict[str, Any], updates: int) -> dict[str, Any]:
    """Seconds of each update after a warm-up one, with its split."""
    import torch

    from configs.schema import GenerationConfig, LoraSection, PPOConfig
    from policies import parallel, ppo
    from policies.backbone import Backbone
    from policies.responses import EncodedPrompt
    from rewards.scoring import Scorer, ensemble

    backbone = Backbone(make_model(case), make_tokenizer(), LoraSection(rank=16, layers=case["lora"]))
    backbone.add_adapter("policy")
    backbone.add_adapter("reward")
    head = torch.full((1, backbone.hidden_size), 0.01, device=backbone.device)
    scorer = Scorer(backbone, "reward", head)

    config = PPOConfig(
        num_updates=updates + 1,
        batch_size=BATCH,
        advantage="gae",
        samples_per_prompt=1,
        num_epochs=4,
        num_minibatches=4,
        learning_rate=3e-6,
        kl_coefficient=0.05,
    )
    generation = GenerationConfig(temperature=TEMPERATURE, max_new_tokens=RESPONSE)
    trainer = ppo.PPOTrainer(
        backbone, ppo.ValueModel(backbone, head, 0.0, None), ensemble([scorer], "last"), config, generation, seed=0, reference=None
    )
    marks: dict[str, float] = {}
    generate, roll_out = ppo.generate, trainer.roll_out

    def timed(name, function):
        def call(*args, **kwargs):
            started = time.perf_counter()
            result = function(*args, **kwargs)
            marks[name] = time.perf_counter() - started
            return result

        return call

    ppo.generate, trainer.roll_out = timed("generate", generate), timed("roll_out", roll_out)
    reduce, waited, reduced = parallel.sum_gradients, [0.0], [0.0]

    def sum_gradients(parameters):
        started = time.perf_counter()
        parallel.barrier()
        met = time.perf_counter()
        reduce(parameters)
        waited[0] += met - started
        reduced[0] += time.perf_counter() - met

    parallel.sum_gradients = sum_gradients
    prompts = [EncodedPrompt(ids) for ids in make_prompts(BATCH * (updates + 1))]
    rows = []
    for update in range(updates + 1):
        waited[0] = reduced[0] = 0.0
        started = time.perf_counter()
        metrics = trainer.step(update, prompts[update * BATCH : (update + 1) * BATCH])
        seconds = time.perf_counter() - started
        rows.append(
            {
                "seconds": seconds,
                "generate": marks["generate"],
                "score": marks["roll_out"] - marks["generate"],
                "train": seconds - marks["roll_out"],
                "length": metrics["val/response_length"],
                "waited": waited[0],
                "reduced": reduced[0],
            }
        )
    return {"updates": rows[1:]}


def measure_theirs(case: dict[str, Any], updates: int) -> dict[str, Any]:
    """The same from TRL; only the length of an update can be seen from outside."""
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    policy, value, reward = make_model(case), make_model(case, "score"), make_model(case, "score")
    upper = list(range(case["layers"] // 2, case["layers"])) if case["lora"] == "upper-half" else None
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    stamps: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            stamps.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                gradient_accumulation_steps=1,
                num_mini_batches=4,
                num_ppo_epochs=4,
                total_episodes=BATCH * (updates + 1),
                local_rollout_forward_batch_size=BATCH,
                num_sample_generations=0,
                response_length=RESPONSE,
                stop_token="eos",
                temperature=TEMPERATURE,
                kl_coef=0.05,
                missing_eos_penalty=1.0,
                learning_rate=3e-6,
                bf16=case.get("dtype") == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                gradient_checkpointing=False,
            ),
            processing_class=make_tokenizer(),
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": make_prompts(BATCH * (updates + 1))}),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.0, target_modules=names, layers_to_transform=upper, task_type="CAUSAL_LM"
            ),
            callbacks=[Clock()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return {"updates": [{"seconds": b - a} for a, b in zip(stamps[1:], stamps[2:], strict=False)]}


def child(side: str, case: str, updates: int, threads: int, rank: int, workers: int, port: int) -> None:
    """One measurement, printed as JSON."""
    import torch

    from policies import parallel

    torch.set_num_threads(threads)
    if workers > 1:
        host = "127.0.0.1"
        listener = socket.create_server((host, port)) if rank == 0 else None
        parallel.join(rank, workers, host, parallel.Meeting(host, port, listener), seconds=600.0)
    found = (measure_ours if side == "ours" else measure_theirs)(CASES[case], updates)
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    print("RESULT " + json.dumps(found))


def measure(side: str, case: str, updates: int, peer: Path, threads: int = os.cpu_count() or 1, workers: int = 1) -> dict[str, Any]:
    """Run one side in a process of its own, or in as many as there are workers; returns what the first one measured."""
    port = free_port()
    processes = [
        start(side, case, updates, peer, threads, ["--workers", str(workers), "--rank", str(i), "--port", str(port)])
        for i in range(workers)
    ]
    return [result(process) for process in processes][0]


def start(
    side: str, case: str, updates: int, peer: Path, threads: int, more: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    """A process that measures one side. Ours has the environment that a worker of a run has; `environment` comes on top."""
    path = os.pathsep.join([str(peer)] * (side == "theirs") + [str(Path(__file__).parents[2])])
    command = [sys.executable, "-m", "tests.benchmarks.ppo_speed", "--child", side, "--case", case, "--updates", str(updates)]
    variables = {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
    variables |= thread_variables(threads) if side == "ours" else {}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [*command, "--threads", str(threads), *more], env=os.environ | variables | environment, cwd=tempfile.gettempdir(), **pipes
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process of `start`, and return what it measured."""
    out, err = process.communicate()
    lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"a measurement failed:\n{out[-2000:]}\n{err[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def median_of(found: dict[str, Any], key: str) -> float:
    return statistics.median(update[key] for update in found["updates"])


def measure_workers(updates: int, peer: Path, repeats: int) -> dict[str, float]:
    """Ours with one worker and with two, one thread each, so that two have twice the machine."""
    speedups, shares = [], []
    for _ in range(repeats):
        one, two = (measure("ours", "full_depth", updates, peer, threads=1, workers=workers) for workers in (1, 2))
        speedups.append(median_of(one, "seconds") / median_of(two, "seconds"))
        shares.append(median_of(two, "reduced") / median_of(two, "seconds"))
        speed = [BATCH / median_of(found, "seconds") for found in (two, one)]
        print(
            f"two workers: {speed[0]:.2f} samples/s, one {speed[1]:.2f}, ratio {speedups[-1]:.2f}; "
            f"an update's 16 all-reduces {1000 * median_of(two, 'reduced'):.0f} ms ({shares[-1]:.1%}), waiting for the other worker "
            f"{1000 * median_of(two, 'waited'):.0f} ms",
            flush=True,
        )
    return {"ratio_two_workers": round(statistics.median(speedups), 3), "all_reduce_fraction": round(statistics.median(shares), 4)}


def compare(case: str, updates: int, repeats: int, peer: Path) -> dict[str, float]:
    """Ours beside TRL's on one case, and beside ours in float32 if the case is in bfloat16. Returns the medians."""
    ratios, memory, speedups = [], [], []
    for _ in range(repeats):
        if case in BFLOAT16_CASES:
            exact = measure("ours", BFLOAT16_CASES[case], updates * 2, peer)
        ours = measure("ours", case, updates * 2, peer)
        theirs = measure("theirs", case, updates, peer)
        speed = [BATCH / median_of(side, "seconds") for side in (ours, theirs)]
        ratios.append(speed[0] / speed[1])
        memory.append(ours["peak_bytes"] / theirs["peak_bytes"])
        split = {key: median_of(ours, key) for key in ("generate", "score", "train", "length")}
        print(
            f"{case:<24} ours {speed[0]:6.2f} samples/s, trl {speed[1]:6.2f}, ratio {ratios[-1]:5.2f}, memory {memory[-1]:.2f} "
            f"({ours['peak_bytes'] / 2**20:.0f} / {theirs['peak_bytes'] / 2**20:.0f} MiB); generate {split['generate']:.2f} s, "
            f"score {split['score']:.2f} s, train {split['train']:.2f} s, length {split['length']:.1f}",
            flush=True,
        )
        if case in BFLOAT16_CASES:
            speedups.append(median_of(exact, "seconds") / median_of(ours, "seconds"))
            print(f"{case:<24} {speedups[-1]:.2f} times the samples of float32", flush=True)
    found = {f"ratio_{case}": ratios} | ({"memory_ratio": memory} if case == "full_depth" else {})
    found |= {f"float32_ratio_{case}": speedups} if speedups else {}
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def has_bfloat16() -> bool:
    """Whether this machine's processor or a GPU multiplies bfloat16 numbers."""
    import torch

    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def install_peer(folder: Path) -> None:
    """TRL's last version with PPO, in a folder of its own: the project's TRL stays what it is."""
    if not (folder / "trl").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), f"trl=={PEER_VERSION}"]
        subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1, help="timed updates of a measurement, after one to warm up")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / f"trl-{PEER_VERSION}")
    parser.add_argument("--child", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    for hidden in ("--threads", "--rank", "--workers", "--port"):
        parser.add_argument(hidden, type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.case[0], options.updates, options.threads, options.rank, options.workers, options.port)
        return
    install_peer(options.peer)
    summary: dict[str, float] = {}
    cases = options.case or [*DEFAULT_CASES, *(list(BFLOAT16_CASES)[:4] if has_bfloat16() else [])]
    for case in cases:
        summary |= compare(case, options.updates, options.repeats, options.peer)
    if not options.case:
        summary |= measure_workers(options.updates * 2, options.peer, options.repeats)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
