"""Several workers compute what one computes, with every estimator of advantages, with the whole base on each of them and with a part of it.

The workers are processes that talk to each other by gloo. Their sums are added in another order, so numbers differ in their last bits.
"""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UserError
from configs.schema import GenerationConfig, LoraSection, RewardConfig, TrainerSection
from policies import parallel
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.generation import generate_sharded
from policies.reporting import report_nothing
from policies.responses import ResponseBatch
from policies.sft import train_sft
from policies.sharding import ShardedBase
from tests.conftest import make_causal_lm
from tests.forked import Forked
from tests.unit.policies.test_ppo import PROMPTS, make_trainer

pytestmark = pytest.mark.slow
ESTIMATORS = {
    "gae": {"advantage": "gae", "samples_per_prompt": 1, "whiten_rewards": True, "kl_target": 1.0},
    "gae, critic of its own": {"advantage": "gae", "samples_per_prompt": 1, "value_model": "adapter", "recompute_logprobs": True},
    "rloo": {"advantage": "rloo", "samples_per_prompt": 2, "micro_batch_size": 3},
    "grpo": {"advantage": "grpo", "samples_per_prompt": 2, "kl_estimator": "k3"},
}
LEARNING_RATE = 1e-3
TOLERANCE = 1e-5
"""Largest difference of a weight. Other batches, seeds or losses would make differences of about the learning rate."""


def make_backbone(shard: bool) -> Backbone:
    model, tokenizer = make_causal_lm()
    return Backbone(model, tokenizer, LoraSection(rank=4, alpha=8), shard_on=torch.device("cpu") if shard else None)


def after_two_updates(estimator: str, shard: bool) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The trained tensors, and the metrics of the second update."""
    backbone, settings = make_backbone(shard), ESTIMATORS[estimator]
    trainer = make_trainer(backbone, learning_rate=LEARNING_RATE, **settings)
    before = backbone.adapter_state("policy")
    metrics = [trainer.step(update, PROMPTS[: 16 // settings["samples_per_prompt"]]) for update in range(2)][-1]
    after = backbone.adapter_state("policy")
    moved = max((after[name] - before[name]).abs().max().item() for name in after)
    assert moved > 10 * TOLERANCE  # otherwise nothing could differ
    tensors = {f"{estimator}: {name}": tensor for name, tensor in after.items()}
    if trainer.value:  # only gae has a critic
        tensors[f"{estimator}: head"] = trainer.value.head.weight.detach()
    return tensors, metrics | {"coefficient": trainer.kl.coefficient}


def after_other_training(shard: bool) -> tuple[dict[str, torch.Tensor], dict]:
    """SFT and a reward model by TRL's trainers, samples in shards, and log-probs that this worker computes rank + 1 times."""
    from rewards.comparisons import Comparison
    from rewards.reward_model import train_reward_model

    backbone = make_backbone(shard)
    backbone.add_adapter("sft", seed=1)
    examples = [([3 + i, 4], [5, 6, 7][: 1 + i % 3]) for i in range(16)]
    section = TrainerSection(batch_size=4, learning_rate=LEARNING_RATE)
    train_sft(backbone, "sft", examples, section, Checkpoints(), 0, report_nothing)
    backbone.add_adapter("reward", copy_of="sft")
    pairs = [Comparison(f"p{i}", "mango" * (1 + i % 5), f"yellow {i % 7}", f"green {i % 5}") for i in range(8)]
    config = RewardConfig(batch_size=4, num_epochs=1, learning_rate=LEARNING_RATE)
    scorer, _ = train_reward_model(backbone, "reward", pairs, config, Checkpoints(), 0, report_nothing)
    generation = GenerationConfig(max_new_tokens=8, batch_size=3)
    prompts = [[3 + i, 4, 5][: 1 + i % 3] for i in range(20)]
    responses = generate_sharded(backbone, "sft", prompts, list(range(20)), generation, Checkpoints(), "samples")
    for _ in range(parallel.rank() + 1):
        logprobs = ResponseBatch.from_ids(backbone, prompts, [response.token_ids for response in responses]).under("sft")[1]
    tensors = {f"{name}: {key}": tensor for name in ("sft", "reward") for key, tensor in backbone.adapter_state(name).items()}
    tensors |= {"logprobs": logprobs, "score": scorer.score([[3, 4, 5], [6]])}
    parallel.barrier()
    if backbone.sharded:
        backbone.sharded.empty()
    base = [p for name, p in backbone.causal_lm.named_parameters() if "lora_" not in name]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in base}
    parts = sum(part.nbytes for part in backbone.sharded.parts) if backbone.sharded else 0
    paths = vars(backbone.fast.paths)
    return tensors, {"responses": [r.token_ids for r in responses], "base_bytes": sum(held.values()) + parts, "paths": paths}


def member(rank: int, workers: int, port: int, listener: socket.socket | None, shard: bool) -> None:
    """One worker. The main worker writes what it has computed into the present folder."""
    torch.set_num_threads(1)
    if workers > 1:
        parallel.join(rank, workers, "127.0.0.1", parallel.Meeting("127.0.0.1", port, listener), 120.0)
    tensors, numbers = after_other_training(shard)
    plain = {"other": numbers}
    for estimator in ESTIMATORS:
        trained, plain[estimator] = after_two_updates(estimator, shard)
        tensors |= trained
    parallel.barrier()
    if rank == 0:
        save_file(tensors, "tensors")
        Path("plain").write_text(json.dumps(plain))


def computed_by(workers: int, shard: bool, folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, processes = listener.getsockname()[1], []
        for rank in range(workers):
            words = (rank, workers, port, listener if rank == 0 else None, shard)
            out, err = folder / f"out-{rank}", folder / f"err-{rank}"
            processes.append(Forked(member, *words, folder=folder, environment=os.environ, out=out, err=err))
    try:
        assert processes[0].wait(120) == 0, "\n".join(process.err.read_text() for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return load_file(folder / "tensors"), json.loads((folder / "plain").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return computed_by(1, False, tmp_path_factory.mktemp("workers") / "alone")


@pytest.mark.parametrize(("workers", "shard"), [(2, False), (4, False), (2, True)])
def test_several_workers_compute_what_one_computes(alone, workers, shard, tmp_path):
    tensors, plain = computed_by(workers, shard, tmp_path / "group")
    assert tensors.keys() == alone[0].keys()
    differences = {name: (tensors[name] - alone[0][name]).abs().max().item() for name in tensors}
    assert max(differences.values()) < TOLERANCE, differences
    assert plain["other"]["responses"] == alone[1]["other"]["responses"]
    for estimator in ESTIMATORS:
        assert plain[estimator] == pytest.approx(alone[1][estimator], rel=1e-3, abs=1e-5), estimator
    if shard:  # all weights but those of the last norm, 32 numbers, are divided by two
        whole, sharded = alone[1]["other"]["base_bytes"], plain["other"]["base_bytes"]
        assert sharded == (whole - 32 * 4) // 2 + 32 * 4
        assert not any(plain["other"]["paths"].values())


def test_a_model_without_a_list_of_layers_is_refused():
    model, _ = make_causal_lm()
    model.config.num_hidden_layers = 3  # it has two
    with pytest.raises(UserError, match="no list of decoder layers"):
        ShardedBase(model, torch.device("cpu"))
