"""Whole rounds from one command: the contract of `status`, resuming, determinism, damage, labels from people, other libraries.

One run of two rounds is made by Ray, and most tests look at it. What is made from it or beside it is made without Ray, which gives the
same bytes in less time.
"""

import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from configs import UserError
from configs.judging import SelectConfig
from loop.round import ROUND_STAGES, SETUP_STAGES
from loop.store.measures import find_measure
from loop.store.upkeep import verify
from rewards.comparisons import Comparison, read_jsonl
from rewards.data.splits import Split, content_id, opening
from rewards.replay import Mixture, composition
from tests.integration.conftest import Workspace

pytestmark = pytest.mark.slow


def test_the_contract_of_status(two_rounds):
    status = two_rounds.status("whole")
    assert (status["run"], status["state"]) == ("whole", "done")
    assert list(status["setup"]) == [s.name for s in SETUP_STAGES]
    assert [r["round"] for r in status["rounds"]] == [0, 1]
    for row in status["rounds"]:
        assert (
            list(row["stages"])
            == [s.name for s in ROUND_STAGES]
            == ["reward", "policy", "sample", "answer", "label", "retrain", "select", "keep", "evaluate"]
        )
        assert all(stage["state"] == "done" and stage["seconds"] >= 0 and len(stage["digest"]) == 64 for stage in row["stages"].values())
    evaluate = status["rounds"][1]["stages"]["evaluate"]["metrics"]
    assert {"gold", "proxy_score", "kl", "length", "defects", "reward_accuracy", "retrained_accuracy"} <= set(evaluate)
    assert {"gold_over_sft", "gold_over_last", "length_over_sft", "kl_over_last", "proxy_gain"} <= set(evaluate)
    assert set(evaluate["reward_accuracy"]) == {"original", "round-000", "round-001"}
    retrain = status["rounds"][1]["stages"]["retrain"]["metrics"]
    assert set(retrain["mixture"]) == {"original", "round-000", "round-001"}
    select = status["rounds"][1]["stages"]["select"]["metrics"]
    assert select["judged"].keys() == select["judged_before"].keys() == {*SelectConfig().kinds}
    assert {"random", "chosen", "reward_model", "oracle", "normalized_gain"} <= evaluate["best_of"].keys()


def test_what_is_paired_is_reported_paired(two_rounds):
    """Gold of round 1 over SFT and over round 0, from the samples themselves; select and retrain agree to the last digit."""
    run = two_rounds.folder / "runs" / "whole"

    def gold(stage):
        return {row["prompt_id"]: row["gold"] for row in map(json.loads, (run / stage / "measurements.jsonl").read_text().splitlines())}

    rounds = two_rounds.status("whole")["rounds"]
    evaluate, now = rounds[1]["stages"]["evaluate"]["metrics"], gold("round-001/evaluate")
    for name, stage in (("gold_over_sft", "setup/baseline"), ("gold_over_last", "round-000/evaluate")):
        before = gold(stage)
        assert now.keys() == before.keys()
        differences = [now[prompt] - before[prompt] for prompt in now]
        assert evaluate[name]["mean"] == pytest.approx(statistics.mean(differences), abs=1e-12)
        assert evaluate[name]["standard_error"] == pytest.approx(statistics.stdev(differences) / len(now) ** 0.5)
    for stages in (row["stages"] for row in rounds):
        fresh, judged = stages["retrain"]["metrics"], stages["select"]["metrics"]
        assert judged["judged"]["reward-model"]["pairwise"] == fresh["accuracy_fresh"]
        if judged["judged_before"]:
            assert judged["judged_before"]["reward-model"]["pairwise"] == fresh["accuracy_fresh_before"]


def test_every_metric_of_a_run_is_known(two_rounds):
    status = two_rounds.status("whole")
    stages = [status["setup"], *(row["stages"] for row in status["rounds"])]
    unknown = {(stage, name) for rows in stages for stage, row in rows.items() for name in row["metrics"] if find_measure(name) is None}
    assert not unknown


def test_one_process_without_ray_computes_the_same_bytes(two_rounds):
    out, _ = two_rounds.small("in-process", "--rounds", "1")
    assert "dashboard" not in out and not (two_rounds.folder / "runs" / "in-process" / "logs").exists()
    whole, found = two_rounds.digests("whole"), two_rounds.digests("in-process")
    assert found == {name: whole[name] for name in found}


