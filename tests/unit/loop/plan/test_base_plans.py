"""`loop plan base`: hours, prices, currencies, budgets, and the table of GPUs that users edit."""

import json
from pathlib import Path

import pytest
import yaml

from configs.errors import UserError
from loop.commands.main import main
from loop.plan.gpus import SHIPPED, find_money, read_table
from loop.plan.laws import LAWS
from loop.plan.tables import count, money

PLAN = ("plan", "base", "--params", "20e9", "--tokens", "400e9")


@pytest.fixture
def plan(capsys):
    """Run `loop plan base --json`; returns the object."""

    def run(*words):
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def table(tmp_path):
    """The words that name a table with one simple GPU: 100 x 10^12 operations a second, 2 EUR an hour, and 40 THB for one EUR."""
    gpus = {"one": {"tflops": {"bfloat16": 100}, "bandwidth": 1000, "memory": 80, "hour": 2}}
    held = {"date": "today", "currency": "EUR", "rates": {"THB": {"per_unit": 40, "date": "2020"}}, "gpus": gpus}
    file = tmp_path / "gpus.yaml"
    file.write_text(yaml.safe_dump(held))
    return "--gpus", str(file), "--gpu", "one"


def test_hours_and_prices_follow_from_6_n_d(plan, table):
    """4.8e22 operations at half of 1e14 a second are 9.6e8 s = 266,667 h, at 2 EUR 533,333 EUR, at 40 THB 21,333,333 THB."""
    found = plan(*PLAN, *table, "--utilisation", "0.5")
    assert found["flops"] == pytest.approx(4.8e22)
    assert found["costs"]["one"] == pytest.approx({"gpu_hours": 266_666.7, "price": 533_333.3}, rel=1e-6)
    in_baht = plan(*PLAN, *table, "--utilisation", "0.5", "--currency", "THB")
    assert in_baht["costs"]["one"]["price"] == pytest.approx(21_333_333, rel=1e-6)
    assert in_baht["assumptions"]["rate"] == 40 and "2020, not today's" in in_baht["assumptions"]["rate_from"]
    stated = plan(*PLAN, *table, "--utilisation", "0.5", "--currency", "THB", "--rate", "30")
    assert stated["costs"]["one"]["price"] == pytest.approx(16_000_000, rel=1e-6)


def test_a_budget_buys_the_best_split(plan, table):
    """1,000,000 EUR are 500,000 h of 5e13 operations a second: 9e22. The plan that is not given is the best one by the law."""
    found = plan("plan", "base", "--budget", "1,000,000", *table, "--utilisation", "0.5", "--law", "chinchilla")
    assert found["budget"]["flops"] == pytest.approx(9e22)
    params, tokens = LAWS["chinchilla"].best_split(9e22)
    assert (found["params"], found["tokens"]) == pytest.approx((params, tokens))
    assert found["costs"]["one"]["price"] == pytest.approx(1_000_000)
    losses = {row["factor"]: row for row in found["equal_loss"]}
    assert losses[1.0]["flops_ratio"] == pytest.approx(1) and losses[0.5]["flops_ratio"] > 1 and losses[2.0]["flops_ratio"] > 1
    both = plan(*PLAN, "--budget", "1e6", *table, "--utilisation", "0.5")
    assert both["params"] == 20e9 and both["budget"]["flops"] == pytest.approx(9e22)


def test_a_model_that_is_too_small_reaches_the_loss_with_no_amount_of_data(plan, capsys):
    """GPT-3's size with ten times its tokens: a quarter of it cannot get there."""
    words = ("plan", "base", "--params", "175e9", "--tokens", "100e12", "--law", "epoch")
    assert plan(*words)["equal_loss"][0]["tokens"] is None
    assert main(words) == 0 and "no amount" in capsys.readouterr().out


def test_the_tables_of_a_plan(capsys):
    """The losses were worked out with a calculator: 1.69 + 0.1278 + 0.3027 (notes), + 0.2317 (chinchilla), 1.8172 + 0.1260 + 0.1189."""
    assert main([*PLAN, "--law", "notes", "--budget", "3e6", "--currency", "THB"]) == 0
    out = capsys.readouterr().out
    for words in ("2.1205", "2.0495", "2.0621", "GPT-3", "AnthropicLM", "XGLM", "GPT-NeoX", "Pythia", "OPT", "arXiv 2204.06745"):
        assert words in out
    assert "one USD is 35 THB, the table's round figure of 2023, not today's" in out and "prices of 2026-05, to be edited" in out
    assert "no single price of a FLOP gives all of them; 2 do" in out
    assert main([*PLAN, "--law", "epoch"]) == 0 and "printed" not in capsys.readouterr().out


