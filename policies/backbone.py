"""One frozen base model, and a LoRA adapter for each role on it. The only file that imports PEFT and bitsandbytes.

    backbone = Backbone.load(folder, base_config, lora_config)
    backbone.add_adapter("policy", copy_of="sft")
    with backbone.role("policy", train=True):   # adapter, gradient flags and mode: set here, restored on the way out
        hidden = backbone.hidden_states(batch)

`role(None)` switches the adapters off: log-probs then equal the base's bit for bit. Outside a role nothing is trainable.
Letters: N real tokens of a batch, H hidden, V vocabulary.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils.hub import cached_file, extract_commit_hash

from configs.errors import UserError
from configs.schema import BaseConfig, LoraSection
from policies.base_folder import check_architecture, no_end_token
from policies.fast.attention import PACKED
from policies.fast.layers import frozen_linear, fuse, takes_only, trimmed, unfuse
from policies.fast.lora import Linear, LoraLinear, flattened
from policies.tokenization import Batch, Packing, pad_batch

SCORE_KEY = "base_model.model.score.weight"
"""Where PEFT looks for the head of a sequence classification model."""
NOISE = re.compile(r"drop|^(input_jitter_noise|jitter_noise|moe_jitter_eps)$")
"""Names of the numbers that make a model random in train mode: probabilities of dropout, and the noise of routers to experts."""


class Backbone:
    """The base model with its tokenizer and named adapters."""

    def __init__(self, causal_lm: Any, tokenizer: Any, lora: LoraSection, name: str = "", gradient_checkpointing: bool = False):
        causal_lm.requires_grad_(False).eval()
        switch_noise_off(causal_lm)
        causal_lm.config.use_cache = False
        self.causal_lm, self.tokenizer, self.lora, self.name = causal_lm, tokenizer, lora, name
        self.location: str = name
        self.revision: str | None = None
        """Where others find the base, for the adapters' configs: a folder of this machine, or a hub id and its revision."""
        self._peft_model: PeftModel | None = None
        self._layers: list[BaseTunerLayer] = []
        self._every_module = list(causal_lm.modules())
        self._parameters: dict[str, list[nn.Parameter]] = {}
        self._state: tuple[str | None, bool] = (None, False)
        if gradient_checkpointing:
            causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        self.first_layer = 0
        self.cache_bytes = 0
        """Largest KV cache so far, as `generation` tells."""
        self.packs = self.trims = False
        self.merges: bool | None = None
        """Whether `decoding.MergedDecoder` gives this model's numbers; None: nobody has looked yet."""
        text_config = causal_lm.config.get_text_config()
        self._logit_scale = getattr(text_config, "logit_scale", None) or 1.0 / (getattr(text_config, "logits_scaling", None) or 1.0)
        self._logit_cap = getattr(text_config, "final_logit_softcapping", None)
        self._check_train_mode()
        self._probe()

    @classmethod
    def load(cls, folder: str, config: BaseConfig, lora: LoraSection) -> "Backbone":
        """Load from a hub id or folder. Raises UserError when there is no causal language model there."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        causal_lm = load_causal_lm(folder, config, device)
        tokenizer = load_tokenizer(folder, config, causal_lm.config)
        backbone = cls(causal_lm, tokenizer, lora, config.model, config.gradient_checkpointing)
        if os.path.isdir(folder):
            backbone.location = os.path.abspath(folder)
        else:
            backbone.location, backbone.revision = folder, config.revision
        return backbone

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    @property
    def decoder(self) -> nn.Module:
        """The transformer without its language model head."""
        return self.causal_lm.base_model

    @property
    def hidden_size(self) -> int:
        return self.causal_lm.config.get_text_config().hidden_size

    @property
    def _depth(self) -> int:
        return self.causal_lm.config.get_text_config().num_hidden_layers

    # -- adapters ---------------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, seed: int = 0, copy_of: str | None = None, folder: Path | None = None) -> None:
        """A new adapter: fresh (its change to the base is zero), a copy of another one, or from a PEFT folder.

        Replaces an adapter of the same name.
        """
        self.delete_adapter(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self._peft_model is None:
                self._peft_model = PeftModel(self.causal_lm, self._lora_config(), adapter_name=name)
            else:
                self._peft_model.add_adapter(name, self._lora_config())
        self._every_module = list(self.causal_lm.modules())
        for module in self._every_module:  # PEFT's new modules start in train mode, whatever the model is in
            vars(module)["training"] = self.causal_lm.training
        self._layers = [m for m in self._every_module if isinstance(m, BaseTunerLayer)]
        for layer in self._layers:
            _fuse(layer)
        named = [(key, p) for key, p in self.causal_lm.named_parameters() if "lora_" in key]
        self._parameters = {n: [p for key, p in named if f".{n}." in key] for n in self._peft_model.peft_config}
        self.causal_lm._hf_peft_config_loaded = True  # transformers' sign that a quantized model has something to train
        if copy_of:
            self.set_adapter_state(name, self.adapter_state(copy_of))
        if folder:
            self.set_adapter_state(name, load_file(folder / "adapter_model.safetensors"))
        self._switch(*self._state)

    def delete_adapter(self, name: str) -> None:
        self._parameters.pop(name, None)
        if self._peft_model is not None and name in self._peft_model.peft_config and len(self._peft_model.peft_config) > 1:
            self._peft_model.delete_adapter(name)
            self._every_module = list(self.causal_lm.modules())
            for layer in self._layers:
                _fuse(layer)
        elif self._peft_model is not None and name in self._peft_model.peft_config:
            self.causal_lm = self._peft_model.unload()
            self._peft_model, self._layers, self._every_module = None, [], list(self.causal_lm.modules())

    def has_adapter(self, name: str) -> bool:
        return self._peft_model is not None and name in self._peft_model.peft_config

    def adapter_state(self, name: str) -> dict[str, torch.Tensor]:
        """The adapter's tensors under PEFT's names, on the CPU."""
        state = get_peft_model_state_dict(self._peft_model, adapter_name=name, save_embedding_layers=False)
        return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}

    def set_adapter_state(self, name: str, state: dict[str, torch.Tensor]) -> None:
        weights = {key: tensor for key, tensor in state.items() if key != SCORE_KEY}
        result = set_peft_model_state_dict(self._peft_model, weights, adapter_name=name)
        if result.unexpected_keys:
            raise UserError(f"the adapter does not fit the base model: {result.unexpected_keys[0]}", name, "use one base per run")

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The adapter's trainable tensors, in a fixed order."""
        return self._parameters[name]

    def save_adapter(self, name: str, folder: Path, head: torch.Tensor | None = None) -> None:
        """Write a folder that `PeftModel.from_pretrained` loads; with `head` [1, H], one for sequence classification.

        The config is canonical JSON, because PEFT writes sets, whose order changes from process to process.
        """
        state = self.adapter_state(name)
        config = self._peft_model.peft_config[name].to_dict()  # type: ignore[union-attr]
        config |= {"inference_mode": True, "base_model_name_or_path": self.location, "revision": self.revision}
        if head is not None:
            state[SCORE_KEY] = head.detach().float().cpu().contiguous()
            config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

    def resident_bytes(self) -> dict[str, int]:
        """Bytes of the base and of all adapters, counted by storage, so that a hidden copy shows."""
        named = list(self.causal_lm.named_parameters())
        adapters = [p for name, p in named if "lora_" in name]
        return {"base": stored_bytes([p for name, p in named if "lora_" not in name]), "adapters": stored_bytes(adapters)}

    # -- roles ------------------------------------------------------------------------------------------------------

    @contextmanager
    def role(self, adapter: str | None, train: bool = False) -> Iterator[None]:
        """Speak as one role: its adapter active (None: the bare base), trainable or not, in train or eval mode."""
        before, mode = self._state, self.causal_lm.training
        if before == (adapter, train) and mode == train:
            yield
            return
        self._switch(adapter, train)
        self._set_mode(train)
        try:
            yield
        finally:
            self._switch(*before)
            self._set_mode(mode)

    @contextmanager
    def merged(self, adapter: str | None) -> Iterator[None]:
        """`role(adapter)` for much forward work: the adapter's product is added to copies of the base's weights.

        The base's own bytes are set aside and come back unchanged. Quantized layers keep their adapter beside them.
        """
        with self.role(adapter):
            plain = [layer for layer in self._layers if adapter in layer.lora_A and type(layer.get_base_layer()) is nn.Linear]
            if len(plain) < sum(adapter in layer.lora_A for layer in self._layers):
                yield
                return
            weights = [layer.get_base_layer().weight for layer in plain]
            before = [weight.data for weight in weights]
            try:
                for layer, weight in zip(plain, weights, strict=True):
                    weight.data = (weight.data + layer.get_delta_weight(adapter)).to(weight.dtype)
                    layer._disable_adapters = True
                yield
            finally:
                for layer, weight, data in zip(plain, weights, before, strict=True):
                    weight.data = data
                    layer._disable_adapters = False

    def _set_mode(self, train: bool) -> None:
        """As `nn.Module.train`, without its walk through every attribute."""
        if self.causal_lm.training != train:
            for module in self._every_module:
                vars(module)["training"] = train

    def _switch(self, adapter: str | None, train: bool) -> None:
        for layer in self._layers:  # PEFT's own set_adapter and enable_adapters would walk all parameters of all adapters
            layer._disable_adapters = adapter is None
            layer._active_adapter = layer._active_adapter if adapter is None else [adapter]
        for name, parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(train and name == adapter)
        self._state = (adapter, train)

    # -- forward ----------------------------------------------------------------------------------------------------

    def hidden_states(
        self, batch: Batch, lower: torch.Tensor | None = None, only: torch.Tensor | None = None, packing: Packing | None = None
    ) -> torch.Tensor:
        """States after the final norm of the batch's real tokens, [N, H], row after row, or of `packing`'s; `only` of those, if given.

        `lower` [real tokens, H], where it is known: what enters layer `first_layer`; the layers below are then not run again.
        """
        packing = packing or batch.packing
        lower = lower if lower is None or len(packing.kept) == len(lower) else lower[packing.kept]
        if not self.packs:
            padded = self.decoder(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, use_cache=False
            )
            return padded.last_hidden_state.flatten(0, 1)[packing.index if only is None else packing.index[only]]
        inputs = {"input_ids": packing.input_ids[None]} if lower is None else {"inputs_embeds": lower[None]}
        inputs |= {"position_ids": packing.position_ids[None], "packing": packing}
        part = (0 if lower is None else self.first_layer, only if self.trims else None)
        if takes_only(self.decoder):
            states = self.decoder(**inputs, first_layer=part[0], only=part[1])
        else:
            with self._only(*part):
                states = self.decoder(**inputs, use_cache=False)
        states = states.last_hidden_state[0]
        return states if only is None or self.trims else states[only]

    @contextmanager
    def _only(self, first_layer: int, only: torch.Tensor | None) -> Iterator[None]:
        """Packed attention, only the layers from `first_layer` on, and the last layer's second half only for the tokens in `only`, in a
        decoder that `fused` does not know."""
        config, layers = self.decoder.config, self.decoder.layers if first_layer or only is not None else None
        before = config._attn_implementation
        config._attn_implementation = PACKED
        if layers is not None:
            upper = list(layers[first_layer:])
            self.decoder.layers = nn.ModuleList(upper if only is None else [*upper[:-1], TrimmedLayer(upper[-1], only)])
        try:
            yield
        finally:
            config._attn_implementation = before
            if layers is not None:
                self.decoder.layers = layers

    @contextmanager
    def capture(self) -> Iterator[list[torch.Tensor]]:
        """Collects what enters layer `first_layer` in every forward pass inside; nothing where that is the first layer."""
        seen: list[torch.Tensor] = []
        if not self.first_layer:
            yield seen
            return
        hook = self.decoder.layers[self.first_layer].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            yield seen
        finally:
            hook.remove()

    @torch.no_grad()
    def _check_train_mode(self) -> None:
        """The log-probs of training must be those of sampling. Raises UserError where six tokens show that they are not."""
        batch = pad_batch([[2, 3, 4]], [[5, 6, 7]], self.tokenizer.pad_token_id, self.device)
        sampling = self.hidden_states(batch).float()
        self._set_mode(True)
        training = self.hidden_states(batch).float()
        self._set_mode(False)
        if (training - sampling).norm() > 0.02 * sampling.norm():
            raise UserError("this model computes other numbers in train mode, even without dropout", self.name, "choose another base.model")

    @torch.no_grad()
    def _probe(self) -> None:
        """Find out on six tokens what this architecture can do: run packed, and start from a middle layer.

        Whatever does not give the same numbers is not used.
        """
        batch = pad_batch([[2, 3], [4]], [[5, 6], [7]], self.tokenizer.pad_token_id, self.device)
        expected = self.hidden_states(batch)
        fuse(self.decoder)

        def agrees(attempt: Callable[[], torch.Tensor]) -> bool:
            try:
                return (attempt() - expected).float().norm().item() < 0.02 * expected.float().norm().item()
            except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):
                return False

        def from_the_middle() -> torch.Tensor:
            with self.capture() as lower:
                self.hidden_states(batch)
            return self.hidden_states(batch, lower[0][0])

        if not agrees(lambda: self.hidden_states(batch)):
            unfuse(self.decoder)
        self.packs = True
        self.packs = agrees(lambda: self.hidden_states(batch))
        only = torch.arange(len(expected), device=self.device)
        self.trims = self.packs
        self.trims = self.packs and agrees(lambda: self.hidden_states(batch, only=only))
        self.first_layer = self._depth // 2 if self.packs and self.lora.layers == "upper-half" else 0
        if self.first_layer and not agrees(from_the_middle):
            self.first_layer = 0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., H] -> [..., V], in float32 where the model computes in less."""
        logits = self.causal_lm.get_output_embeddings()(hidden)
        logits = (logits.float() if logits.dtype.itemsize < 4 else logits) * self._logit_scale
        return logits if self._logit_cap is None else self._logit_cap * torch.tanh(logits / self._logit_cap)

    @property
    def frozen_head(self) -> Linear | None:
        """The language model head, where logits are nothing but this frozen linear layer."""
        return frozen_linear(self.causal_lm.get_output_embeddings()) if self._logit_scale == 1.0 and self._logit_cap is None else None

    def _lora_config(self) -> LoraConfig:
        upper_half = list(range(self._depth // 2, self._depth)) if self.lora.layers == "upper-half" else None
        target_modules = self.lora.target_modules
        if upper_half and target_modules == "all-linear":  # PEFT takes layer numbers only with a list of names
            linear = (name for name, module in self.decoder.named_modules() if isinstance(module, nn.Linear))
            target_modules = sorted({name.rsplit(".", 1)[-1] for name in linear if "lora_" not in name and "base_layer" not in name})
        return LoraConfig(
            r=self.lora.rank,
            lora_alpha=self.lora.alpha,
            lora_dropout=0.0,
            target_modules=target_modules,
            layers_to_transform=upper_half,
            task_type=TaskType.CAUSAL_LM,
        )


class TrimmedLayer(nn.Module):
    """`fused.trimmed` in a layer's place."""

    def __init__(self, layer: nn.Module, only: torch.Tensor):
        super().__init__()
        self.layer, self.only = layer, only

    def forward(self, states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[1, N, H] -> [1, M, H]."""
        return trimmed(self.layer, states, self.only, **kwargs)


def _fuse(layer: Any) -> None:
    """Replace the layer's forward where it is a plain LoRA over a plain linear layer of the same dtype; leave it otherwise."""
    base = layer.get_base_layer()
    if type(layer) is not lora.Linear or type(base) is not nn.Linear or layer.lora_variant:
        return
    if any(type(dropout) is not nn.Identity for dropout in layer.lora_dropout.values()):
        return
    if any(module.weight.dtype != base.weight.dtype for module in layer.lora_A.values()):
        return
    bare, lora_a, lora_b = Linear(base.weight, base.bias), layer.lora_A, layer.lora_B
    layer.linears = {n: Linear(base.weight, base.bias, lora_a[n].weight, lora_b[n].weight, layer.scaling[n]) for n in lora_a} | {None: bare}
    layer.active_linear, layer.forward = MethodType(_active_linear, layer), MethodType(_fused_forward, layer)


def _active_linear(layer: Any) -> Linear:
    return layer.linears.get(None if layer._disable_adapters else layer._active_adapter[0], layer.linears[None])


def _fused_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    linear = layer.active_linear()
    if linear.a is None:
        return nn.functional.linear(x, linear.weight, linear.bias)
    tensors, scalings = flattened([linear])
    return LoraLinear.apply(x, scalings, *tensors)


def load_causal_lm(folder: str, config: BaseConfig, device: str) -> Any:
    """`AutoModelForCausalLM.from_pretrained`, 4-bit where the config says so. Raises UserError when that cannot be."""
    check_causal_lm(folder, config)
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.quantization == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
        options["device_map"] = {"": device}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.dtype), **options)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"the base model cannot be loaded: {first_line(error)}", folder, "check base.model") from None
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights at the first forward in eval mode, and then drop their gradients in training.
            module.support_avx512bf16_for_cpu = False
    return model if config.quantization == "nf4" else model.to(device)


