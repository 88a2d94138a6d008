"""`plan`: what a base model or an RLHF run would cost, before anything is trained or rented.

`plan base` is arithmetic on parameters and tokens. `plan run` predicts a run as `doctor` does: for this machine it times a few steps of a
random model in a child process, and for a GPU of the table it only calculates. It writes nothing but the file of `--plot`.
"""

import argparse
import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loading import read_given
from loop.commands.arguments import add_config_and_settings, add_rounds, config_and_settings, number_from, runs_folder
from loop.doctor.fitting import check_fits
from loop.doctor.lengths import expected_lengths
from loop.doctor.machine import GPU, look_at_machine
from loop.doctor.measuring import measure
from loop.doctor.model import BaseModel, find_base_model
from loop.doctor.needs import Room, find_room
from loop.doctor.work import count_pairs, stage_work, units_of
from loop.plan import tables
from loop.plan.base import Asked, Prices, plan_base
from loop.plan.gpus import GIGA, SHIPPED, Money, PriceTable, find_money, read_table
from loop.plan.known import NOTES_FILE, read_printed
from loop.plan.laws import EPOCH, LAWS
from loop.plan.running import START_SECONDS, Clock, OnGPU, Rent, Subject, Timed, plan_stages, total
from loop.plan.trades import best_of_n_kl, break_even, plan_trades
from loop.printing import say
from loop.terminal import Terminal
from loop.wording import Table

HELP = "say what a base model or a run would cost: loss, operations, hours, labels, money, and what else they could buy"
DEFAULT_GPU = "a100-80gb"
THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
UTILISATION = {"base": 0.4, "run": 0.25}
"""The share of a GPU's peak that is assumed. For pretraining, the makers of large models report 0.2 to 0.5 (GPT-NeoX, arXiv 2204.06745: 117
of 312 TFLOPS; OPT, arXiv 2205.01068: 147 of 312). That of a run is a guess: batches are small, and nothing was measured on a GPU."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `plan base` and of `plan run`."""
    kinds = parser.add_subparsers(required=True, metavar="base|run", dest="kind")
    base = kinds.add_parser(
        "base", help="a base model of N parameters and D tokens", description="Plan a base model, before it is trained."
    )
    base.add_argument("--params", type=_number, metavar="N", help="the parameters, for example 20e9")
    base.add_argument("--tokens", type=_number, metavar="D", help="the training tokens, for example 400e9")
    base.add_argument("--law", choices=LAWS, default=EPOCH.name, help="the law for equal loss and for N and D by budget (default: epoch)")
    base.add_argument("--budget", type=_positive, metavar="PRICE", help="find the best N and D for this much money")
    base.add_argument("--printed", type=Path, default=NOTES_FILE, metavar="FILE", help="figures to compare (default: those of the notes)")
    base.add_argument("--plot", type=Path, metavar="FILE", help="draw lines of equal loss into this SVG file")
    run = kinds.add_parser(
        "run", help="an RLHF run", description="Plan an RLHF run by stage and round, and what it could be traded against."
    )
    add_config_and_settings(run)
    add_rounds(run)
    run.add_argument("--hour-price", type=_positive, metavar="PRICE", help="what an hour of this machine costs (with --gpu: the table's)")
    run.add_argument("--label-price", type=_positive, metavar="PRICE", help="what a label costs")
    run.add_argument("--n", type=number_from(2), default=16, metavar="N", help="best-of-n: how many completions (default: 16)")
    for command, default in ((base, DEFAULT_GPU), (run, None)):
        shown = f"default: {default}" if default else "default: this machine, by timing a few steps"
        share = UTILISATION[command.prog.rpartition(" ")[2]]
        command.add_argument("--gpu", default=default, metavar="NAME", help=f"a GPU of the table ({shown})")
        command.add_argument("--gpus", type=Path, default=SHIPPED, metavar="FILE", help="your own table of GPUs and prices")
        command.add_argument("--utilisation", type=_share, default=share, metavar="SHARE", help=f"of the GPU's peak (default: {share})")
        command.add_argument("--currency", metavar="XXX", help="show prices in this currency (default: the table's)")
        command.add_argument("--rate", type=_positive, metavar="N", help="how much one unit of the table's currency is in it")
        command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    table = read_table(options.gpus)
    money = find_money(table, options.currency, options.rate)
    if options.kind == "base":
        _base(options, table, money)
    else:
        _run(options, table, money)
    return 0


def _base(options: argparse.Namespace, table: PriceTable, money: Money) -> None:
    """Plan a base model, and draw it where asked."""
    table.gpu(options.gpu)
    prices = Prices(table, options.gpu, options.utilisation, money)
    asked = Asked(options.params, options.tokens, options.budget, options.law)
    plan = plan_base(asked, prices, read_printed(options.printed))
    if options.plot:
        from loop.plan.chart import draw  # late, because numpy would make every command start more slowly

        draw(plan, options.plot)
    _show(options, plan, tables.base_lines(plan), tables.base_tables(plan), tables.printed_lines(plan))