def test_status_for_people_and_pipes(two_rounds):
    out, err = two_rounds.loop("status", "whole")
    assert "round-001/evaluate" in out and "gold" in out and "\x1b" not in out and not err


def test_a_held_out_prompt_is_in_no_file_that_is_trained_on(two_rounds):
    """By the one law, in what is trained on, what judges, and all comparisons of all rounds."""
    run, law = two_rounds.folder / "runs" / "whole", Split(seed=0, heldout_fraction=0.22)

    def rows(path):
        return [json.loads(line) for line in (run / path).read_text(encoding="utf-8").splitlines()]

    rounds = [r.name for r in run.glob("round-*")]
    trained = [row for name in ("pairs", "prompts") for row in rows(f"setup/filter/{name}.jsonl")]
    trained += [asdict(row) for r in range(len(rounds)) for row in mixture_rows(run, r)]
    judging = [row for name in ("heldout_pairs", "heldout_prompts") for row in rows(f"setup/filter/{name}.jsonl")]
    for row in (row for r in rounds for row in rows(f"{r}/label/comparisons.jsonl")):
        (judging if row["heldout"] else trained).append(row)
    judging += [row for r in rounds for row in rows(f"{r}/evaluate/samples.jsonl")]
    assert all(law.holds_out(row["prompt"]) for row in judging) and not any(law.holds_out(row["prompt"]) for row in trained)
    ids, openings = ([{of(row) for row in part} for part in (trained, judging)] for of in (lambda row: row["prompt_id"], _opening))
    assert not ids[0] & ids[1] and not openings[0] & openings[1]
    assert {row["prompt_id"] for row in trained + judging} == {content_id(row["prompt"]) for row in trained + judging}


def mixture_rows(run, round_number):
    """What a round's reward model was retrained on, out of the run's files."""
    original = read_jsonl(run / "setup" / "filter" / "pairs.jsonl", Comparison)
    labels = [read_jsonl(folder / "label" / "comparisons.jsonl", Comparison) for folder in sorted(run.glob("round-*"))]
    return Mixture.read(run / f"round-{round_number:03d}" / "retrain" / "mixture.json").rows(original, labels)


def test_the_rows_of_a_mixture_can_be_had_again_from_a_run(two_rounds):
    """From the files alone, for every round: as many of each origin as the stage counted while it had them."""
    for r, stages in enumerate(two_rounds.status("whole")["rounds"]):
        metrics = stages["stages"]["retrain"]["metrics"]
        rows = mixture_rows(two_rounds.folder / "runs" / "whole", r)
        assert composition(rows) == metrics["mixture"] and len(rows) == metrics["pairs"] > 0
        said = Counter((row.prompt_id, row.chosen, row.chosen_finished, row.rejected, row.rejected_finished) for row in rows if not row.tie)
        assert metrics["duplicates"] == sum(said.values()) - len(said)  # there are no ties, and no raters
        assert metrics["contradictions"] == sum((row[0], *row[3:], *row[1:3]) in said for row in said) / 2


def test_the_ledger_of_a_run_adds_up(two_rounds):
    """The files of the run, counted here, are what the ledger says. The rules may leave out all that so small a policy writes."""
    run, status = two_rounds.folder / "runs" / "whole", two_rounds.status("whole")

    def rows(path):
        return [json.loads(line) for line in (run / path).read_text(encoding="utf-8").splitlines()]

    sources, written = status["ledger"]["sources"], rows("setup/filter/pairs.jsonl")
    for source, entry in sources.items():
        assert entry["original"] == entry["kept"] + sum(entry["removed"].values()) + sum(entry["moved"].values())
        assert entry["kept"] == sum(row["source"] == source for row in written)
    for account, stages in zip(status["ledger"]["rounds"], status["rounds"], strict=True):
        drawn, kept = rows(f"{account['round']}/sample/samples.jsonl"), rows(f"{account['round']}/keep/kept.jsonl")
        assert account["candidates"] + account["carried"] > 0
        assert account["candidates"] + account["carried"] == account["kept"] + sum(account["left_out"].values())
        assert (len(drawn), len(kept)) == (account["samples"], account["kept"]) and len(drawn) > account["heldout_samples"] > 0
        assert account["labeled"] == stages["stages"]["label"]["metrics"]["comparisons"]
        new = {row["id"] for row in drawn} & {row["id"] for row in kept}
        assert len(new) == sum(entry["generated"].get(account["round"], 0) for entry in sources.values())