def check_causal_lm(folder: str, config: BaseConfig) -> Any:
    """The model's config. Raises UserError if it is missing or not a decoder-only language model."""
    try:
        found = transformers.AutoConfig.from_pretrained(folder, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load("model", folder, error) from None
    check_architecture(found.to_dict(), folder)
    known = type(found) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    remote = config.trust_remote_code and "AutoModelForCausalLM" in (getattr(found, "auto_map", None) or {})
    if not (known or remote):
        raise UserError(f"the base is not a causal language model ({type(found).__name__})", folder, "choose a decoder-only model")
    return found


def resolved_commit(config: BaseConfig) -> str | None:
    """The commit of a hub model that `config.revision` stands for now, as the hub's cache tells; None where nothing tells it."""
    path = cached_file(config.model, "config.json", revision=config.revision)
    return extract_commit_hash(path, None)


def load_tokenizer(folder: str, config: BaseConfig, model_config: Any) -> Any:
    """The base's tokenizer, with a pad token. Raises UserError where there is none, it cannot end an answer, or it is another model's."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:  # what the many tokenizer classes raise on missing files
        raise _cannot_load("tokenizer", folder, error) from None
    if tokenizer.eos_token_id is None:
        raise no_end_token(folder)
    largest, rows = max(tokenizer.get_vocab().values()), model_config.get_text_config().vocab_size
    if largest >= rows:
        raise UserError(
            f"the tokenizer knows tokens up to number {largest}, and the model only {rows} of them", folder, "use the model's own tokenizer"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _cannot_load(what: str, folder: str, error: Exception) -> UserError:
    """Why a part of the base cannot be had: it is not there, or the hub cannot be reached."""
    if "connect" in str(error) or "offline" in str(error):
        to_do = "connect to the network, set HF_ENDPOINT to a mirror, or give the folder of a model that is already on this machine"
        return UserError(f"the hub cannot be reached, and this {what} was never downloaded here", f"base.model={folder}", to_do)
    to_do = "give base.model a hub id, or a folder with config.json, weights and tokenizer"
    return UserError(f"there is no {what} to load: {first_line(error)}", f"base.model={folder}", to_do)


def switch_noise_off(model: nn.Module) -> None:
    """Set every number of `NOISE` to 0: the model then computes the same in train mode as in eval mode.

    Such numbers are in dropout modules, in plain attributes (OPT, XGLM) and in configs, which some models read in every pass (BLT).
    """
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    for owner in (*model.modules(), *configs.values()):
        for name in [name for name, value in vars(owner).items() if NOISE.search(name) and isinstance(value, float)]:
            setattr(owner, name, 0.0)
        if isinstance(owner, nn.modules.dropout._DropoutNd):
            owner.p = 0.0


def stored_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind some tensors, each storage once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _plain(value: Any) -> Any:
    """Sets as sorted lists, anything else by its text: canonical, whatever the process."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
