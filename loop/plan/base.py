"""`plan base`: what a base model of N parameters and D tokens would lose and cost, and what else the same money or the same loss allows.

The answer is one plain object, which `--json` prints and tables.py shows. Must never import torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import UserError
from loop.plan.gpus import Money, PriceTable
from loop.plan.known import KNOWN, Printed, check_loss, check_price, one_price_each
from loop.plan.laws import LAWS, Law, training_flops

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""How much larger or smaller the models of equal loss are."""


@dataclass(frozen=True)
class Prices:
    """How operations become money. utilisation: the share of a GPU's peak that training reaches, in bfloat16."""

    table: PriceTable
    gpu: str
    utilisation: float
    money: Money

    def cost(self, flops: float, gpu: str | None = None) -> dict[str, float]:
        """GPU hours and price of some operations, on the chosen GPU or on another one."""
        name = gpu or self.gpu
        hours = self.table.gpu(name).gpu_hours(flops, self.utilisation)
        return {"gpu_hours": hours, "price": self.money.of(hours * self.table.gpu(name).hour)}

    def flops_for(self, price: float) -> float:
        """The operations that a price buys. Raises UserError where the GPU costs nothing."""
        if not self.table.gpu(self.gpu).hour:
            to_do = "take another GPU (--gpu), or state what an hour of it costs in your table (--gpus)"
            raise UserError(f"an hour of {self.gpu} costs nothing, so no budget limits the plan", "--budget", to_do)
        return self.table.gpu(self.gpu).flops_for(self.money.back(price), self.utilisation)


@dataclass(frozen=True)
class Asked:
    """A plan as the user gives it: N and D, or a budget from which both follow, or all three."""

    params: float | None
    tokens: float | None
    budget: float | None
    law: str

    def __post_init__(self) -> None:
        if (self.params is None) != (self.tokens is None):
            missing = "--tokens" if self.tokens is None else "--params"
            raise UserError("a plan needs parameters and tokens", f"{missing} is missing", "give both, or --budget alone")
        if self.params is None and self.budget is None:
            raise UserError("there is nothing to plan", "the command line", "give --params and --tokens, or --budget")


def plan_base(asked: Asked, prices: Prices, printed: Printed) -> dict[str, Any]:
    """Everything about the plan. Prices are in the currency of `prices`."""
    law, by_budget = LAWS[asked.law], None
    params, tokens = asked.params, asked.tokens
    if asked.budget is not None:
        by_budget = _budget(asked.budget, prices)
        if params is None:
            params, tokens = (by_budget["best"][asked.law][name] for name in ("params", "tokens"))
    assert params is not None and tokens is not None  # by Asked
    flops = training_flops(params, tokens)
    return {
        "params": params,
        "tokens": tokens,
        "law": asked.law,
        "flops": flops,
        "assumptions": _assumptions(prices),
        "losses": {name: _losses(each, params, tokens) for name, each in LAWS.items()},
        "costs": {gpu: prices.cost(flops, gpu) for gpu in prices.table.gpus},
        "equal_loss": _equal_loss(law, params, tokens, prices),
        "budget": by_budget,
        "known": [_known(model.params, model.tokens, prices) | asdict(model) for model in KNOWN],
        "printed": _printed(printed) if asked.law == printed.law else None,
    }


def _assumptions(prices: Prices) -> dict[str, Any]:
    """What the hours and prices rest on."""
    gpu = prices.table.gpu(prices.gpu)
    return {
        "gpu": prices.gpu,
        "utilisation": prices.utilisation,
        "hour": prices.money.of(gpu.hour),
        "prices_of": prices.table.date,
        "currency": prices.money.currency,
        "rate": prices.money.per_unit,
        "rate_from": prices.money.origin,
        "currency_of_table": prices.table.currency,
    }


def _losses(law: Law, params: float, tokens: float) -> dict[str, Any]:
    """The loss under one law, its parts, and the best split of the same operations."""
    best_params, best_tokens = law.best_split(training_flops(params, tokens))
    return {
        "loss": law.loss(params, tokens),
        "floor": law.floor,
        "params_term": law.params_term(params),
        "tokens_term": law.tokens_term(tokens),
        "best": _split(law, best_params, best_tokens),
        "source": law.source,
    }


def _split(law: Law, params: float, tokens: float) -> dict[str, float]:
    return {"params": params, "tokens": tokens, "tokens_per_param": tokens / params, "loss": law.loss(params, tokens)}


def _equal_loss(law: Law, params: float, tokens: float, prices: Prices) -> list[dict[str, Any]]:
    """Smaller models with more data, and larger ones with less, that reach the same loss. tokens: None where no amount is enough."""
    loss, flops, rows = law.loss(params, tokens), training_flops(params, tokens), []
    for factor in FACTORS:
        needed = law.tokens_for(loss, params * factor)
        row: dict[str, Any] = {"factor": factor, "params": params * factor, "tokens": needed}
        if needed:
            cost = training_flops(params * factor, needed)
            row |= {"flops": cost, "flops_ratio": cost / flops, **prices.cost(cost)}
        rows.append(row)
    return rows


def _budget(budget: float, prices: Prices) -> dict[str, Any]:
    """What a sum of money buys, and its best split under each law."""
    flops = prices.flops_for(budget)
    return {"price": budget, "flops": flops, "best": {name: _split(law, *law.best_split(flops)) for name, law in LAWS.items()}}


def _known(params: float, tokens: float, prices: Prices) -> dict[str, Any]:
    """A published model under all laws, and what it would cost on the chosen GPU."""
    flops = training_flops(params, tokens)
    losses = {name: law.loss(params, tokens) for name, law in LAWS.items()}
    return {"tokens_per_param": tokens / params, "losses": losses, "flops": flops, **prices.cost(flops)}


def _printed(printed: Printed) -> Mapping[str, Any]:
    """Each printed figure beside what the formula gives."""
    rows = []
    for row in printed.rows:
        loss, price = check_loss(row, printed.law), check_price(row)
        rows.append(
            {
                "name": row.name,
                "params": row.params,
                "tokens": row.tokens,
                "flops": training_flops(row.params, row.tokens),
                "loss": LAWS[printed.law].loss(row.params, row.tokens),
                "printed_loss": asdict(loss) if loss else None,
                "printed_price": asdict(price) if price else None,
            }
        )
    ranges = one_price_each([found for row in printed.rows if (found := check_price(row))])
    return {"currency": printed.currency, "rows": rows, "prices_per_1e21_flops": ranges}
