"""Bytes and operations of a model of a given shape, by plain arithmetic: no torch, no weights.

What is counted: weights, adapters, the optimizer's state, the KV cache, what a pass with gradients keeps for its backward pass, what a pass
without gradients needs while it runs, and logits. Not counted: libraries, and what an allocator wastes (loop/doctor/needs.py adds both).
The formulas follow the code in policies/fast/; where that does not know a layer, or the weights are quantized, they follow transformers'
and PEFT's modules.

Letters: H hidden, Q all query heads, K all key heads, I intermediate, r rank, L tokens of a row, V vocabulary.
"""

from dataclasses import dataclass

from configs.sections import BaseConfig, LoraSection
from policies.shapes import Shape

FLOAT, DOUBLE = 4, 8
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4 with double quantization: 4 bits, one byte for each block of 64, a float32 for each 256 blocks. Source: arXiv
2305.14314, section 3."""
SHORT_ROW = 128
"""The longest row for which attention keeps its weights on a CPU (`SHORT` in fast/attention.py)."""
MAX_LOGITS = 2**23
"""The most logits that PPO's log-probs hold at one time (`CHUNK` in fast/logprobs.py)."""
PREPACKED_SIZES = (2**15, 2**24)
"""Sizes of the weights that sampling copies into oneDNN's layout (fast/sampling.py)."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""The largest tile of logits of TRL's SFTTrainer (trl/kernels/chunked_logprob.py)."""
TILES = 13
"""How many tiles it takes on a CPU. Its backward pass holds nine at a time; measured were 10 to 14.5 on four models. On a GPU, one kernel
works inside one tile."""
DRAW_BYTES = FLOAT + 2 * DOUBLE
"""Bytes of a logit while a token is drawn: itself, and probabilities and their sums in float64."""


