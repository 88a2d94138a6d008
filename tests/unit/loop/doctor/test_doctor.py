"""`loop doctor` and the first lines of a run: presets, what fits and what does not, and machines that are not this one."""

import json
import subprocess

import pytest

from configs.errors import UserError
from configs.loading import PRESETS, load_config
from loop.commands.main import main
from loop.doctor import before_a_run, machine
from loop.doctor.fitting import check_fits, find_smaller, in_gib, plan_for
from loop.doctor.lengths import Lengths, expected_lengths
from loop.doctor.machine import GPU, Machine, read_gpus
from loop.doctor.model import find_base_model
from loop.doctor.needs import GPU_PROGRAM_BYTES, PROGRAM_BYTES, RAY_BYTES, Room, find_room
from loop.doctor.work import count_pairs, stage_seconds, stage_work, whole_run
from policies.known_models import KNOWN_MODELS
from tests.unit.rewards.ready_models import make_decoder

GIB = 2**30
HERE = Machine(cores=2, memory=24 * GIB, free_memory=20 * GIB, free_disk=100 * GIB)
GPUS = {"hh-harmless": 16, "thai": 16, "8b-4bit": 24}
"""The GPU that each preset is meant for, in GiB (README.md)."""


@pytest.fixture(autouse=True)
def on_a_known_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for module in ("loop.commands.doctor", "loop.doctor.before_a_run"):
        monkeypatch.setattr(f"{module}.look_at_machine", lambda runs: HERE)


def predicted(preset, *words, memory=10**6):
    """The shape, config, lengths and room of a preset on a GPU."""
    config = load_config(preset, words)
    shape = find_base_model(config.base, download=False).shape
    return shape, config, expected_lengths(config), Room("the GPU", memory * GIB, memory * GIB, GPU_PROGRAM_BYTES), True


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_goes_through_doctor(preset, capsys):
    """Where it does not fit 24 GiB without a GPU, the message names settings or says that none helps."""
    code = main(["doctor", preset])
    out, err = capsys.readouterr()
    assert code == 0 if preset == "embedded" else code in (0, 2)
    for words in ("machine: 2 cores, 24.0 GiB of memory", "base: ", "policy", "evaluate", "memory: at most", "disk: about"):
        assert words in out
    assert out.count("\n  policy ") == 1  # PPO and DPO have one name, and a run has one of them
    assert ("to do: it fits with" in err or "no setting makes it fit" in err) == (code == 2)
    assert ("the table of known models" in out) == (preset != "embedded")


@pytest.mark.parametrize("preset", GPUS)
def test_every_preset_fits_the_gpu_that_it_is_meant_for(preset):
    shape, config, lengths, room, on_gpu = predicted(preset, memory=GPUS[preset])
    check_fits(shape, config, lengths, room, on_gpu)


def test_the_settings_that_are_named_make_it_fit(capsys):
    """The message of a preset that does not fit is typed in, and then it fits."""
    assert main(["doctor", "hh-harmless", "--gpu", "6"]) == 2
    words = capsys.readouterr().err.partition("it fits with ")[2].split()
    assert words and all("=" in word for word in words)
    assert main(["doctor", "hh-harmless", *words, "--gpu", "6"]) == 0


def test_dpo_is_predicted_by_its_own_batch():
    """With a batch in one pass, DPO needs more than any other stage, and only its own micro-batch helps. PPO's batch does not matter."""
    words = ["trainer=dpo", "dpo.batch_size=512", "dpo.micro_batch_size=512", "ppo.init=selected"]
    shape, config, lengths, _, on_gpu = predicted("hh-harmless", *words)
    needs = {need.stage: need for need in plan_for(shape, config, lengths, on_gpu).needs()}
    by_larger_ppo = plan_for(shape, load_config("hh-harmless", [*words, "ppo.batch_size=4096"]), lengths, on_gpu).needs()
    assert needs["policy"] in by_larger_ppo and "refresh" not in needs  # only PPO starts from what is refreshed
    others = max(need.total for name, need in needs.items() if name != "policy") + GPU_PROGRAM_BYTES
    assert needs["policy"].total + GPU_PROGRAM_BYTES > others
    smaller = find_smaller(shape, config, lengths, Room("the GPU", others, others, GPU_PROGRAM_BYTES), on_gpu)
    assert list(smaller) == ["dpo.micro_batch_size"] and smaller["dpo.micro_batch_size"] < 512


