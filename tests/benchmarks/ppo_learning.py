"""Does our PPO learn as much as TRL 1.12.0's from the same start? Gold reward after 40 updates on the embedded world, seed by seed.

One run of the embedded default makes base, SFT policy and reward model. From there both sides train 40 updates with equal
hyperparameters (gradients unclipped, which TRL's PPO does not do), and one sampler and one gold reward judge both on the held-out
prompts. What stays different: TRL trains a value model of its own, whole; its policy is a new adapter on the SFT model, ours goes on
with the SFT adapter; each draws its own minibatches and samples.

    python -m tests.benchmarks.ppo_learning [--seeds 0 1 2 3 4] [--folder DIR]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.ppo_speed import PEER_VERSION, install_peer
from tests.benchmarks.seeds import standard_error

RUN, UPDATES, SAMPLES_PER_PROMPT = "learning", 40, 4


def load(run: Path) -> tuple[Any, list[list[int]]]:
    """The run's config, and the encoded training prompts."""
    config = load_run_config(run)
    return config, encoded(run, "prompts")


def load_run_config(run: Path) -> Any:
    from configs.loading import load_config

    theirs = ["ppo.advantage=gae", "ppo.samples_per_prompt=1", "ppo.max_grad_norm=1e9"]
    return load_config(str(run / "config.yaml"), [f"ppo.num_updates={UPDATES}", *theirs])


def encoded(run: Path, name: str) -> list[list[int]]:
    return [ids for _, ids in with_ids(run, name)]


def with_ids(run: Path, name: str) -> list[tuple[dict[str, Any], list[int]]]:
    """The run's prompts of one kind, as rows and as token ids."""
    import transformers

    from policies.tokenization import encode_prompt

    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "setup/base")
    rows = [json.loads(line) for line in (run / "setup/filter" / f"{name}.jsonl").open(encoding="utf-8")]
    return [(row, encode_prompt(tokenizer, row["prompt"])) for row in rows]


def train_ours(run: Path, out: Path, seed: int) -> float:
    """Train and save the adapter; returns the seconds of training."""
    from policies import ppo
    from policies.backbone import Backbone
    from policies.batching import prompt_batches
    from policies.responses import EncodedPrompt
    from rewards.scoring import Scorer, ensemble

    config, prompts = load(run)
    backbone = Backbone.load(str(run / "setup/base"), config.base, config.lora)
    backbone.add_adapter("sft", folder=run / "setup/sft")
    scorer = Scorer.load(backbone, "reward", run / "round-000/reward")
    backbone.add_adapter("policy", copy_of="sft")

    value = ppo.ValueModel(backbone, *scorer.normalized_head, adapter=None)
    trainer = ppo.PPOTrainer(backbone, value, ensemble([scorer], "last"), config.ppo, config.generation, seed)
    started = time.perf_counter()
    for update, rows in enumerate(prompt_batches(len(prompts), config.ppo.batch_size, UPDATES, seed)):
        trainer.step(update, [EncodedPrompt(prompts[i]) for i in rows])
    seconds = time.perf_counter() - started
    backbone.save_adapter("policy", out)
    return seconds


