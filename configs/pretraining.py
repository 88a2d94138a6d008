"""The settings of preference-model pretraining, which happens before round 0.

The text below each setting becomes its entry in `docs/configuration.md`, as for `sections.py`. Must never import an ML library.
"""

from pydantic import PositiveFloat, PositiveInt, model_validator

from configs.data import SourceConfig, check_mixture
from configs.fields import BadValue, NonNegativeFloat
from configs.sections import TrainerSection


class PMPConfig(TrainerSection):
    """Preference-model pretraining (PMP): before round 0, an adapter and a linear head learn from public votes, and the reward models of
    the run start from them. Without `pmp.sources` there is none. Source: arXiv 2112.00861, section 4."""

    sources: list[SourceConfig] = []
    """Where the pairs come from, as in `data.sources`: votes, ranked trees, edits as `prompt`, `chosen` and `rejected`, or any other format
    of pairs. A prompt that opens like a held-out one of the run is never trained on."""
    max_pairs: PositiveInt | None = None
    """Use at most this many pairs of all sources together, drawn at random by the sources' weights. None means all of them."""
    binarised: bool = False
    """Whether each pair becomes two comparisons of one answer with itself: the better answer as good against the same answer as bad, and
    the worse answer as bad against the same answer as good. A control word before the answer says which. Source: arXiv 2112.00861, section
    4."""
    lm_coefficient: NonNegativeFloat = 1.0
    """The weight of the language-modeling loss on the better answer, in nats per token, beside the loss of the comparison. Source: arXiv
    2112.00861."""
    learning_rate: PositiveFloat = 4e-4
    """The highest learning rate. It rises during the warm-up and then falls linearly to 0. Source: arXiv 2112.00861 uses a tenth of that
    with which the base was pretrained, which is 4e-3 for `embedded`."""
    batch_size: PositiveInt = 32
    """The number of comparisons in each optimizer step, over all workers. It must be divisible by `runtime.workers`."""

    @model_validator(mode="after")
    def _check_sources(self) -> "PMPConfig":
        check_mixture(self.sources, self.max_pairs, "pmp")
        for source in self.sources:
            if source.kind not in (None, "pairs"):
                raise BadValue(
                    f"a preference model learns from pairs, but {source.path} of pmp.sources has kind {source.kind}",
                    "leave out kind, or put the source into data.sources",
                )
        return self
