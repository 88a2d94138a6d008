"""The order of training: every row once an epoch, like lengths together, nothing but the seed decides."""

import pytest

from configs import UserError
from configs.schema import TrainerSection
from policies.supervised import train_tokenizer, trainer_arguments, training_order


def test_every_row_once_an_epoch_and_lengths_together():
    lengths = [i % 7 for i in range(64)]
    order = training_order(lengths, batch_size=8, num_epochs=2, seed=0)
    assert sorted(order[:64]) == sorted(order[64:]) == list(range(64))
    assert order[:64] != order[64:]
    # 64 rows of 7 lengths in sorted batches of 8: neighbours in length, so a batch spans at most two lengths.
    spans = [len({lengths[row] for row in order[i : i + 8]}) for i in range(0, 128, 8)]
    assert max(spans) == 2


def test_the_seed_decides_and_partial_batches_are_dropped():
    assert training_order([1] * 20, 8, 1, seed=1) == training_order([1] * 20, 8, 1, seed=1) != training_order([1] * 20, 8, 1, seed=2)
    assert len(training_order([1] * 20, 8, 1, seed=1)) == 16
    assert len(training_order([1] * 20, 8, 1.5, seed=1)) == 24  # 30 rows: three whole batches


def test_thai_marks_stay_with_their_letters():
    tokenizer = train_tokenizer(["ค่ะ ค่ะ ค่ะ ไม่ ไม่"], 400)
    assert len(tokenizer("ค่ะ")["input_ids"]) == 1
    assert tokenizer.decode(tokenizer("ไม่ค่ะ")["input_ids"]) == "ไม่ค่ะ"


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [(0, {}, "0 rows to train on are too few"), (100, {"num_epochs": 0.001}, "give not one batch")],
)
def test_too_few_rows_for_one_step_are_refused(rows, settings, message):
    """A thousandth of 100 rows is not one row."""
    with pytest.raises(UserError, match=message):
        trainer_arguments(TrainerSection(**settings), 0, [5] * rows)
