"""The child process that times a random model: it does every part of a run, and its failures have a message."""

import pytest

from configs.errors import LoopError
from configs.loading import load_config
from loop.doctor.lengths import Lengths
from loop.doctor.measuring import measure
from loop.doctor.model import find_base_model
from loop.doctor.work import UNITS

pytestmark = pytest.mark.slow
TINY = [
    "base.hidden_size=32",
    "base.num_layers=2",
    "base.num_heads=2",
    "base.vocabulary_size=64",
    "base.pretraining_batch_size=2",
    "sft.batch_size=4",
    "reward.batch_size=4",
    "ppo.batch_size=8",
    "generation.batch_size=8",
    "ppo.advantage=gae",
    "ppo.value_model=adapter",
]


def test_every_part_of_a_run_is_timed():
    config = load_config(overrides=TINY)
    model = find_base_model(config.base, download=False)
    found = measure(config, model.config, Lengths(4, 6, 4, 6, 6), UNITS, threads=1, steps=1)
    assert [*found.seconds] == [*UNITS] and min(found.seconds.values()) > 0
    assert 0 <= found.peak_bytes < found.program_bytes  # a tiny model needs less than the libraries, and may need less than the warm-up
    assert found.paths["unpadded"] and found.paths["merged_decoding"]


def test_a_child_that_fails_is_reported():
    with pytest.raises(LoopError, match="a few steps on a random model failed .*\n(.*\n)*.*nothing"):
        measure(load_config(), {"model_type": "llama"}, Lengths(4, 4, 4, 4, 4), ["nothing"], threads=1)