def test_batches_are_lowered_before_results_change():
    """Three quarters of what is needed: only run-time settings. A GPU that cannot hold the base in bfloat16: NF4. 1 GiB: nothing helps."""
    shape, config, lengths, _, _ = predicted("thai")
    needed = max(need.total for need in plan_for(shape, config, lengths, True).needs())

    def smaller(size):
        return find_smaller(shape, config, lengths, Room("the GPU", size, size, 0), True)

    assert set(smaller(needed * 3 // 4)) <= {f"{name}.micro_batch_size" for name in ("sft", "reward", "ppo")} | {
        "generation.batch_size",
        "runtime.tokens_per_batch",
        "base.gradient_checkpointing",
    }
    assert smaller(GIB) == {}


def test_what_a_stage_needs_is_the_sum_of_its_owners():
    for preset in KNOWN_MODELS:
        config = load_config("thai", [f"base.model={preset}"])
        plan = plan_for(find_base_model(config.base, download=False).shape, config, expected_lengths(config), True)
        for phases, need in zip(plan.phases(), plan.needs(), strict=True):
            assert need.total == sum(need.owners.values()) == max(phase.total for phase in phases)
            assert need.owners["base"] == plan.model.base_bytes and min(need.owners.values()) >= 0


def test_memory_follows_the_settings_that_lower_it():
    """Half the rows of a training: half of what grows with them. Half the rows of sampling: half the KV cache."""

    def need(stage, phase, *words):
        shape, config, lengths, _, on_gpu = predicted("thai", *words)
        found = [need for phases in plan_for(shape, config, lengths, on_gpu).phases() for need in phases]
        return next(n for n in found if (n.stage, n.phase) == (stage, phase)).owners

    for section, stage in (("sft", "sft"), ("reward", "retrain")):
        one, two = (need(stage, "training", f"{section}.micro_batch_size={rows}")["activations"] for rows in (2, 4))
        assert two == pytest.approx(2 * one, abs=4)
    one, two = (need("sample", "sampling", f"generation.batch_size={rows}")["kv_cache"] for rows in (8, 16))
    # 16 rows of 512 + 192 tokens; keys and values of 2 heads x 128 numbers of 2 bytes in 28 layers
    assert two == 2 * one == 16 * 704 * 2 * 256 * 2 * 28


def test_a_labeling_model_is_beside_the_base(tmp_path):
    """Its weights are counted where it is loaded. A model of the hub is not downloaded for it."""
    model, _ = make_decoder(tmp_path / "rm")
    words = ("data.labeler_fraction=0", "labeler.kind=reward-model")

    def needs(name):
        shape, config, lengths, _, on_gpu = predicted("thai", *words, f"labeler.model={name}")
        return {need.stage: need.owners for need in plan_for(shape, config, lengths, on_gpu).needs()}

    local = needs(tmp_path / "rm")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert {stage for stage, owners in local.items() if owners["labeler"]} == {"labeler", "label"}
    assert local["label"]["labeler"] == size and local["label"]["base"] == local["sft"]["base"]
    assert not {"labeler", "label"} & needs("org/name").keys()


def test_no_stage_is_listed_twice(capsys):
    """Some stages share their name with another that takes their place."""
    main(["doctor", "thai", "data.labeler_fraction=0.5", "labeler.kind=reward-model"])
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.split()]
    assert rows.count("labeler") == rows.count("policy") == 1


def test_room_is_a_share_of_the_machine_or_a_gpu():
    config = load_config(overrides=["runtime.workers=2"])
    assert find_room(HERE, config) == Room(
        "this machine for each of 2 workers", (24 * GIB - RAY_BYTES) // 2, (20 * GIB - RAY_BYTES) // 2, PROGRAM_BYTES
    )
    gpus = [GPU("large", 80 * GIB, 70 * GIB), GPU("small", 24 * GIB, 20 * GIB)]
    with_gpus = Machine(8, 64 * GIB, 60 * GIB, GIB, gpus)
    assert find_room(with_gpus, config) == Room("the GPU (small)", 24 * GIB, 20 * GIB, GPU_PROGRAM_BYTES)


def test_the_limit_of_a_container_counts(tmp_path):
    assert machine._container_limit(tmp_path) == (0, 0)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._container_limit(tmp_path) == (0, 0)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")  # cgroup 1 without a limit
    assert machine._container_limit(tmp_path) == (0, 0)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert machine._container_limit(tmp_path) == (1000, 400)


def test_what_the_tool_of_nvidia_says():
    assert read_gpus("NVIDIA H100, 81559, [Insufficient Permissions]") == [GPU("NVIDIA H100", 81559 << 20, 81559 << 20)]
    assert read_gpus("NVIDIA GB10, [N/A], [N/A]") == []
    said = "NVIDIA H100 80GB HBM3, 81559, 81000\nOdd, name, 16384, 16000\nbroken line\n"
    assert read_gpus(said) == [GPU("NVIDIA H100 80GB HBM3", 81559 << 20, 81000 << 20), GPU("Odd, name", 16384 << 20, 16000 << 20)]


def test_a_machine_without_that_tool_has_no_gpu(monkeypatch):
    def fails(*words, **options):
        raise subprocess.CalledProcessError(9, words)

    for broken in (fails, lambda *words, **options: (_ for _ in ()).throw(FileNotFoundError())):
        monkeypatch.setattr("subprocess.run", broken)
        assert machine._gpus() == []


def test_a_base_in_a_folder_is_read_from_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(KNOWN_MODELS["openai-community/gpt2"]))
    found = find_base_model(load_config(overrides=[f"base={tmp_path}"]).base, download=False)
    assert found.shape.parameters == 124_439_808 and str(tmp_path) in found.source


