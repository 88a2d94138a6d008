"""The comparison at load finds what is wrong beyond a few tokens, in small differences, with padding, and token by token."""

import pytest
import torch
import transformers

from configs import UserError
from configs.schema import LoraSection
from policies.backbone import Backbone
from policies.fast import attention
from policies.fast.comparing import LONGEST_WINDOW, close, rows_to_compare
from policies.fast.model import FastModel
from policies.fast.sampling import TransformersDecoding
from tests.conftest import make_causal_lm
from tests.unit.policies.model_forms import tiny_backbone

ATTEND = attention.attend


def test_a_window_that_is_ignored_is_found(monkeypatch):
    """Six tokens would not show it: the window has 12."""
    assert tiny_backbone("Gemma 3").fast.paths.unpadded
    monkeypatch.setattr(attention, "attend", lambda *args: ATTEND(*args[:-1]))
    assert not tiny_backbone("Gemma 3").fast.paths.unpadded


def test_a_difference_of_a_thousandth_is_found_in_float32_and_is_rounding_in_bfloat16(monkeypatch):
    monkeypatch.setattr(attention, "attend", lambda *args: 1.003 * ATTEND(*args))
    assert not tiny_backbone("GPT-NeoX, Pythia").fast.paths.unpadded
    assert tiny_backbone("GPT-NeoX, Pythia", dtype=torch.bfloat16).fast.paths.unpadded


def test_layers_that_lose_their_place_are_found(monkeypatch):
    """Gemma 3 looks up the window and the rotary embedding of a layer by its place in the list. Lower layers must not be left out of it."""
    assert tiny_backbone("Gemma 3", "upper-half").start_layer == 2
    run = torch.nn.ModuleList.__init__

    def without_stand_ins(self, modules=None):
        run(self, [module for module in modules or [] if type(module).__name__ != "StandIn"])

    monkeypatch.setattr(torch.nn.ModuleList, "__init__", without_stand_ins)
    assert tiny_backbone("Gemma 3", "upper-half").start_layer == 0


def test_a_model_that_decodes_other_numbers_is_refused(monkeypatch):
    step = TransformersDecoding.step

    def one_place_too_far(self, token_ids):
        self.positions = self.positions + 1
        return step(self, token_ids)

    monkeypatch.setattr(TransformersDecoding, "step", one_place_too_far)
    with pytest.raises(UserError, match="token by token"):
        tiny_backbone("GPT-J")


def test_a_model_that_reads_padding_is_refused(monkeypatch):
    run = FastModel.run_padded
    monkeypatch.setattr(FastModel, "run_padded", lambda self, ids, mask, *rest, **kwargs: run(self, ids, mask * 0 + 1, *rest, **kwargs))
    with pytest.raises(UserError, match="with padding"):
        tiny_backbone("GPT-J")


def test_a_model_with_other_logits_is_refused():
    class Doubled(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = 2 * out.logits
            return out

    model, tokenizer = make_causal_lm()
    with pytest.raises(UserError, match="logits"):
        Backbone(Doubled(model.config), tokenizer, LoraSection(rank=4))


def test_the_rows_are_longer_than_a_window_and_not_longer_than_the_model_reads():
    def longest(window, max_tokens=None):
        config = transformers.MistralConfig(vocab_size=50, sliding_window=window)
        batches = rows_to_compare(config, 128, max_tokens)
        assert all(0 <= token < 50 for rows in batches for row in rows for token in row)
        assert all(len({len(row) for row in rows}) > 1 for rows in batches)
        return max(len(row) for row in batches[1])

    assert longest(None) == longest(12) == longest(LONGEST_WINDOW + 1) == 136
    assert longest(200) == 208 and longest(200, 150) == 150


def test_numbers_that_are_not_finite_are_not_close():
    ones = torch.ones(4)
    assert close(ones, ones, 1e-4)
    assert not close(ones * float("nan"), ones, 1e-4) and not close(ones / 0, ones / 0, 1e-4)