def _run(options: argparse.Namespace, table: PriceTable, money: Money) -> None:
    """Plan a run on this machine or on a GPU of the table."""
    terminal, (file, settings) = Terminal(), config_and_settings(options.settings)
    config = read_given(file, settings, num_rounds=options.rounds).resolve()
    gpu = table.gpu(options.gpu) if options.gpu else None
    machine = look_at_machine(runs_folder(options).resolve())
    if gpu:
        size = round(gpu.memory * GIGA)
        machine = replace(machine, gpus=[GPU(options.gpu, size, size)])
    base, room = find_base_model(config.base, download=True), find_room(machine, config)
    subject = Subject(config, base.shape, expected_lengths(config), count_pairs(config), bool(machine.gpus))
    clock: Clock = OnGPU(gpu, options.utilisation) if gpu else _time(subject, base, terminal)
    hour = money.of(gpu.hour) if gpu else options.hour_price
    rent = Rent(options.hour_price if options.hour_price is not None else hour, options.label_price)
    stages = plan_stages(subject, clock, rent)
    trades = plan_trades(subject, clock, rent, room.program, options.n)
    plan = {
        "num_rounds": config.num_rounds,
        "assumptions": _assumptions(options, table, money, subject, rent),
        "total": total(stages, subject, rent, room.program),
        "warnings": _warnings(subject, room),
        "stages": stages,
        "trades": trades,
        "best_of_n": {"n": options.n, "kl": best_of_n_kl(options.n), "break_even": break_even(trades)},
    }
    _show(options, plan, tables.run_lines(plan), tables.run_tables(plan), tables.trade_lines(plan))


def _time(subject: Subject, base: BaseModel, terminal: Terminal) -> Timed:
    """Time a few steps on this machine."""
    config = subject.config
    units = units_of(stage_work(config, subject.pairs))
    with terminal.stage("timing a few steps"):
        found = measure(config, base.config, subject.lengths, units, config.runtime.threads_per_worker)
    return Timed(subject, found.seconds)


def _assumptions(options: argparse.Namespace, table: PriceTable, money: Money, subject: Subject, rent: Rent) -> dict[str, Any]:
    """What the plan rests on."""
    config = subject.config
    timed = "a few steps on this machine with a random model of the same shape"
    calculated = f"{options.utilisation:.0%} of the peak of {options.gpu} in {config.base.dtype} (--utilisation); not measured on a GPU"
    return {
        "base": config.base.model,
        "params": subject.shape.parameters,
        "pairs": subject.pairs.training,
        "pairs_are_assumed": subject.pairs.is_assumed,
        "workers": config.runtime.workers,
        "times_from": calculated if options.gpu else timed,
        "start_seconds": START_SECONDS[config.runtime.executor],
        "gpu": options.gpu,
        "hour_price": rent.hour,
        "label_price": rent.label,
        "currency": money.currency,
        "currency_of_table": table.currency,
        "rate": money.per_unit,
        "rate_from": money.origin,
    }


def _warnings(subject: Subject, room: Room) -> list[str]:
    """What does not fit, with the settings that would make it fit."""
    try:
        check_fits(subject.shape, subject.config, subject.lengths, room, subject.on_gpu)
    except UserError as error:
        return [f"{error.what}: {error.to_do}"]
    return []


def _show(options: argparse.Namespace, plan: dict[str, Any], first: Iterable[str], shown: Iterable[Table], last: Iterable[str]) -> None:
    """Print the plan as one JSON object, or as lines and tables."""
    if options.json:
        say(json.dumps(plan, indent=2, ensure_ascii=False))
        return
    terminal = Terminal()
    terminal.say("\n".join(first))
    for table in shown:
        terminal.table(*table)
    for line in last:
        terminal.say(line)


def _positive(word: str) -> float:
    """A number above 0, as argparse takes it. A comma stands between thousands only: in "0,05" it would be a decimal comma."""
    try:
        number = float(word.replace(",", "") if THOUSANDS.fullmatch(word) else word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, such as 20e9, 1,000 or 0.05, not {word!r}")
    return number


def _number(word: str) -> float:
    """A number of parameters or tokens, as argparse takes it."""
    number = _positive(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, such as 20e9, not {word!r}")
    return number


def _share(word: str) -> float:
    """A number above 0 and at most 1, as argparse takes it."""
    number = _positive(word)
    if number > 1:
        raise argparse.ArgumentTypeError(f"must be at most 1, not {word!r}")
    return number
