"""Models whose parameters and training tokens are published, and figures that somebody printed, to be compared with a law.

Must never import torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, PositiveFloat, ValidationError

from configs.errors import UserError
from configs.fields import Section
from loop.plan.gpus import CURRENCY
from loop.plan.laws import LAWS, training_flops

NOTES_FILE = Path(__file__).with_name("notes.yaml")
PRINTED_NUMBER = r"^\d[\d,]*(\.\d+)?$"
PER = 1e21
"""Prices are compared by what 10^21 operations cost."""


@dataclass(frozen=True)
class KnownModel:
    """A model as its makers describe it."""

    name: str
    params: float
    tokens: float
    source: str


KNOWN = (
    KnownModel("GPT-3", 175e9, 300e9, "arXiv 2005.14165, table 2.1"),
    KnownModel("AnthropicLM", 52e9, 400e9, "arXiv 2112.00861"),
    KnownModel("XGLM", 7.5e9, 500e9, "arXiv 2112.10668"),
    KnownModel("GPT-NeoX", 20.6e9, 472e9, "arXiv 2204.06745: 150,000 steps of 3.15M tokens"),
    KnownModel("Pythia", 12e9, 300e9, "arXiv 2304.01373, the Pile as it is"),
    KnownModel("OPT", 175e9, 300e9, "arXiv 2205.01068: a schedule of 300B tokens over a corpus of 180B"),
    KnownModel("Chinchilla", 70e9, 1400e9, "arXiv 2203.15556, section 4; for comparison"),
)


class PrintedRow(Section):
    """A model for which somebody printed a loss or a price, as text, so that its digits count."""

    name: str
    params: PositiveFloat
    tokens: PositiveFloat
    loss: Annotated[str | None, Field(pattern=PRINTED_NUMBER)] = None
    price: Annotated[str | None, Field(pattern=PRINTED_NUMBER)] = None


class Printed(Section):
    """A file of such figures. law: the one that the losses are said to follow."""

    law: str
    currency: Annotated[str, Field(pattern=CURRENCY)]
    rows: Annotated[list[PrintedRow], Field(min_length=1)]


@dataclass(frozen=True)
class LossCheck:
    """A printed loss beside the law's. is_equal: whether the law's, rounded to the printed digits, is the printed one."""

    printed: str
    computed: float
    is_equal: bool


@dataclass(frozen=True)
class PriceCheck:
    """A printed price, and between which prices of 10^21 operations it would be printed so."""

    printed: str
    lowest: float
    highest: float


def read_printed(file: Path = NOTES_FILE) -> Printed:
    """Read a file of printed figures. Raises UserError where it cannot be read, or has no known law."""
    to_do = f"write it in the form of {NOTES_FILE.name}, with numbers of losses and prices in quotes"
    try:
        found = Printed.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"printed figures are wrong at {'.'.join(map(str, first['loc']))}: {first['msg']}", str(file), to_do) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"printed figures cannot be read: {error}", str(file), to_do) from None
    if found.law not in LAWS:
        raise UserError(f"there is no law {found.law!r}", str(file), f"take one of {', '.join(LAWS)}")
    return found


def check_loss(row: PrintedRow, law: str) -> LossCheck | None:
    """A row's printed loss beside the law's; None where it has none."""
    if row.loss is None:
        return None
    computed, decimals = LAWS[law].loss(row.params, row.tokens), len(row.loss.partition(".")[2])
    return LossCheck(row.loss, computed, f"{computed:.{decimals}f}" == row.loss)


def check_price(row: PrintedRow) -> PriceCheck | None:
    """What 10^21 operations may cost so that the row's price is printed as it is; None where it has none."""
    if row.price is None:
        return None
    lowest, highest = rounded_from(row.price)
    units = training_flops(row.params, row.tokens) / PER
    return PriceCheck(row.price, lowest / units, highest / units)


def rounded_from(printed: str) -> tuple[float, float]:
    """Between which numbers lies one that is printed so: half a unit of its last digit that is not a trailing zero of a whole number.

    "900,000" has one digit, so it may be 850,000 to 950,000; "180,000" has two, so 175,000 to 185,000.
    """
    plain = printed.replace(",", "")
    decimals = len(plain.partition(".")[2])
    zeros = 0 if decimals else len(plain) - len(re.sub("0+$", "", plain))
    half = 10.0 ** (zeros - decimals) / 2
    return float(plain) - half, float(plain) + half


def one_price_each(checks: Sequence[PriceCheck]) -> list[tuple[float, float]]:
    """The fewest ranges of prices per operation such that each printed price agrees with one of them, the cheapest first.

    One range means that all were computed with one price. Several mean that the printed prices do not follow from 6 N D alone.
    """
    groups: list[tuple[float, float]] = []
    for check in sorted(checks, key=lambda check: check.highest):
        if groups and check.lowest <= groups[-1][1]:
            groups[-1] = max(groups[-1][0], check.lowest), groups[-1][1]
        else:
            groups.append((check.lowest, check.highest))
    return groups
