"""Three rounds of real stages in this process, as small as they can be: nothing that any of them trains on is held out."""

import json
from collections import defaultdict

import pytest

from configs.schema import RunConfig
from configs.views import visible
from loop.round import LABEL, run_rounds
from loop.stages import STAGES, Context, reward_models, setup
from loop.store import artifacts
from loop.store.layout import place
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.ppo import PPOTrainer
from policies.reporting import report_nothing
from rewards import selectors
from rewards.comparisons import Comparison, PromptRecord, Sample, read_jsonl
from rewards.data.splits import Split, opening
from rewards.selectors import listwise

pytestmark = pytest.mark.slow  # it trains

SETTINGS = {
    "num_rounds": 3,
    "base": {"pretraining_steps": 2, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocabulary_size": 500},
    "lora": {"rank": 2},
    "data": {"num_pairs": 64, "max_prompt_tokens": 200, "max_completion_tokens": 200},
    "generation": {"max_new_tokens": 6},
    "sft": {"batch_size": 32},
    "reward": {"batch_size": 32, "num_epochs": 1, "normalization_samples": 8},
    "ppo": {"num_updates": 2, "batch_size": 8, "num_epochs": 1},
    "sample": {"num_prompts": 20, "num_completions": 3, "heldout_fraction": 0.4},
    "select": {"kinds": ["features", "model", "rules"], "num_epochs": 1},
    "evaluate": {"num_prompts": 8},
}


class InProcess:
    """A `Run` (see `loop/round.py`) without Ray and without a journal."""

    def __init__(self, folder, write_labels):
        self.folder, self.write_labels = folder, write_labels
        labeler = {"kind": "preferences-file", "path": str(folder / "labels-{round}.jsonl")}
        self.config = RunConfig.model_validate(SETTINGS | {"labeler": labeler})
        self.backbone = None

    def stage(self, stage, round_number=None, **inputs):
        given = {name: [a.path for a in v] if isinstance(v, list) else v.path for name, v in inputs.items() if v}
        if stage == LABEL:
            self.write_labels(round_number, read_jsonl(given["samples"] / "samples.jsonl", Sample))
        payload = artifacts.begin(self.folder / "work" / f"{round_number}-{stage.name}", "key")
        context = Context(
            stage.name,
            round_number,
            visible(self.config, stage.visible),
            given,
            payload,
            Checkpoints(),
            report_nothing,
            self.get_backbone,
        )
        metrics = STAGES[stage.name](context)
        return artifacts.commit(payload, self.folder / place(round_number) / stage.name, "key", metrics, 0.0)

    def get_backbone(self, folder):
        self.backbone = self.backbone or Backbone.load(str(folder), self.config.base, self.config.lora)
        return self.backbone


@pytest.fixture
def trained_on(monkeypatch):
    """The openings of all that each trainer was given, by trainer. Each one trains as ever."""
    openings = defaultdict(set)

    def record(owner, name, openings_of):
        real = getattr(owner, name)

        def recording(*arguments, **options):
            openings[name] |= openings_of(*arguments)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, recording)

    def of_ids(tokenizer, prompts):
        return {tokenizer.decode(ids).split("<|user|>")[1].split("<|")[0].strip() for ids in prompts}

    def of_examples(task):
        prompts = {group.prompt_id: group.prompt for group in task.groups}
        return {opening(prompts[example.prompt_id]) for example in task.examples}

    monkeypatch.setattr(setup, "NUM_PRETRAINING_DIALOGUES", 2000)
    record(setup, "train_tiny_base", lambda dialogues, *rest: {opening(messages) for messages, _ in dialogues})
    record(setup, "train_sft", lambda backbone, _, examples, *rest: of_ids(backbone.tokenizer, [prompt for prompt, _ in examples]))
    record(reward_models, "train_reward_model", lambda backbone, _, pairs, *rest: {opening(pair.prompt) for pair in pairs})
    record(listwise, "train_selector", lambda backbone, _, groups, *rest: {opening(group.prompt) for group in groups})
    record(selectors, "fit", lambda kind, task: of_examples(task))
    record(
        PPOTrainer,
        "train",
        lambda self, batches, *rest: of_ids(self.backbone.tokenizer, [prompt.token_ids for batch in batches for prompt in batch]),
    )
    return openings


def test_nothing_that_is_trained_on_is_held_out(tmp_path, trained_on):
    """Round 0's labels name samples by their ids. Round 1's do too, and bring texts for prompts that round 0 had by ids."""
    law = Split(0, 0.22)
    asked = {}  # an answered prompt of each side, from round 0

    def write_labels(round_number, samples):
        by_prompt = defaultdict(list)
        for sample in samples:
            by_prompt[sample.prompt_id].append(sample)
        assert {law.holds_out(sample.prompt) for sample in samples} == {True, False}
        rows = [{"chosen_id": group[0].id, "rejected_id": group[1].id} for group in by_prompt.values()]
        if round_number == 0:
            asked.update({law.holds_out(group[0].prompt): group[0].prompt for group in by_prompt.values()})
        if round_number == 1:
            answers = [{"role": "assistant", "content": text} for text in ("yes", "no")]
            rows += [{"prompt": prompt, "chosen": answers[:1], "rejected": answers[1:]} for prompt in asked.values()]
        (tmp_path / f"labels-{round_number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    run_rounds(InProcess(tmp_path, write_labels))

    labels = [row for r in range(3) for row in read_jsonl(tmp_path / f"round-00{r}" / "label" / "comparisons.jsonl", Comparison)]
    by_text = {row.heldout: row for row in labels if not row.chosen_id}
    assert {side: row.prompt for side, row in by_text.items()} == asked
    assert all(row.prompt_id in {other.prompt_id for other in labels if other.chosen_id} for row in by_text.values())

    heldout = {opening(row.prompt) for row in read_jsonl(tmp_path / "setup" / "filter" / "heldout_prompts.jsonl", PromptRecord)}
    heldout |= {opening(row.prompt) for row in read_jsonl(tmp_path / "setup" / "filter" / "heldout_pairs.jsonl", Comparison)}
    assert heldout >= {opening(row.prompt) for row in labels if row.heldout} != set()
    assert trained_on.keys() == {"train_tiny_base", "train_sft", "train_reward_model", "train_selector", "fit", "train"}
    for trainer, openings in trained_on.items():
        assert openings and not openings & heldout, trainer
        assert trainer == "train_tiny_base" or not any(law.holds_out(text) for text in openings), trainer
    on_either_side = [{row.prompt_id for row in labels if row.heldout == side} for side in (True, False)]
    assert all(on_either_side) and not on_either_side[0] & on_either_side[1]
