"""The settings of a run's original data: which sources there are, and what is taken from them.

The text below each setting becomes its entry in `docs/configuration.md`, as for `sections.py`. Must never import an ML library.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from configs.fields import BadValue, Section

FormatName = Literal["auto", "preference", "prompts", "messages", "sharegpt", "rated", "tree", "votes", "answers"]
"""The forms of rows. `rewards/data/formats` reads each of them."""
Kind = Literal["pairs", "prompts", "answers"]
Name = Annotated[str, Field(min_length=1)]


class SourceConfig(Section):
    """One source of original data, an item of `data.sources`, or of votes, an item of `pmp.sources`."""

    path: Name
    """What is read: a file (.jsonl, .json, .csv, .parquet or .arrow; .gz, .xz, .bz2 and .zst are unpacked), a pattern such as
    `pairs/*.jsonl`, a folder that `save_to_disk` wrote, a hub data set, or your own function that yields rows."""
    name: Name | None = None
    """What the source is called in counts and in each row that comes from it. None means the file's name without its ending, the
    function's name, or the hub id."""
    format: FormatName = "auto"
    """The form of the rows. `auto` tells it by the columns."""
    kind: Kind | None = None
    """`pairs` are compared answers. `prompts` are only asked, by PPO and in sampling: of compared answers, the prompts are taken. `answers`
    are good answers, one for each prompt: SFT is trained on them too, and the prompts are asked. None means what the format holds."""
    columns: dict[str, str] = {}
    """Columns with other names than the format's: the format's name -> yours, for example `{prompt: question}`."""
    config_name: str | None = None
    """Only for a hub data set: the name of its configuration (its subset)."""
    split: str = "train"
    """Only for a hub data set and a folder: the split that is read."""
    revision: str | None = None
    """Only for a hub data set: a branch, tag or commit."""
    weight: PositiveFloat = 1.0
    """How likely a pair of this source is drawn, beside those of the others, where `max_pairs` does not take all. A pair of a source
    with weight 2 is drawn about twice as often as one with weight 1. Source: Efraimidis and Spirakis, 2006."""
    cap: PositiveInt | None = None
    """Use at most this many rows of the source, drawn at random. None means all of them."""
    licence: str = ""
    """A note on the license. The run records it."""


class DataConfig(Section):
    """The original data: preference pairs, and perhaps further prompts."""

    source: str | list[str] | None = "embedded"
    """Where the pairs come from: `embedded` (the built-in world), a hub data set, one or more files, patterns or folders, or your own
    function that yields rows (`file.py:function` or `module:function`). It is short for `data.sources` with nothing but paths. None if
    `data.sources` is given."""
    sources: list[SourceConfig] = []
    """Any number of sources, each with a path and perhaps a name, a format, a weight, a cap and more: its settings are below."""
    split: str = "train"
    """Only for a hub data set or a folder in `data.source`: the split that is read."""
    normalize: bool = True
    """Whether text is normalized: Unicode NFC, Thai sara am as one character, no zero-width characters, ordinary spaces. The run counts
    what was changed. Not done for `embedded`."""
    heldout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.22
    """The fraction of the prompts that nothing is trained on, in any round. A prompt's side depends on its opening and on `seed`, so no
    dialogue is on both sides."""
    max_pairs: PositiveInt | None = None
    """Use at most this many pairs of all sources together, drawn at random. None means all of them."""
    max_prompt_tokens: PositiveInt = 64
    """Leave out longer prompts, with their pairs. Tokens are counted with the base model's tokenizer, chat template included."""
    max_completion_tokens: PositiveInt = 64
    """Leave out pairs with a longer completion. `generation.max_new_tokens` must not be larger."""
    bad_rows: Literal["skip", "refuse"] = "skip"
    """What happens to a row that cannot be used, for example one with an empty answer, or a line that is not JSON: `skip` leaves it out and
    counts it, `refuse` stops the run."""
    labeler_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """The fraction of the pairs, of those that are not held out, that only trains the labeler of `labeler.kind: reward-model`. The run
    itself never sees them."""
    num_pairs: PositiveInt = 2000
    """Only for `embedded`: how many original training pairs are made."""

    @model_validator(mode="before")
    @classmethod
    def _sources_take_the_place_of_source(cls, values: Any) -> Any:
        """`source` is None, and not `embedded`, where only `sources` is given."""
        if isinstance(values, dict) and values.get("sources") and "source" not in values:
            return values | {"source": None}
        return values

    @model_validator(mode="after")
    def _check_sources(self) -> "DataConfig":
        if self.source is not None and self.sources:
            raise BadValue("data.source and data.sources are both given", "leave out one of them; sources can hold all that source can")
        if self.source is None and not self.sources:
            raise BadValue("data.source names nothing, and data.sources is empty", "give one of them, for example data=pairs.jsonl")
        check_mixture(self.sources, self.max_pairs, "data")
        return self


def check_mixture(sources: list[SourceConfig], max_pairs: int | None, group: str) -> None:
    """Raises BadValue if the sources of a group of settings have one name twice, or weights that decide nothing."""
    names = [source.name for source in sources if source.name]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadValue(f"two of {group}.sources have the name {twice[0]!r}", "give each a name of its own")
    if any(source.weight != 1 for source in sources) and max_pairs is None:
        what = f"weight is given in {group}.sources, but {group}.max_pairs takes all pairs"
        raise BadValue(what, f"set {group}.max_pairs, or leave out the weights")