def test_a_model_that_nobody_knows_is_refused_with_the_known_ones(capsys, monkeypatch):
    """As where the hub cannot be reached, but without its tries, which take 20 seconds."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["doctor", "base=somebody/unknown"]) == 2
    err = capsys.readouterr().err
    assert "the shape of somebody/unknown is not known" in err and "Qwen/Qwen2.5-0.5B" in err


def test_a_run_begins_with_three_lines_and_refuses_what_cannot_fit(tmp_path, monkeypatch):
    lines = before_a_run.first_lines(load_config(), tmp_path)
    assert [line.partition(":")[0] for line in lines] == ["machine", "base", "memory"]
    lines = before_a_run.first_lines(load_config(overrides=["base=somebody/unknown"]), tmp_path)
    assert lines[1:] == [
        "memory: not predicted, because the shape of somebody/unknown is not known: its config.json is not on this machine, and the hub "
        "cannot be reached"
    ]
    large = load_config("thai", ["base.dtype=float32", "runtime.executor=in-process"])
    monkeypatch.setattr("loop.doctor.before_a_run.look_at_machine", lambda runs: Machine(2, 16 * GIB, 16 * GIB, GIB))
    assert "  warning: if rows are as long as the config allows, the " in before_a_run.first_lines(large, tmp_path)[-1]
    on_a_cluster = load_config("thai", ["runtime.address=auto"])
    assert before_a_run.first_lines(on_a_cluster, tmp_path)[-1].endswith("the machines of the cluster are not asked")
    # 1.54 billion parameters of 4 bytes are 5.8 GiB, and sampling merges the adapter into copies of nearly all of them.
    monkeypatch.setattr("loop.doctor.before_a_run.look_at_machine", lambda runs: Machine(2, 10 * GIB, 10 * GIB, GIB))
    with pytest.raises(UserError, match="stage needs .* of it for base.*, and this machine has 10.0 GiB") as error:
        before_a_run.first_lines(large, tmp_path)
    assert error.value.exit_code == 2 and error.value.to_do == "it fits with base.dtype=bfloat16"


def test_rows_are_spread_around_the_mean():
    lengths = Lengths(10, 30, 8, 9, 32)
    assert [lengths.prompt_at(i, 3) for i in range(3)] == [5, 10, 15]
    assert [lengths.completion_at(i, 3) for i in range(3)] == [7, 8, 9]  # no longer than the longest one


def test_pairs_are_counted_set_or_assumed(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("{}\n" * 1000)
    settings = (f"data={file}", "labeler.kind=preferences-file", "labeler.path=x")
    counted = count_pairs(load_config(overrides=[*settings, "data.heldout_fraction=0.1"]))
    assert (counted.training, counted.heldout, counted.is_assumed) == (900, 100, False)
    assert count_pairs(load_config(overrides=[*settings, "data.max_pairs=500", "data.heldout_fraction=0.1"])).training == 450
    sources = f"data.sources=[{{path: {file}}}, {{path: prompts.jsonl, kind: prompts}}]"
    assert count_pairs(load_config(overrides=[sources, *settings[1:], "data.heldout_fraction=0.1"])) == counted
    assert count_pairs(load_config("hh-harmless")).training == 9000  # 20,000, a tenth held out, half of the rest for the labeler
    assert count_pairs(load_config("thai")).is_assumed
    assert count_pairs(load_config()).training == 2000


def test_time_is_the_sum_of_what_stages_do():
    config = load_config(overrides=["num_rounds=3"])
    work = stage_work(config, count_pairs(config))
    # 2,000 pairs in batches of 64: 32 steps; in batches of 16, twice: 250; 80 updates; 450 x 4 samples in batches of 128
    assert work["sft"] == {"sft": 32} and work["reward"]["reward"] == 250 and work["policy"]["policy"] == 80
    # 15 looks at 64 answers to held-out prompts: one after every ten updates, and MORE_LOOKS. In two of three rounds, these answers, those
    # of PPO and 256 of the reference are read twice more for the features
    assert work["policy"]["score"] == 15 * 64 / 128
    assert work["policy"]["logprobs"] == pytest.approx(2 * 15 * 64 / 128 + 2 * (80 * 64 + 256 + 15 * 64) / 128 * 2 / 3)
    assert work["keep"] == {} and "score" in work["evaluate"]
    assert work["sample"] == {"sample": 1800 / 128}
    seconds = stage_seconds(work, dict.fromkeys(("pretraining", "sft", "reward", "policy", "sample", "score", "logprobs"), 1.0))
    assert seconds["sft"] == 32 + 4  # a trainer of TRL takes 4 s to start
    assert whole_run({"sft": 5.0, "reward": 7.0, "policy": 11.0}, config) == 5 + 7 + 3 * 11


def test_sizes_for_people():
    assert in_gib(3 * GIB // 2) == "1.5 GiB" and in_gib(5 * 2**20) == "5 MiB"
