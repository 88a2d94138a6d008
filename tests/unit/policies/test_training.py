"""The order of training has every row in every epoch and similar lengths together, and only the seed decides it."""

import random
from collections import Counter

import pytest
from transformers import TrainingArguments

from configs import UserError
from configs.schema import TrainerSection
from policies import parallel
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.sft import train_sft
from policies.tiny_base import train_tokenizer
from policies.training import Training, training_order


def plan(section, lengths, num_batches=None):
    return Training(section, Checkpoints(), 0, report_nothing, num_batches).order_and_arguments(lengths)


def test_every_row_once_an_epoch_and_lengths_together():
    lengths = [i % 7 for i in range(64)]
    order = training_order(lengths, batch_size=8, num_batches=16, seed=0)
    assert sorted(order[:64]) == sorted(order[64:]) == list(range(64))
    assert order[:64] != order[64:]
    # 64 rows of 7 lengths in sorted batches of 8: neighbors in length, so a batch spans at most two lengths.
    spans = [len({lengths[row] for row in order[i : i + 8]}) for i in range(0, 128, 8)]
    assert max(spans) == 2


@pytest.mark.parametrize("lengths", ["different", "equal"])
@pytest.mark.parametrize("rows", [1, 5, 63, 64, 65, 100, 128])
def test_no_row_is_left_out_of_an_epoch(rows, lengths):
    """100 rows in batches of 64 make two batches, so 28 rows are there twice, and none three times. 5 rows in one batch of 64 are
    each there 12 or 13 times."""
    number = -(-rows // 64)
    order = training_order([i if lengths == "different" else 9 for i in range(rows)], 64, 3 * number, seed=0)
    assert len(order) == 3 * number * 64
    for epoch in range(3):
        times = Counter(order[epoch * number * 64 : (epoch + 1) * number * 64])
        assert set(times) == set(range(rows)) and max(times.values()) - min(times.values()) <= 1


def test_any_row_may_be_the_one_that_is_there_twice():
    """28 of 100 rows are there twice in an epoch. Over 40 seeds, a row is never among them with probability 0.72^40 = 2e-6."""
    lengths = random.Random(0).sample(range(100), 100)
    often = Counter(row for seed in range(40) for row, n in Counter(training_order(lengths, 64, 2, seed)).items() if n == 2)
    assert set(often) == set(range(100))


def test_the_seed_decides():
    assert training_order([1] * 20, 8, 3, seed=1) == training_order([1] * 20, 8, 3, seed=1) != training_order([1] * 20, 8, 3, seed=2)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("rows", "epochs", "batches"),
    # 100 rows are two batches of 64: a half epoch is one, 1.25 epochs are 2.5, so three. 1,000 are 16: 1.1 epochs are 17.6.
    # 640 are 10, and 1.1 times 10 is 11 (11.000000000000002 in floating point). A part of one batch is one batch.
    [(100, 1.0, 2), (100, 0.5, 1), (100, 1.25, 3), (1000, 1.1, 18), (640, 1.1, 11), (100, 1e-12, 1), (1, 2.0, 2), (3, 1.0, 1)],
)
def test_workers_and_parts_of_epochs(monkeypatch, rows, epochs, batches, workers):
    section = TrainerSection(num_epochs=epochs, batch_size=64, micro_batch_size=16)
    alone, _ = plan(section, range(rows))
    monkeypatch.setattr(parallel, "world_size", lambda: workers)
    order, arguments = plan(section, range(rows))
    assert order == alone and len(order) == batches * 64
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * workers == 64


def test_the_number_of_steps_can_be_given():
    assert len(plan(TrainerSection(batch_size=16), [5] * 100, num_batches=23)[0]) == 23 * 16


@pytest.mark.parametrize(("ratio", "steps"), [(0.0, 0), (0.05, 2), (0.5, 12), (1.0, 23)])
def test_the_warmup_is_a_fraction_of_the_steps(ratio, steps):
    """0.05 of 23 steps are 1.15, which is rounded up. All of them is not one step."""
    arguments = plan(TrainerSection(batch_size=16, warmup_ratio=ratio), [5] * 100, num_batches=23)[1]
    assert TrainingArguments(**arguments).get_warmup_steps(23) == steps


def test_the_model_sees_the_longest_rows(backbone):
    """Look at what reaches the model through TRL: 100 rows in batches of 64, each with a different length."""
    seen = set()

    def note(module, args, kwargs):
        seen.update(int(row.sum()) for row in kwargs["attention_mask"])

    backbone.add_adapter("sft")
    handle = backbone.causal_lm.register_forward_pre_hook(note, with_kwargs=True)
    examples = [([5], [6] * i) for i in range(1, 101)]
    train_sft(backbone, "sft", examples, TrainerSection(batch_size=64), Checkpoints(), 0, report_nothing)
    handle.remove()
    assert seen == set(range(2, 102))


def test_no_rows_are_refused():
    with pytest.raises(UserError, match="no rows to train on"):
        plan(TrainerSection(), [])


def test_thai_marks_stay_with_their_letters():
    tokenizer = train_tokenizer(["ค่ะ ค่ะ ค่ะ ไม่ ไม่"], 400)
    assert len(tokenizer("ค่ะ")["input_ids"]) == 1
    assert tokenizer.decode(tokenizer("ไม่ค่ะ")["input_ids"]) == "ไม่ค่ะ"
