"""A frozen causal language model that carries named LoRA adapters, one for each role. The only file that imports PEFT.

Adapters are PEFT's, in memory and on disk, so other programs can load them. Two things differ from PEFT:
- The forward pass of plain LoRA layers is that of `fast/lora.py`.
- `role` switches adapters. PEFT's own methods walk through all parameters of all adapters, and leaving its `disable_adapter()` can make a
  frozen adapter trainable again.
"""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from configs.errors import UserError
from configs.schema import LoraSection
from policies.fast.lora import Linear, LoraLinear, flattened

SCORE_KEY = "base_model.model.score.weight"
"""The name under which PEFT looks for the head of a sequence classification model."""
WEIGHTS_FILE = "adapter_model.safetensors"
SPARE = "spare-"
"""How the names of adapters begin that were deleted, and whose tensors wait for the next one."""

AdapterState = dict[str, torch.Tensor]
"""The tensors of an adapter under PEFT's names."""


class AdaptedModel:
    """A causal language model whose own weights are frozen, and its adapters."""

    def __init__(self, causal_lm: Any, lora: LoraSection, location: str, revision: str | None = None):
        """location and revision: where other programs find the base. They are written into the adapters' configs."""
        self.causal_lm = causal_lm.requires_grad_(False).eval()
        self.lora_settings, self.location, self.revision = lora, location, revision
        self._peft_model: PeftModel | None = None
        self._lora_layers: list[Any] = []  # of type BaseTunerLayer
        self._modules = list(causal_lm.modules())
        self._parameters: dict[str, list[nn.Parameter]] = {}
        self._spares: list[str] = []
        self._active: tuple[str | None, bool] = (None, False)

    # -- adapters -----------------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, seed: int = 0, copy_of: str | None = None, folder: Path | None = None) -> None:
        """Add an adapter and replace one of the same name.

        It is a copy of another adapter, or loaded from a PEFT folder, or new. A new one changes nothing before it is trained; `seed`
        decides its random matrices.
        """
        self.delete_adapter(name)
        if self._spares and (copy_of or folder):
            self._rename(self._spares.pop(), name)
        else:
            self._make_adapter(name, seed)
            self._drop_a_spare(name)
        if copy_of:
            with torch.no_grad():
                for parameter, other in zip(self.parameters(name), self.parameters(copy_of), strict=True):
                    parameter.copy_(other)
        if folder:
            self.set_adapter_state(name, load_file(folder / WEIGHTS_FILE))
        self._activate(*self._active)

    def _make_adapter(self, name: str, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                if self._peft_model is None:
                    self._peft_model = PeftModel(self.causal_lm, self._lora_config(), adapter_name=name)
                else:
                    self._peft_model.add_adapter(name, self._lora_config())
            except ValueError as error:
                to_do = "name layers of the base in a list, for example '[q_proj, v_proj]', or set it to all-linear"
                where = f"lora.target_modules={self.lora_settings.target_modules}"
                raise UserError(f"PEFT finds no place for an adapter: {error}", where, to_do) from None
        self._take_in_modules()
        for module in self._modules:  # PEFT's new modules start in train mode, whatever mode the model is in
            vars(module)["training"] = self.causal_lm.training
        of_adapter = re.compile(rf"\.lora_\w+\.{re.escape(name)}(\.|$)")  # the matrices of an embedding have nothing after the name
        self._parameters[name] = [parameter for key, parameter in self.causal_lm.named_parameters() if of_adapter.search(key)]
        self.causal_lm._hf_peft_config_loaded = True  # tells transformers that a quantized model has something to train

    def _take_in_modules(self) -> None:
        self._modules = list(self.causal_lm.modules())
        self._lora_layers = [module for module in self._modules if isinstance(module, BaseTunerLayer)]
        for layer in self._lora_layers:
            _fuse(layer)

    def _drop_a_spare(self, name: str) -> None:
        """Have PEFT delete a spare adapter, if there is one, so that no more are kept than have been in use at once. name: another one."""
        if self._spares:
            peft: Any = self._peft_model
            for owner in (peft, peft.base_model):  # PEFT warns if the one that it believes to be active goes
                owner.active_adapter = name
            for layer in self._lora_layers:
                layer._active_adapter = [name]
            spare = self._spares.pop()
            peft.delete_adapter(spare)
            del self._parameters[spare]
            self._take_in_modules()

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter, if there is one of this name.

        Its tensors are kept, without their values, for the next adapter that is copied or loaded, because PEFT walks through the whole
        model many times to make one.
        """
        if name in self._parameters:
            spare = f"{SPARE}{len(self._spares)}"
            self._rename(name, spare)
            self._spares.append(spare)
            for parameter in self.parameters(spare):
                parameter.data = torch.zeros_like(parameter.data)  # a trainer may have made it a part of a vector of its own
                parameter.grad = None

    def _rename(self, name: str, new: str) -> None:
        """Give an adapter another name. It becomes the last one of each layer, as a new one would."""
        for layer in self._lora_layers:
            for of_adapters in (getattr(layer, attribute) for attribute in (*layer.adapter_layer_names, *layer.other_param_names)):
                if name in of_adapters:
                    of_adapters[new] = of_adapters.pop(name)
            _fuse(layer)
        peft: Any = self._peft_model
        peft.peft_config[new] = peft.peft_config.pop(name)
        for owner in (peft, peft.base_model):  # PEFT asks for the config of the adapter that it believes to be active: any will do
            owner.active_adapter = new
        self._parameters[new] = self._parameters.pop(name)

    def adapter_state(self, name: str) -> AdapterState:
        """Return copies of the adapter's tensors, on the CPU."""
        state = get_peft_model_state_dict(self._peft_model, adapter_name=name, save_embedding_layers=False)
        return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}

    def set_adapter_state(self, name: str, state: AdapterState) -> None:
        """Overwrite the adapter's tensors. Raises UserError if they belong to another base model."""
        weights = {key: tensor for key, tensor in state.items() if key != SCORE_KEY}
        result: Any = set_peft_model_state_dict(self._peft_model, weights, adapter_name=name)
        if result.unexpected_keys:
            raise UserError(f"the adapter does not fit the base model: {result.unexpected_keys[0]}", name, "use one base per run")

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Return the adapter's trainable tensors, in a fixed order."""
        return self._parameters[name]

    def save_adapter(self, name: str, folder: Path, head: torch.Tensor | None = None) -> None:
        """Write a folder that `PeftModel.from_pretrained` loads. With `head` [1, H] it is one for sequence classification.

        The config is written as canonical JSON, because PEFT writes sets, and their order changes from process to process.
        """
        state = self.adapter_state(name)
        config = self._peft_model.peft_config[name].to_dict()  # type: ignore[union-attr]
        config |= {"inference_mode": True, "base_model_name_or_path": self.location, "revision": self.revision}
        if head is not None:
            state[SCORE_KEY] = head.detach().float().cpu().contiguous()
            config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True, default=_canonical)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

    # -- roles --------------------------------------------------------------------------------------------------------

    @contextmanager
    def role(self, adapter: str | None, train: bool = False) -> Iterator[None]:
        """Make one adapter active (None: the bare base), trainable or not, with the model in train or eval mode.

        On the way out, adapter, gradient flags and mode are what they were before. Outside of all roles nothing is trainable.
        """
        before, mode = self._active, self.causal_lm.training
        if before == (adapter, train) and mode == train:
            yield
            return
        self._activate(adapter, train)
        self._set_mode(train)
        try:
            yield
        finally:
            self._activate(*before)
            self._set_mode(mode)

    @contextmanager
    def merged(self, adapter: str | None) -> Iterator[None]:
        """Like `role(adapter)`, for many forward passes: the adapter is added to copies of the base's weights.

        The base's own weights come back unchanged. Nothing is merged if some layers are quantized, if their weights are narrower than
        float32, which would round most of a small adapter away, or if the embedding uses an adapted weight too.
        """
        with self.role(adapter):
            adapted = [layer for layer in self._lora_layers if adapter in layer.lora_A]
            embedding = self.causal_lm.get_input_embeddings().weight
            if not all(_can_merge(layer.get_base_layer(), embedding) for layer in adapted):
                yield
                return
            weights = [layer.get_base_layer().weight for layer in adapted]
            before = [weight.data for weight in weights]
            try:
                for layer, weight in zip(adapted, weights, strict=True):
                    weight.data = (weight.data + layer.get_delta_weight(adapter)).to(weight.dtype)
                    layer._disable_adapters = True
                yield
            finally:
                for layer, weight, data in zip(adapted, weights, before, strict=True):
                    weight.data = data
                    layer._disable_adapters = False

    def merge(self, adapter: str) -> tuple[Any, float]:
        """Add an adapter to the base's weights for good. Return the model without PEFT, and how much of the change rounding has lost.

        Sums are computed in float32 and stored in the base's dtype. The loss is the norm of what rounding has changed, as a share of the
        norm of the adapter's change. All adapters are gone afterwards. Raises UserError if an adapted weight has another role too, as that
        of an embedding, which would then be changed as well.
        """
        assert self._peft_model is not None
        lost = changed = 0.0
        for layer in self._lora_layers:
            # PEFT adapts the weights of experts, which are parameters of one module, by a layer for each of them.
            weight = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
            names = [name for name, other in self.causal_lm.named_parameters(remove_duplicate=False) if other is weight]
            if len(names) > 1:
                roles = " and ".join(name.replace(".base_layer.", ".") for name in names)
                what = f"one weight has two roles, and the adapter changes only one of them: {roles}"
                raise UserError(what, "lora.target_modules", "export the adapter without the base (--adapter)")
            dtype = weight.dtype
            weight.data = weight.data.float()  # before PEFT computes the change, which may take the dtype of the weight
            delta = layer.get_delta_weight(adapter).float()
            exact = weight.data + delta
            weight.data = exact.to(dtype)
            lost += float((weight.data.float() - exact).square().sum())
            changed += float(delta.square().sum())
        model = self._peft_model.unload()
        model._hf_peft_config_loaded = False
        return model, (lost / changed) ** 0.5 if changed else 0.0

    def _activate(self, adapter: str | None, train: bool) -> None:
        for layer in self._lora_layers:
            layer._disable_adapters = adapter is None
            layer._active_adapter = layer._active_adapter if adapter is None else [adapter]
        for name, parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(train and name == adapter)
        self._active = (adapter, train)

    def _set_mode(self, train: bool) -> None:
        """Like `nn.Module.train`, without its walk through every attribute."""
        if self.causal_lm.training != train:
            for module in self._modules:
                vars(module)["training"] = train

    def _lora_config(self) -> LoraConfig:
        settings, depth = self.lora_settings, self.causal_lm.config.get_text_config().num_hidden_layers
        upper_half = list(range(depth // 2, depth)) if settings.layers == "upper-half" else None
        target_modules = settings.target_modules
        if upper_half and target_modules == "all-linear":  # PEFT takes layer numbers only with a list of names
            modules = self.causal_lm.base_model.named_modules()
            linear = (name for name, module in modules if isinstance(module, nn.Linear | Conv1D))
            target_modules = sorted({name.rsplit(".", 1)[-1] for name in linear if "lora_" not in name and "base_layer" not in name})
        return LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT only divides it by the rank
            lora_dropout=0.0,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self._modules),  # GPT-2's linear layers keep [in, out]
            target_modules=target_modules,
            layers_to_transform=upper_half,
            task_type=TaskType.CAUSAL_LM,
        )