def test_a_finished_run_says_so_and_another_round_can_be_added(two_rounds):
    before = two_rounds.digests("whole")
    out, _ = two_rounds.small("whole", "--rounds", "2")
    assert "Nothing to do" in out
    out, _ = two_rounds.small("whole", "--rounds", "3")
    assert "round-002/evaluate" in out and "round-001" not in out
    after = two_rounds.digests("whole")
    assert {key: after[key] for key in before} == before and len(after) == len(before) + len(ROUND_STAGES)


def test_another_config_under_the_same_name_is_refused(two_rounds):
    _, err = two_rounds.small("whole", "--rounds", "2", "ppo.kl_coefficient=0.5", exit_code=2)
    assert "ppo.kl_coefficient: 0.2 there, 0.5 now" in err and "--fork NEW" in err


def test_adapters_load_with_peft_and_give_the_same_logprobs(two_rounds):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from configs.schema import BaseConfig, LoraSection
    from policies.backbone import Backbone
    from policies.responses import ResponseBatch
    from policies.tokenization import encode_completion, encode_prompt

    run = two_rounds.folder / "runs" / "whole"
    base, policy = str(run / "setup" / "base"), run / "round-001" / "policy"
    samples = [json.loads(line) for line in (run / "round-001" / "evaluate" / "samples.jsonl").read_text().splitlines()][:8]
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [encode_prompt(tokenizer, s["prompt"]) for s in samples]
    answers = [encode_completion(tokenizer, s["completion"], s["finished"]) for s in samples]

    backbone = Backbone.load(base, BaseConfig(), LoraSection(rank=4))
    backbone.add_adapter("policy", folder=policy)
    _, ours = ResponseBatch.from_ids(backbone, prompts, answers).under("policy")

    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), policy).eval()
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        with torch.no_grad():
            logits = theirs(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[torch.arange(len(answer)), torch.tensor(answer)]
        assert torch.allclose(ours[i, : len(answer)], expected, atol=1e-5)


USE_CARDS = """
import contextlib, io, json, os, sys
for folder, code in json.load(sys.stdin).items():
    os.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    print(json.dumps(printed.getvalue()))
"""


def test_a_run_of_the_tiny_base_is_taken_away_without_a_network(two_rounds):
    """The code of the cards beside an SFT adapter, a policy and a reward model, in a process that cannot reach the hub.

    They name the base where the run was made, and this run is a copy of that one.
    """
    run, codes = two_rounds.folder / "runs" / "whole", {}
    for stage in ("setup/sft", "round-001/policy", "round-001/retrain"):
        codes[str(run / stage)] = re.search(r"```python\n(.*?)```", (run / stage / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
        base = json.loads((run / stage / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert Path(base).parts[-3:] == ("whole", "setup", "base")
        assert (Path(base) / "model.safetensors").read_bytes() == (run / "setup" / "base" / "model.safetensors").read_bytes()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", USE_CARDS]
    done = subprocess.run(command, input=json.dumps(codes), cwd=run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # a base of 30 steps may well answer nothing, so only that it answers is looked at
    *_, score = map(json.loads, done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == 3 and math.isfinite(float(score))


def test_every_flipped_bit_is_found(two_rounds, tmp_path):
    """200 bits of a finished run, each kind of file in turn, one at a time: `verify` names the file, without a traceback."""
    folder = tmp_path / "runs" / "whole"
    shutil.copytree(two_rounds.folder / "runs" / "whole", folder)
    whole = verify(folder)
    assert whole == ([], len(two_rounds.digests("whole")))
    kinds: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.stat().st_size:
            kinds.setdefault(file.name, []).append(file)
    assert len(kinds) >= 15
    rng = random.Random(0)
    for flip in range(200):
        file = rng.choice(kinds[sorted(kinds)[flip % len(kinds)]])
        content = file.read_bytes()
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :])
        try:
            assert str(file) in " ".join(verify(folder)[0]), (file, at)
        except UserError as error:
            assert file.name == "journal.jsonl" and error.where == str(file)
        file.write_bytes(content)
    assert verify(folder) == whole


def test_a_damaged_stage_is_refused_and_made_again(two_rounds, tmp_path):
    shutil.copytree(two_rounds.folder / "runs" / "whole", tmp_path / "runs" / "whole")
    there = Workspace(tmp_path, two_rounds.cache)
    before, rounds = there.digests("whole"), there.status("whole")["rounds"]
    adapter = tmp_path / "runs" / "whole" / "round-001" / "retrain" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1])
    _, err = there.loop("verify", "whole", exit_code=2)
    assert str(adapter.relative_to(tmp_path)) in err
    _, err = there.small("whole", "--rounds", str(len(rounds)), exit_code=2)
    assert str(adapter.parent.relative_to(tmp_path)) in err and "delete that directory" in err
    shutil.rmtree(adapter.parent)
    there.small("whole", "--rounds", str(len(rounds)))
    assert "nothing damaged" in there.loop("verify", "whole")[0]
    assert there.digests("whole") == before


def test_a_stage_that_the_journal_does_not_know_is_found(two_rounds, tmp_path):
    """A crash after the rename and before the journal line: the last stage is there, the journal ends before it."""
    shutil.copytree(two_rounds.folder / "runs" / "whole", tmp_path / "runs" / "whole")
    there = Workspace(tmp_path, two_rounds.cache)
    before, rounds = there.digests("whole"), len(there.status("whole")["rounds"])
    journal = tmp_path / "runs" / "whole" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    cut = next(i for i in reversed(range(len(lines))) if b'"stage_committed"' in lines[i])
    journal.write_bytes(b"\n".join(lines[:cut]) + b"\n")
    out, _ = there.small("whole", "--rounds", str(rounds))
    assert "dashboard" not in out  # nothing had to be made, so Ray was not started
    assert there.digests("whole") == before and there.status("whole")["state"] == "done"


def test_waiting_for_labels_and_going_on(workspace):
    words = ("labeler.kind=preferences-file", "labeler.path=labels-{round}.jsonl")
    _, err = workspace.small("by-hand", "--rounds", "1", *words, exit_code=3)
    assert "samples to compare" in err and "labels-0.jsonl" in err
    assert workspace.status("by-hand")["state"] == "waiting"
    samples = [json.loads(line) for line in (workspace.folder / "runs/by-hand/round-000/sample/samples.jsonl").read_text().splitlines()]
    by_prompt = {}
    for sample in samples:
        by_prompt.setdefault(sample["prompt_id"], []).append(sample["id"])
    rows = [{"chosen_id": ids[0], "rejected_id": ids[1], "rater": "test"} for ids in by_prompt.values()]
    file = workspace.folder / "labels-0.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], {**rows[1], "chosen_id": rows[1]["chosen_id"] + "x\x1b[2J"}]))
    _, err = workspace.small("by-hand", "--rounds", "1", *words, exit_code=2)
    assert "line 2 cannot be used: there is no sample" in err and f"{file.name}, line 2" in err and "\x1b" not in err
    another = {"chosen_id": "7-7-x-0", "rejected_id": "7-7-x-1"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, another, rows[0]]))
    out, _ = workspace.small("by-hand", "--rounds", "1", *words)
    metrics = workspace.status("by-hand")["rounds"][0]["stages"]["label"]["metrics"]
    assert metrics["comparisons"] + metrics["left_out"].get("about two equal texts", 0) == len(rows)
    assert metrics["left_out"]["about another round"] == 1 and metrics["left_out"]["said before"] == 1
    assert "1 x about another round; 1 x said before" in out


MINE = """
def judge(pairs):
    return [len(pair.first.completion) < len(pair.second.completion) for pair in pairs]


def is_long(reply):
    return len(reply.text) > 20
"""


def test_the_other_choices_run(workspace):
    """Ensembles, interpolated starts, drawn mixtures, earlier samples, a value adapter, a judge and a rule of the user's: two rounds of
    each in one run. Then the file of the judge is edited."""
    (workspace.folder / "mine.py").write_text(MINE)
    words = [
        "reward.ensemble=min",
        "ppo.init=interpolate",
        "ppo.score=reward-model",
        "ppo.advantage=gae",
        "ppo.samples_per_prompt=1",
        "ppo.value_model=adapter",
        "ppo.kl_target=1.0",
        "retrain.data=sample",
        "retrain.mixture_pairs=64",
        "sample.earlier_fraction=0.5",
        "select.kinds=[model, features]",
        "select.use=model",
        "select.init=sft",
        "lora.layers=upper-half",
        "labeler.kind=mine.py:judge",
        "evaluate.rules=[empty, mine.py:is_long]",
    ]
    workspace.small("choices", "--rounds", "2", *words)
    run = workspace.folder / "runs" / "choices" / "round-001"
    generations = {json.loads(line)["generation"] for line in (run / "sample" / "samples.jsonl").read_text().splitlines()}
    assert generations == {0, 1}
    assert len(json.loads((run / "retrain" / "mixture.json").read_text())["drawn"]) == 64
    assert (run / "policy" / "value" / "adapter_model.safetensors").exists()
    labels = [json.loads(line) for line in (run / "label" / "comparisons.jsonl").read_text().splitlines()]
    assert labels and all(len(row["chosen"]) <= len(row["rejected"]) and row["labeler"] == "mine.py:judge" for row in labels)
    assert set(workspace.status("choices")["rounds"][1]["stages"]["evaluate"]["metrics"]["defects"]) == {"empty", "mine.py:is_long"}

    before = workspace.digests("choices")
    (workspace.folder / "mine.py").write_text(f"# It means the same.\n{MINE}")
    out, _ = workspace.loop("resume", "choices", "runtime.executor=in-process")
    made = [line.split()[0] for line in out.splitlines() if line.startswith(("setup/", "round-")) and " was edited" not in line]
    again = [f"{round}/{stage}" for round in ("round-000", "round-001") for stage in ("label", "select", "evaluate")]
    assert made == ["setup/baseline", *again]
    assert "round-001/label: mine.py:judge was edited" in out and "round-001/evaluate: mine.py:is_long was edited" in out
    assert workspace.digests("choices") == before


def test_a_policy_by_dpo(workspace):
    """Two rounds. The second policy is trained on what its reward model was trained on, and PEFT finds what it finds after PPO."""
    workspace.small("dpo", "--rounds", "2", "trainer=dpo")
    first, second = (row["stages"] for row in workspace.status("dpo")["rounds"])
    assert set(first["policy"]["metrics"]["mixture"]) == {"original"}
    assert second["policy"]["metrics"]["mixture"] == first["retrain"]["metrics"]["mixture"]
    assert set(second["policy"]["metrics"]["mixture"]) == {"original", "round-000"}
    assert not [name for name in second["policy"]["metrics"] if find_measure(name) is None]
    policy = workspace.folder / "runs" / "dpo" / "round-001" / "policy"
    files = {"adapter_model.safetensors", "adapter_config.json", "README.md", "tokenizer.json", "metrics.jsonl", "manifest.json"}
    assert files <= {path.name for path in policy.iterdir()}
    assert second["evaluate"]["metrics"]["kl"]["mean"] != 0.0 and "gold_over_last" in second["evaluate"]["metrics"]


def test_real_pairs_with_a_labeling_reward_model(workspace, shared_data):
    """HH pairs: split by opening, a reward model trained on the other half labels."""
    workspace.small(
        "hh",
        "--rounds",
        "1",
        f"data={shared_data / 'hh_harmless' / 'pairs.jsonl.gz'}",
        "data.labeler_fraction=0.5",
        "data.max_prompt_tokens=192",
        "data.max_completion_tokens=96",
        "base.pretraining_texts=[world, chosen]",
        "labeler.kind=reward-model",
    )
    status = workspace.status("hh")
    assert status["setup"]["data"]["metrics"]["skipped"] == {"chosen is empty": 3, "the dialogues differ before the last answer": 1}
    reward = status["rounds"][0]["stages"]["reward"]["metrics"]
    assert reward["accuracy_heldout"]["pairs"] == reward["shorter_wins"]["pairs"] == reward["bag_of_words"]["pairs"] > 50


def _opening(row):
    return opening(row["prompt"])
