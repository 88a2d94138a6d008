"""GPUs, what an hour of one costs, and in which currency: read from a table that the user edits (gpus.yaml). Must never look a price up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, PositiveFloat, ValidationError, field_validator

from configs.errors import UserError, did_you_mean
from configs.fields import Section

SHIPPED = Path(__file__).with_name("gpus.yaml")
HOUR = 3600
TERA, GIGA = 1e12, 1e9
CURRENCY = r"^[A-Z]{3}$"


class GPUType(Section):
    """One kind of GPU. tflops: number format -> peak in 10^12 operations a second. bandwidth: 10^9 bytes a second. memory: 10^9 bytes."""

    tflops: Annotated[dict[str, PositiveFloat], Field(min_length=1)]
    bandwidth: PositiveFloat
    memory: PositiveFloat
    hour: Annotated[float, Field(ge=0.0)]

    def peak(self, dtype: str) -> float:
        """The peak in operations a second. In a format that it does not compute in, it is that of float32, or of the slowest format."""
        return self.tflops.get(dtype, self.tflops.get("float32", min(self.tflops.values()))) * TERA

    def gpu_hours(self, flops: float, utilisation: float, dtype: str = "bfloat16") -> float:
        """How long `flops` operations take on one of these. utilisation: the share of the peak that is reached."""
        return flops / (self.peak(dtype) * utilisation) / HOUR

    def flops_for(self, price: float, utilisation: float, dtype: str = "bfloat16") -> float:
        """How many operations a price buys, in the table's currency."""
        return price / self.hour * HOUR * self.peak(dtype) * utilisation


class Rate(Section):
    """How much of a currency one unit of the table's currency is, and when that was so."""

    per_unit: PositiveFloat
    date: str


class PriceTable(Section):
    """The whole table."""

    date: str
    currency: Annotated[str, Field(pattern=CURRENCY)]
    rates: dict[Annotated[str, Field(pattern=CURRENCY)], Rate] = {}
    gpus: Annotated[dict[str, GPUType], Field(min_length=1)]

    @field_validator("date", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> str:
        """YAML reads a whole date as a date."""
        return str(value)

    def gpu(self, name: str) -> GPUType:
        """One kind of GPU. Raises UserError where the table does not have it."""
        if name not in self.gpus:
            near = did_you_mean(name, self.gpus)
            raise UserError(f"there is no GPU {name!r} in the table{near}", f"--gpu {name}", f"take one of {', '.join(self.gpus)}")
        return self.gpus[name]


@dataclass(frozen=True)
class Money:
    """A currency, and how much of it one unit of the table's currency is. origin: where that rate is from, as text for people."""

    currency: str
    per_unit: float
    origin: str

    def of(self, price: float) -> float:
        """A price of the table in this currency."""
        return price * self.per_unit

    def back(self, price: float) -> float:
        """A price in this currency in the table's."""
        return price / self.per_unit


def read_table(file: Path = SHIPPED) -> PriceTable:
    """Read a table of GPUs. Raises UserError for one that cannot be read, or has anything in it that is not known."""
    to_do = f"write it in the form of {SHIPPED.name}, which docs/plan.md shows"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"the table of GPUs cannot be read: {error}", str(file), to_do) from None
    try:
        return PriceTable.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise UserError(f"the table of GPUs is wrong at {place}: {first['msg']}", str(file), to_do) from None


def find_money(table: PriceTable, currency: str | None, rate: float | None) -> Money:
    """The currency that prices are shown in. Raises UserError for one whose rate nobody has stated.

    rate: what the user says one unit of the table's currency is; it replaces the table's.
    """
    currency = currency or table.currency
    if currency == table.currency:
        if rate is not None:
            raise UserError(f"--rate converts {table.currency} into another currency", f"--rate {rate:g}", "name that one: --currency XXX")
        return Money(currency, 1.0, "")
    if rate is not None:
        return Money(currency, rate, "as given by --rate")
    if currency not in table.rates:
        known = ", ".join([table.currency, *table.rates])
        to_do = f"state it: --rate N, where one {table.currency} is N {currency}; or take one of {known}"
        raise UserError(f"the table has no rate for {currency}", f"--currency {currency}", to_do)
    found = table.rates[currency]
    return Money(currency, found.per_unit, f"the table's round figure of {found.date}, not today's: state yours with --rate")