def interpolate(first: AdapterState, second: AdapterState, weight: float) -> AdapterState:
    """Return (1 - weight) x first + weight x second, tensor by tensor. Both adapters must have the same shape."""
    return {key: torch.lerp(first[key].float(), second[key].float(), weight) for key in first}


def put_adapter(model: Any, folder: Path) -> Any:
    """Return a model that is not the run's base with the adapter of a PEFT folder on it, for reading only.

    Raises an error of PEFT or ValueError if the adapter was made for another model. PEFT itself leaves out what finds no place, and keeps
    random or empty what is missing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are refused below
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()
    needed, own = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys(), adapted.state_dict().keys()
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        given = set(file.keys())
    if astray := sorted((needed - given) | (given - needed - own)):
        raise ValueError(f"{astray[0]} is only in one of them")
    return adapted


def load_head(folder: Path) -> torch.Tensor:
    """Return the head [1, H] that `save_adapter` wrote beside the adapter."""
    return load_file(folder / WEIGHTS_FILE)[SCORE_KEY]


def _fuse(layer: Any) -> None:
    """Replace the layer's forward if it is plain LoRA over a plain linear layer."""
    kind, base = type(layer), layer.get_base_layer()
    if kind is not PeftLinear or type(base) is not nn.Linear or layer.lora_variant:
        return
    if any(type(dropout) is not nn.Identity for dropout in layer.lora_dropout.values()):
        return
    bare, lora_a, lora_b = Linear(base.weight, base.bias), layer.lora_A, layer.lora_B
    layer.linears = {n: Linear(base.weight, base.bias, lora_a[n].weight, lora_b[n].weight, layer.scaling[n]) for n in lora_a} | {None: bare}
    layer.active_linear, layer.forward = MethodType(_active_linear, layer), MethodType(_fused_forward, layer)


def _can_merge(base: Any, embedding: torch.Tensor) -> bool:
    return type(base) is nn.Linear and base.weight.dtype.itemsize >= 4 and base.weight is not embedding


def _active_linear(layer: Any) -> Linear:
    """The layer as `fast/lora.py` takes it, with the adapter that is active now."""
    return layer.linears.get(None if layer._disable_adapters else layer._active_adapter[0], layer.linears[None])


def _fused_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    linear = layer.active_linear()
    if linear.a is None:
        return nn.functional.linear(x, linear.weight, linear.bias)
    tensors, scalings = flattened([linear])
    return LoraLinear.apply(x, scalings, *tensors)


def _canonical(value: Any) -> Any:
    """JSON form of what JSON does not know: sets as sorted lists, everything else as text."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
