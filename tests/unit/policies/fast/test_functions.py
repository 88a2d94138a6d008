"""The fused parts of a decoder layer agree with finite differences and with transformers' own modules."""

import pytest
import torch
import transformers
from torch.autograd import gradcheck

from policies.fast import lora
from policies.fast.attention import causal_bias
from policies.fast.batches import pad_batch
from policies.fast.functions import GatedMLP, Layer, RMSNorm, RotatedHeads, ShortAttention
from policies.fast.layers import fuse, unfuse
from policies.fast.logprobs import LogProbs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=[0, 10**9], ids=["merged", "beside"], autouse=True)
def merge(request, monkeypatch):
    """Run each test with adapters that are always merged, and with adapters that are never merged."""
    monkeypatch.setattr("policies.fast.lora.MERGE", request.param)


def random(*shape, grad=True):
    return torch.randn(shape, dtype=torch.double, requires_grad=grad)


def make_group(*sizes, rank=2, without=None):
    """Make linear layers [out, in] with adapters. The layer with the number `without` has none."""
    made = []
    for i, (out, inside) in enumerate(sizes):
        adapter = (None, None) if i == without else (random(rank, inside), random(out, rank))
        made.append(lora.Linear(random(out, inside, grad=False), random(out, grad=False) if i else None, *adapter, scaling=0.5 + i))
    return made


def check(function, x, group, *arguments):
    """Check that the gradients of x and of every A and B equal finite differences."""
    tensors, scalings = lora.flattened(group)
    variable = [i for i, tensor in enumerate(tensors) if tensor is not None and tensor.requires_grad]

    def call(x, *changing):
        filled = dict(zip(variable, changing, strict=True))
        return function.apply(x, *arguments, scalings, *(filled.get(i, tensor) for i, tensor in enumerate(tensors)))

    assert gradcheck(call, (x, *(tensors[i] for i in variable)))


def test_rms_norm():
    assert gradcheck(lambda x, w: RMSNorm.apply(x, w, 1e-3), (random(2, 3, 5), random(5)))


@pytest.mark.parametrize("without", [None, 0, 2])
def test_gated_mlp(without):
    check(GatedMLP, random(3, 4), make_group((6, 4), (6, 4), (4, 6), without=without))


@pytest.mark.parametrize("without", [None, 1])
def test_rotated_heads(without):
    """Four query heads, two heads of keys and values, and rows of different lengths."""
    unpadded = pad_batch([[2, 3], [4]], [[5, 6], [7]], 0).unpadded
    angles = random(6, 1, 1, grad=False)
    check(RotatedHeads, random(6, 3), make_group((8, 3), (4, 3), (4, 3), without=without), angles.cos(), angles.sin(), unpadded)


@pytest.mark.parametrize("without", [None, 1])
@pytest.mark.parametrize("prompts", [[[2, 3], [4]], [[2], [4]]])
def test_short_attention(prompts, without):
    """Two heads and a window of two tokens. Rows have different lengths, or the same length, which needs no padding."""
    unpadded = pad_batch(prompts, [[5, 6], [7, 8]], 0).unpadded
    angles = random(len(unpadded.index), 1, 1, grad=False)
    bias, group = causal_bias(unpadded.shape[1], 2, torch.double, torch.device("cpu")), make_group((4, 3), (4, 3), (4, 3), without=without)
    check(ShortAttention, random(len(unpadded.index), 3), group, angles.cos(), angles.sin(), unpadded, bias, 0.7)