def train_theirs(run: Path, out: Path, seed: int) -> float:
    """The same with TRL; saves the whole model, adapter merged."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from safetensors.torch import load_file
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    config, prompts = load(run)
    base, ppo = str(run / "setup/base"), config.ppo
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, padding_side="left")
    policy = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), run / "setup/sft").merge_and_unload()
    scale = json.loads((run / "round-000/reward/normalization.json").read_text())
    head = load_file(run / "round-000/reward/adapter_model.safetensors")["base_model.model.score.weight"]

    def scoring_model() -> Any:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model = PeftModel.from_pretrained(model, run / "round-000/reward").merge_and_unload()
        model.score = torch.nn.Linear(head.shape[1], 1)
        with torch.no_grad():
            model.score.weight.copy_(head / scale["std"])
            model.score.bias.fill_(-scale["mean"] / scale["std"])
        return model

    transformers.set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                seed=seed,
                per_device_train_batch_size=ppo.batch_size,
                gradient_accumulation_steps=1,
                num_mini_batches=ppo.num_minibatches,
                num_ppo_epochs=ppo.num_epochs,
                total_episodes=ppo.batch_size * UPDATES,
                local_rollout_forward_batch_size=ppo.batch_size,
                num_sample_generations=0,
                response_length=config.generation.max_new_tokens,
                stop_token="eos",
                temperature=config.generation.temperature,
                kl_coef=ppo.kl_coefficient,
                kl_estimator=ppo.kl_estimator_used,
                cliprange=ppo.clip_range,
                cliprange_value=ppo.value_clip_range,
                vf_coef=ppo.value_coefficient,
                gamma=ppo.gamma,
                lam=ppo.gae_lambda,
                whiten_rewards=ppo.whiten_rewards,
                missing_eos_penalty=ppo.missing_end_penalty,
                learning_rate=ppo.learning_rate,
                lr_scheduler_type=ppo.learning_rate_schedule,
                adam_epsilon=ppo.adam_epsilon,
                weight_decay=0.0,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                gradient_checkpointing=False,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=scoring_model(),
            value_model=scoring_model(),
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
            peft_config=LoraConfig(
                r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=config.lora.target_modules, task_type="CAUSAL_LM"
            ),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    trainer.policy_model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return seconds


def judge(run: Path, out: Path) -> dict[str, float]:
    """Mean gold reward and length on the held-out prompts; every policy gets the same random numbers."""
    from configs.seeds import derive_seed
    from policies.backbone import Backbone
    from policies.generation import generate
    from policies.tokenization import decode_completion
    from rewards.world import writer
    from rewards.world.gold import gold_reward

    config = load_run_config(run)
    whole = (out / "config.json").exists()
    backbone = Backbone.load(str(out if whole else run / "setup/base"), config.base, config.lora)
    if not whole:
        backbone.add_adapter("policy", folder=out)
    rows = [pair for pair in with_ids(run, "heldout_prompts") for _ in range(SAMPLES_PER_PROMPT)]
    seeds = [derive_seed("judge", i) for i in range(len(rows))]
    responses = generate(backbone, None if whole else "policy", [ids for _, ids in rows], seeds, config.generation)
    texts = [decode_completion(backbone.tokenizer, response.token_ids) for response in responses]
    prompts = writer.all_prompts()
    gold = [gold_reward(prompts[row["prompt_id"]], text, r.finished) for (row, _), text, r in zip(rows, texts, responses, strict=True)]
    return {"gold": statistics.mean(gold), "length": statistics.mean(len(response.token_ids) for response in responses)}


def in_a_child(side: str, run: Path, out: Path, seed: int, peer: Path) -> Any:
    """`side` in a process of its own; TRL's old version stays out of ours."""
    path = os.pathsep.join([str(peer)] * (side == "theirs") + [str(Path(__file__).parents[2])])
    command = [sys.executable, "-m", "tests.benchmarks.ppo_learning", "--child", side, "--folder", str(run), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([*command, "--seeds", str(seed)], env=environment, capture_output=True, text=True, cwd=tempfile.gettempdir())
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "loop-ppo-learning")
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / f"trl-{PEER_VERSION}")
    parser.add_argument("--child", choices=["ours", "theirs", "judge"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work = {"ours": train_ours, "theirs": train_theirs, "judge": lambda run, out, seed: judge(run, out)}
        print("RESULT " + json.dumps(work[options.child](options.folder, options.out, options.seeds[0])))
        return
    install_peer(options.peer)
    folder = options.folder.resolve()
    command = [sys.executable, "-m", "loop", "run", "--rounds", "1", "--runs", str(folder), "--name", RUN]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    gold: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in options.seeds:
        for side, golds in gold.items():
            out = folder / f"{side}-{seed}"
            seconds = in_a_child(side, folder / RUN, out, seed, options.peer)
            found = in_a_child("judge", folder / RUN, out, seed, options.peer)
            golds.append(found["gold"])
            print(f"seed {seed} {side:<6} gold {found['gold']:.3f}, length {found['length']:.1f}, {seconds:.1f} s", flush=True)
    start = in_a_child("judge", folder / RUN, folder / RUN / "setup/sft", 0, options.peer)
    summary = {"gold_sft": round(start["gold"], 3)}
    for side, golds in gold.items():
        summary |= {f"gold_{side}": round(statistics.mean(golds), 3), f"standard_error_{side}": round(standard_error(golds), 3)}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