def test_printed_losses_of_another_file(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    row = "{name: mine, params: 20e9, tokens: 400e9, loss: '%s', price: '1,000'}"
    file.write_text(f"law: chinchilla\ncurrency: USD\nrows: [{row % '2.05'}, {row % '2.06'}]")
    assert main([*PLAN, "--law", "chinchilla", "--printed", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count("equal") == out.count("slip") == 1
    assert "printed prices: all follow from one price" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--params", "20e9"], "--tokens is missing"),
        ([], "there is nothing to plan"),
        (["--params", "-1", "--tokens", "2"], "must be a number above 0"),
        ([*PLAN[2:], "--utilisation", "1.2"], "must be at most 1"),
        ([*PLAN[2:], "--gpu", "h10"], "there is no GPU 'h10' in the table, did you mean 'h100'?"),
        ([*PLAN[2:], "--currency", "JPY"], "the table has no rate for JPY"),
        ([*PLAN[2:], "--rate", "35"], "--rate converts USD into another currency"),
        (["--params", "1e-308", "--tokens", "2"], "must be a number of at least 1"),
        (["--params", "1e9", "--tokens", "1,5"], "must be a number above 0"),  # a decimal comma
        (["--budget", "0,500"], "must be a number above 0"),
    ],
)
def test_what_is_refused(capsys, words, message):
    assert main(["plan", "base", *words]) == 2
    assert message in capsys.readouterr().err


def test_tables_of_gpus_are_checked(tmp_path):
    whole, file = yaml.safe_load(SHIPPED.read_text()), tmp_path / "gpus.yaml"
    for change, message in (({"gpus": {}}, "wrong at gpus"), ({"currency": "baht"}, "wrong at currency"), ({"taxes": 7}, "wrong at taxes")):
        file.write_text(yaml.safe_dump(whole | change))
        with pytest.raises(UserError, match=message):
            read_table(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "missing.yaml")


def test_the_shipped_table_has_what_is_known_of_gpus():
    """The makers' peaks of dense products in bfloat16. A GPU without that format computes in float32."""
    table = read_table()
    assert {name: gpu.peak("bfloat16") for name, gpu in table.gpus.items() if name in ("a100-80gb", "h100", "t4")} == {
        "a100-80gb": 312e12,
        "h100": 989e12,
        "t4": 8.1e12,
    }
    assert find_money(table, None, None).of(3.0) == 3.0


def test_the_plot_has_a_line_for_each_loss(tmp_path):
    file = tmp_path / "plan.svg"
    assert main([*PLAN, "--plot", str(file)]) == 0
    assert file.read_text(encoding="utf-8").count("<path") > 20
    again = tmp_path / "again.svg"
    assert main([*PLAN, "--plot", str(again)]) == 0 and again.read_bytes() == file.read_bytes()
    assert main([*PLAN, "--plot", str(tmp_path / "missing" / "plan.svg")]) == 2


def test_a_gpu_that_costs_nothing_has_no_budget(capsys, table):
    file = Path(table[1])
    file.write_text(file.read_text().replace("hour: 2", "hour: 0"))
    assert main(["plan", "base", "--budget", "1e6", *table]) == 2
    assert "an hour of one costs nothing" in capsys.readouterr().err
    assert main([*PLAN, *table]) == 0


@pytest.mark.parametrize(
    ("number", "shown"), [(99.4, "99"), (99.7, "100"), (-99.7, "-100"), (0.0, "0"), (0.25, "0.25"), (1234.5, "1,234"), (None, "-")]
)
def test_prices_have_no_exponents(number, shown):
    assert money(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(999.4e6, "999M"), (999.7e6, "1B"), (20e9, "20B"), (999.7, "1k"), (12, "12"), (999.9e12, "1.00e+15")]
)
def test_numbers_of_parameters_have_no_exponents_below_a_thousand_trillion(number, shown):
    assert count(number) == shown