@dataclass(frozen=True)
class Model:
    """A shape with the settings that decide how it is held and run."""

    shape: Shape
    base: BaseConfig
    lora: LoraSection
    on_gpu: bool = False

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the base's dtype, in which activations are too."""
        return FLOAT if self.base.dtype == "float32" else 2

    @property
    def is_fused(self) -> bool:
        """Whether the layers run as policies/fast/functions.py does them: known layers, not quantized."""
        return self.shape.family.fused and self.base.quantization == "none"

    # -- what stays -------------------------------------------------------------------------------------------------------

    @property
    def base_bytes(self) -> int:
        """The frozen weights."""
        shape, quantized = self.shape, self.shape.linear_parameters if self.base.quantization == "nf4" else 0
        return round(quantized * NF4_BYTES + (shape.parameters - quantized) * self.number_bytes)

    @property
    def adapter_bytes(self) -> int:
        """One adapter. PEFT keeps it in float32, whatever the base is in."""
        return self.shape.adapter_parameters(self.lora) * FLOAT

    @property
    def head_bytes(self) -> int:
        """A linear head with one output."""
        return (self.shape.hidden + 1) * FLOAT

    def optimizer_bytes(self, trained: int) -> int:
        """A gradient and AdamW's two moments for every trained number, from the bytes of these numbers in float32."""
        return 3 * trained

    def kv_cache_bytes(self, rows: int, tokens: int) -> int:
        """Keys and values of `tokens` tokens of each row, in all layers."""
        return rows * tokens * 2 * self.shape.kv_width * self.shape.layers * self.number_bytes

    @property
    def merged_bytes(self) -> int:
        """The copies of weights that sampling makes: merged with the adapter, and on a CPU in oneDNN's layout.

        Quantized weights are not copied, and below float32 nothing is merged, so that there are copies on a CPU only.
        """
        if self.base.quantization == "nf4" or (self.number_bytes < FLOAT and not (self.is_fused and not self.on_gpu)):
            return 0
        shape, layers = self.shape, self.shape.adapted_layers(self.lora)
        adapted = sum(linear.inputs * linear.outputs for linear in shape.adapted(self.lora))
        if not self.is_fused or self.on_gpu:
            return adapted * layers * self.number_bytes
        head = shape.vocabulary * shape.hidden
        return (shape.linear_parameters + (head if PREPACKED_SIZES[0] <= head <= PREPACKED_SIZES[1] else 0)) * self.number_bytes

    # -- what a pass needs ------------------------------------------------------------------------------------------------

    def saved_bytes(self, tokens: int, length: int, padded: bool = False) -> int:
        """What a pass with gradients over rows of `length` tokens keeps for the backward pass.

        Layers below the first adapter keep nothing. With gradient checkpointing, each layer keeps what enters it, and one layer keeps all.
        padded: whether transformers runs the layers on padded rows, as its trainers do.
        """
        layers, of_a_layer = self.shape.adapted_layers(self.lora), tokens * self._layer_bytes(length, padded)
        if self.base.gradient_checkpointing:
            return tokens * self.shape.hidden * self.number_bytes * layers + of_a_layer
        return of_a_layer * layers

    def backward_bytes(self, tokens: int) -> int:
        """The gradients that exist at one time in the backward pass of a layer: 3I in the MLP, 4H around it."""
        return tokens * (3 * self.shape.intermediate * self.shape.used_experts + 4 * self.shape.hidden) * self.number_bytes

    def pass_bytes(self, tokens: int, length: int) -> int:
        """What a layer holds at one time in a pass without gradients: the larger of attention and MLP."""
        shape = self.shape
        width, states = shape.query_width + 2 * shape.kv_width, 4 * shape.hidden
        weights = 2 * shape.heads * length if self._keeps_weights(length) else 0
        attention = 2 * shape.hidden + 2 * width + shape.query_width + weights
        mlp = states + 3 * shape.intermediate * shape.used_experts
        return tokens * max(attention, mlp) * self.number_bytes

    def logprob_bytes(self, tokens: int) -> int:
        """The logits of PPO's log-probs, and the gradients of the states, which take their place."""
        logits = min(tokens * self.shape.vocabulary, MAX_LOGITS)
        copies = 1 if self.number_bytes == FLOAT else 2
        return logits * copies * FLOAT + tokens * self.shape.hidden * self.number_bytes

    def sft_logit_bytes(self, tokens: int) -> int:
        """The tiles of logits of TRL's SFTTrainer."""
        rows, columns = min(tokens, TILE_TOKENS), min(self.shape.vocabulary, TILE_VOCABULARY)
        if self.on_gpu:
            return rows * TILE_VOCABULARY * self.number_bytes
        return rows * columns * ((TILES - 1) * FLOAT + self.number_bytes)

    def draw_bytes(self, rows: int) -> int:
        """What drawing one token of each row needs."""
        return rows * self.shape.vocabulary * DRAW_BYTES

    def _keeps_weights(self, length: int) -> bool:
        """Whether attention is computed by plain products, so that its weights [h, L, L] of a row exist."""
        return self.is_fused and not self.on_gpu and length <= SHORT_ROW and self.shape.heads == self.shape.kv_heads

    def _layer_bytes(self, length: int, padded: bool) -> int:
        """What one layer keeps of each token."""
        return self._fused_layer_bytes(length, padded) if self.is_fused else self._plain_layer_bytes()

    def _fused_layer_bytes(self, length: int, padded: bool) -> int:
        """Inputs of both norms and of both parts (4H), queries, keys and values, what attention gives (twice where transformers runs it),
        and gate and up (2I)."""
        shape = self.shape
        ranks = self.lora.rank * len(shape.adapted(self.lora))
        attended = shape.query_width * (2 if padded else 1)
        weights = shape.heads * length if self._keeps_weights(length) and not padded else 0
        inside = 4 * shape.hidden + shape.query_width + 2 * shape.kv_width + attended + 2 * shape.intermediate
        return (inside + ranks) * self.number_bytes + weights * FLOAT

    def _plain_layer_bytes(self) -> int:
        """transformers' modules with PEFT's layers.

        In float32, layers that share an input keep it once. Below, PEFT keeps a float32 copy of its input for every adapted layer, and a
        norm keeps its own.
        """
        shape, family, number = self.shape, self.shape.family, self.number_bytes
        adapted = shape.adapted(self.lora)
        norms = family.norms * shape.hidden * FLOAT
        attention = (3 * shape.query_width + 2 * shape.kv_width) * number
        mlp = (3 if family.gated else 4) * shape.intermediate * shape.used_experts * number
        inputs = 2 * shape.hidden + shape.query_width + shape.intermediate
        if number < FLOAT:
            inputs = sum(linear.inputs for linear in adapted)
        return norms + attention + mlp + (inputs + self.lora.rank * len(adapted)) * FLOAT

    # -- operations -------------------------------------------------------------------------------------------------------

    def forward_flops(self, tokens: int, length: int, logits: int = 0) -> int:
        """Floating-point operations of a forward pass: two for each weight and token, and those of attention over half of a row.

        logits: for how many of the tokens the head is computed.
        """
        shape = self.shape
        weights = shape.layers * sum(
            linear.inputs * linear.outputs * (shape.used_experts if linear.copies > 1 else 1) for linear in shape.linears
        )
        attention = 2 * shape.layers * length * shape.query_width
        return 2 * tokens * weights + tokens * attention + 2 * logits * shape.vocabulary * shape.hidden

    def training_flops(self, tokens: int, length: int, logits: int = 0) -> int:
        """Those of a forward and a backward pass. Frozen weights have no gradients, so the backward pass of a layer costs as much as its
        forward pass, and layers below the first adapter have none."""
        forward, head = self.forward_flops(tokens, length), 2 * logits * self.shape.vocabulary * self.shape.hidden
        return round(forward * (1 + self.shape.adapted_layers(self.lora) / self.shape.layers)) + 2 * head