@pytest.mark.parametrize("without", [None, 1, 5])
@pytest.mark.parametrize("only", [None, [0, 2, 3]])
def test_layer(only, without):
    """The whole layer, or its second half for three of six tokens."""
    unpadded = pad_batch([[2, 3], [4]], [[5, 6], [7]], 0).unpadded
    angles = random(6, 1, 1, grad=False)
    bias = causal_bias(unpadded.shape[1], None, torch.double, torch.device("cpu"))
    attention = (angles.cos(), angles.sin(), unpadded, bias, 0.7)
    norms = [(random(4, grad=False), 1e-3) for _ in range(2)]
    group = make_group((4, 4), (4, 4), (4, 4), (4, 4), (6, 4), (6, 4), (4, 6), without=without)
    check(Layer, random(6, 4), group, None if only is None else torch.tensor(only), norms, attention)


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_log_probs(monkeypatch, chunk):
    """Values against log_softmax, gradients against finite differences, in chunks of one token and in one."""
    monkeypatch.setattr("policies.fast.logprobs.CHUNK", chunk)
    states, weight, bias, tokens = random(5, 3), random(7, 3, grad=False), random(7, grad=False), torch.tensor([0, 6, 2, 2, 1])
    for offset in (bias, None):
        expected = (torch.nn.functional.linear(states, weight, offset) / 0.7).log_softmax(-1)[range(5), tokens]
        assert torch.allclose(LogProbs.apply(states, weight, offset, tokens, 0.7), expected, atol=1e-12)
        assert gradcheck(lambda states, offset=offset: LogProbs.apply(states, weight, offset, tokens, 0.7), (states,))


@pytest.mark.parametrize("chunk", [1, 10_000])
@pytest.mark.parametrize("probability", [0.5, 0.985, 0.997])
def test_log_probs_of_confident_tokens_in_bfloat16(monkeypatch, probability, chunk):
    """The gradient is (onehot - p) W, which is small where p is near 1. There, logits near 10 are off by up to 1/32 in bfloat16, and 1 - p
    by as large a part of itself. So the median error is 1.4 % at 0.985 and 1.7 % at 0.997. W_t - (sum of p W) has 19 % and 100 %."""
    monkeypatch.setattr("policies.fast.logprobs.CHUNK", chunk)
    H, V, M = 64, 512, 200
    weight, tokens = (torch.randn(V, H) / H**0.5).bfloat16(), torch.randint(V, (M,))
    low, high = torch.zeros(M, 1, dtype=torch.double), torch.full((M, 1), 60.0, dtype=torch.double)
    for _ in range(30):  # bisect how far each state goes in the direction of its token's weights
        middle = (low + high) / 2
        found = (middle * weight[tokens].double() @ weight.double().T).softmax(-1).gather(1, tokens[:, None])
        low, high = torch.where(found < probability, middle, low), torch.where(found < probability, high, middle)
    states = (low * weight[tokens]).bfloat16().requires_grad_()
    exact = states.detach().double().requires_grad_()
    expected = torch.nn.functional.linear(exact, weight.double()).log_softmax(-1)[range(M), tokens]
    logprobs = LogProbs.apply(states, weight, None, tokens, 1.0)
    assert logprobs.dtype is torch.float32 and (logprobs.exp() - probability).abs().median() < 0.02
    ours, theirs = (torch.autograd.grad(values.sum(), x)[0].double() for values, x in ((logprobs, states), (expected, exact)))
    assert ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).median() < 0.025


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_each_architecture_gives_transformers_own_numbers(name):
    """States and gradients are in float64, except for the norm, which transformers computes in float32."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}Config")(**sizes, num_key_value_heads=2, head_dim=4, pad_token_id=0)
    model = getattr(transformers, f"{name}Model")(config).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ids = torch.randint(2, 50, (3, 7))
    inputs = random(3, 7, 16)
    found = []
    for change in (unfuse, fuse):
        change(model)
        states = model(inputs_embeds=inputs).last_hidden_state
        found.append([states, *torch.autograd.grad((states**2).sum(), inputs), model(input_ids=ids).last_hidden_state])
    fused = {type(module).__name__.removeprefix(name) for module in model.modules() if "forward" in vars(module)}
    assert fused == {"RMSNorm", "MLP", "Attention", *(["DecoderLayer", "Model"] if name != "Qwen3" else [])}
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_what_is_trained_itself_keeps_transformers_forward():
    """In pretraining, the base's own weights need gradients."""
    model = transformers.LlamaModel(
        transformers.LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4)
    )
    ids = torch.randint(2, 50, (2, 5))
    gradients = []
    for change in (unfuse, fuse):
        change(model)
        model.zero_grad()
        (model(input_ids=ids).last_hidden_state ** 2).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-4), name
