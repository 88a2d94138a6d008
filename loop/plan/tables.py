"""What `plan base` and `plan run` found, as titles, headers and rows for the terminal, and as lines. Must never import torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loop.doctor.fitting import in_gib
from loop.doctor.report import in_time
from loop.plan.gpus import HOUR
from loop.plan.laws import LAWS
from loop.plan.trades import ANSWERS
from loop.wording import Table

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
NONE = "-"
SHOWN_ROUNDS = 8
"""With more rounds than these, the middle ones are left out of the table of rounds."""


# -- plan base ----------------------------------------------------------------------------------------------------------


def base_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """The plan, and what its hours and prices rest on."""
    found = plan["assumptions"]
    yield (
        f"plan: {count(plan['params'])} parameters, {count(plan['tokens'])} tokens "
        f"({plan['tokens'] / plan['params']:.1f} a parameter), {plan['flops']:.2e} FLOPs (6 N D)"
    )
    yield (
        f"hours and prices: {found['utilisation']:.0%} of the peak in bfloat16 (--utilisation); {found['gpu']} at {found['hour']:,.2f} "
        f"{found['currency']} an hour (--gpu); prices of {found['prices_of']}, to be edited (--gpus)"
    )
    if found["rate_from"]:
        yield f"currency: one {found['currency_of_table']} is {found['rate']:g} {found['currency']}, {found['rate_from']}"


def base_tables(plan: Mapping[str, Any]) -> Iterator[Table]:
    """All tables of `plan base`, in order."""
    currency, gpu = plan["assumptions"]["currency"], plan["assumptions"]["gpu"]
    yield _losses(plan)
    rows = [[name, hours(cost["gpu_hours"]), money(cost["price"])] for name, cost in plan["costs"].items()]
    yield Table("what these operations cost on each GPU", ["GPU", "GPU hours", currency], rows)
    yield _equal_loss(plan, currency, gpu)
    if plan["budget"]:
        yield _budget(plan["budget"], currency, gpu)
    headers = ["model", "parameters", "tokens", "a parameter", *LAWS, "FLOPs", "GPU hours", currency, "source"]
    rows = [
        [
            model["name"],
            count(model["params"]),
            count(model["tokens"]),
            f"{model['tokens_per_param']:.1f}",
            *(f"{loss:.3f}" for loss in model["losses"].values()),
            f"{model['flops']:.1e}",
            hours(model["gpu_hours"]),
            money(model["price"]),
            model["source"],
        ]
        for model in plan["known"]
    ]
    yield Table(f"known models: loss by law, and what they would cost on {gpu}", headers, rows)
    if plan["printed"]:
        yield _printed(plan["printed"])


def printed_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """Whether the printed prices can come from one price of an operation."""
    if not plan["printed"] or not plan["printed"]["prices_per_1e21_flops"]:
        return
    ranges, currency = plan["printed"]["prices_per_1e21_flops"], plan["printed"]["currency"]
    shown = " and ".join(f"{money(low)} to {money(high)}" for low, high in ranges)
    if len(ranges) == 1:
        yield f"printed prices: all follow from one price, {shown} {currency} for 10^21 FLOPs"
    else:
        yield f"printed prices: no single price of a FLOP gives all of them; {len(ranges)} do: {shown} {currency} for 10^21 FLOPs"


def _losses(plan: Mapping[str, Any]) -> Table:
    headers = ["law", "loss", "floor", "from N", "from D", "best N", "best D", "a parameter", "best loss", "source"]
    rows = []
    for name, found in plan["losses"].items():
        parts = [f"{found[part]:.4f}" for part in ("loss", "floor", "params_term", "tokens_term")]
        rows.append([name, *parts, *_split(found["best"]), found["source"]])
    return Table("loss under each law, and the best split of the same operations", headers, rows)


def _split(best: Mapping[str, float]) -> list[str]:
    return [count(best["params"]), count(best["tokens"]), f"{best['tokens_per_param']:.1f}", f"{best['loss']:.4f}"]


def _equal_loss(plan: Mapping[str, Any], currency: str, gpu: str) -> Table:
    headers, rows = ["size", "parameters", "tokens", "a parameter", "FLOPs", "of this plan", "GPU hours", currency], []
    for row in plan["equal_loss"]:
        start = [f"x {row['factor']:g}", count(row["params"])]
        if row["tokens"] is None:
            rows.append([*start, "no amount", *[NONE] * 5])
            continue
        cost = [f"{row['flops']:.2e}", f"{row['flops_ratio']:.0%}", hours(row["gpu_hours"]), money(row["price"])]
        rows.append([*start, count(row["tokens"]), f"{row['tokens'] / row['params']:.1f}", *cost])
    return Table(f"the same loss by the law {plan['law']}, with other sizes, on {gpu}", headers, rows)


def _budget(budget: Mapping[str, Any], currency: str, gpu: str) -> Table:
    rows = [[name, *_split(best)] for name, best in budget["best"].items()]
    title = f"the best split of {money(budget['price'])} {currency}, which buys {budget['flops']:.2e} FLOPs on {gpu}"
    return Table(title, ["law", "best N", "best D", "a parameter", "loss"], rows)


def _printed(printed: Mapping[str, Any]) -> Table:
    headers = ["printed", "loss by the formula", "loss printed", "", "FLOPs", f"price printed, {printed['currency']}", "for 10^21 FLOPs"]
    rows = []
    for row in printed["rows"]:
        loss, price = row["printed_loss"], row["printed_price"]
        verdict = ("equal" if loss["is_equal"] else "slip") if loss else ""
        between = f"{money(price['lowest'])} to {money(price['highest'])}" if price else NONE
        cells = [f"{row['loss']:.4f}", loss["printed"] if loss else NONE, verdict, f"{row['flops']:.2e}"]
        rows.append([row["name"], *cells, price["printed"] if price else NONE, between])
    return Table("printed figures beside the formula", headers, rows)


# -- plan run -----------------------------------------------------------------------------------------------------------


def run_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """What is planned, and what the times and prices rest on."""
    found, whole = plan["assumptions"], plan["total"]
    pairs = f"{found['pairs']} training pairs{' (assumed, because the data was not counted)' if found['pairs_are_assumed'] else ''}"
    yield f"plan: {plan['num_rounds']} rounds on {found['base']} ({count(found['params'])} parameters), {pairs}"
    yield f"times: {found['times_from']}"
    label = "labels have no price (--label-price)" if found["label_price"] is None else f"a label at {found['label_price']:g}"
    hour = "an hour of a worker has no price (--hour-price)" if found["hour_price"] is None else f"an hour at {found['hour_price']:,.2f}"
    yield f"prices in {found['currency']}: {hour}; {label}"
    if found["rate_from"]:
        yield f"currency: one {found['currency_of_table']} is {found['rate']:g} {found['currency']}, {found['rate_from']}"
    price = f", {money(whole['price'])} {found['currency']}" if whole["price"] is not None else ""
    workers = f"{found['workers']} worker" + "s" * (found["workers"] > 1)
    yield (
        f"in all: {in_time(whole['wall_seconds'])} on {workers}, of which {in_time(found['start_seconds'])} to start; "
        f"{whole['flops']:.1e} FLOPs, at most {in_gib(whole['memory_bytes'])} of each worker, {whole['labels']} labels{price}"
    )
    yield from (f"  warning: {text}" for text in plan["warnings"])


def run_tables(plan: Mapping[str, Any]) -> Iterator[Table]:
    """All tables of `plan run`, in order."""
    currency, last = plan["assumptions"]["currency"], plan["num_rounds"] - 1
    yield _stages(plan["stages"], last)
    yield _rounds(plan["stages"], last, currency)
    headers = ["plan", "parameters", "rounds", "FLOPs", "time", "memory", "labels", currency, "difference", f"{ANSWERS:,} answers"]
    first = plan["trades"][0]
    rows = [
        [
            row["name"],
            count(row["params"]),
            str(row["rounds"]),
            f"{row['flops']:.1e}",
            in_time(row["wall_seconds"]),
            in_gib(row["memory_bytes"]),
            f"{row['labels']:,}",
            money(row["price"]),
            money(row["price"] - first["price"], signed=True) if row["price"] is not None else NONE,
            in_time(row["use_seconds"]),
        ]
        for row in plan["trades"]
    ]
    yield Table("what it could be traded against, as predicted in the same way", headers, rows)


def trade_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """What the table of trades does not say by itself."""
    best = plan["best_of_n"]
    after = (
        f"from about {best['break_even']:,.0f} answers on, the run takes less" if best["break_even"] is not None else "it never takes more"
    )
    yield (
        f"best of {best['n']}: at most {best['kl']:.2f} nats from the policy that it samples from. Each answer takes {best['n']} samples "
        f"and scores, so {after} time. What a trade gains in quality is not predicted: `loop experiment` measures it."
    )


def _stages(stages: Sequence[Mapping[str, Any]], last: int) -> Table:
    """Memory by stage, and operations and time before round 0, in round 0 and in the last round."""
    by_place = {(row["stage"], row["round"]): row for row in stages}
    places = list(dict.fromkeys([None, 0, last]))
    names = ["before", "round 0", f"round {last}"][: len(places)]
    headers = ["stage", "memory", *(f"FLOPs {name}" for name in names), *(f"time {name}" for name in names)]
    rows = []
    for stage in dict.fromkeys(row["stage"] for row in stages):
        found = [by_place.get((stage, place)) for place in places]
        memory = next((row["memory_bytes"] for row in found if row and row["memory_bytes"]), None)
        flops = [f"{row['flops']:.1e}" if row and row["flops"] else NONE for row in found]
        rows.append([stage, in_gib(memory) if memory else NONE, *flops, *(in_time(row["seconds"]) if row else NONE for row in found)])
    return Table("by stage, for all workers together", headers, rows)


def _rounds(stages: Sequence[Mapping[str, Any]], last: int, currency: str) -> Table:
    rows = []
    for number in [None, *range(last + 1)]:
        if last >= SHOWN_ROUNDS and number and SHOWN_ROUNDS // 2 <= number < last:
            continue
        own = [row for row in stages if row["round"] == number]
        price = sum(row["price"] for row in own) if own[0]["price"] is not None else None
        flops, seconds, labels = (sum(row[name] for row in own) for name in ("flops", "seconds", "labels"))
        name = "before round 0" if number is None else f"round {number}"
        rows.append([name, f"{flops:.1e}", in_time(seconds), f"{seconds / HOUR:.2f}", f"{labels:,}", money(price)])
    return Table("by round, without the start", ["", "FLOPs", "time", "worker hours", "labels", currency], rows)


# -- numbers ------------------------------------------------------------------------------------------------------------


def count(number: float) -> str:
    """A number of parameters or tokens with three digits."""
    size, letter = next(((size, letter) for size, letter in UNITS if number >= 0.9995 * size), (1.0, ""))
    return f"{number / size:.3g}{letter}" if number < 999.5e12 else f"{number:.2e}"


def hours(number: float) -> str:
    """Hours with two digits at least."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def money(number: float | None, signed: bool = False) -> str:
    """A price: whole where it is large. None is one that nobody has stated."""
    if number is None:
        return NONE
    sign = "+" if signed else ""
    return f"{number:{sign},.0f}" if abs(number) >= 99.5 or number == 0 else f"{number:{sign}.2g}"
