"""The laws, their best splits, and printed figures, compared with numerical search, published numbers and sums worked out by hand."""

import math

import pytest

from configs.errors import UserError
from loop.plan.known import PrintedRow, check_loss, check_price, one_price_each, read_printed, rounded_from
from loop.plan.laws import CHINCHILLA, EPOCH, LAWS, NOTES, training_flops

GOPHER = 5.76e23
"""The operations of Gopher, for which Hoffmann et al. chose Chinchilla: 70e9 parameters and 1.4e12 tokens."""


def test_the_laws_have_the_published_constants():
    """1e12 parameters and tokens make the powers easy: 10^(12 x 0.34) = 12,023; 10^(12 x 0.28) = 2,291; 10^(12 x 0.27) = 1,738."""
    assert CHINCHILLA.loss(1e12, 1e12) == pytest.approx(1.69 + 406.4 / 12_022.64 + 410.7 / 2_290.87, rel=1e-6)
    assert NOTES.loss(1e12, 1e12) == pytest.approx(1.69 + 406.4 / 12_022.64 + 410.7 / 1_737.80, rel=1e-6)
    # 10^(12 x 0.3478) = 14,924 and 10^(12 x 0.3658) = 24,536
    assert EPOCH.loss(1e12, 1e12) == pytest.approx(1.8172 + 482.01 / 14_924.2 + 2085.43 / 24_535.8, rel=1e-4)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("flops", [1e18, 1e21, GOPHER])
def test_the_closed_form_is_the_minimum(law, flops):
    """Ternary search over log N with D = C / (6 N), which is convex in log N."""

    def loss(log_params):
        return law.loss(math.exp(log_params), flops / 6 / math.exp(log_params))

    low, high = math.log(1e3), math.log(1e15)
    for _ in range(200):
        third = (high - low) / 3
        low, high = (low, high - third) if loss(low + third) < loss(high - third) else (low + third, high)
    params, tokens = law.best_split(flops)
    assert math.log(params) == pytest.approx(low, abs=1e-5)
    assert training_flops(params, tokens) == pytest.approx(flops)


def test_the_refit_gives_about_20_tokens_a_parameter_and_the_slip_far_more():
    """arXiv 2404.10102 finds 20 with the refit. Its exponent a of N is 0.513 there, and 0.45 with the rounded constants."""
    ratios = {name: tokens / params for name, law in LAWS.items() for params, tokens in [law.best_split(GOPHER)]}
    assert 15 < ratios["epoch"] < 25 and 60 < ratios["chinchilla"] < 120 and ratios["notes"] > 2 * ratios["chinchilla"]
    (small, _), (large, _) = EPOCH.best_split(1e20), EPOCH.best_split(1e22)
    assert math.log(large / small) / math.log(100) == pytest.approx(0.513, abs=1e-3)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_plans_of_equal_loss_have_it(law):
    loss = law.loss(20e9, 400e9)
    assert law.tokens_for(loss, 20e9) == pytest.approx(400e9)
    more = law.tokens_for(loss, 10e9)
    assert more > 400e9 and law.loss(10e9, more) == pytest.approx(loss)
    assert law.tokens_for(law.floor + 0.999 * law.params_term(1e9), 1e9) is None  # less than is lost for the size alone


def test_what_a_printed_number_stands_for():
    assert rounded_from("900,000") == (850_000, 950_000)
    assert rounded_from("180,000") == (175_000, 185_000)
    assert rounded_from("2.10") == pytest.approx((2.095, 2.105))
    assert rounded_from("7") == (6.5, 7.5)


def test_a_printed_loss_is_equal_or_a_slip():
    """The notes' law at 20e9 and 400e9 is 1.69 + 0.12783 + 0.30266 = 2.1205."""
    row = {"name": "x", "params": "20e9", "tokens": "400e9"}
    assert check_loss(PrintedRow(**row), "notes") is None
    assert check_loss(PrintedRow(**row, loss="2.12"), "notes").is_equal and check_loss(PrintedRow(**row, loss="2.1205"), "notes").is_equal
    wrong = check_loss(PrintedRow(**row, loss="2.05"), "notes")
    assert not wrong.is_equal and wrong.computed == pytest.approx(2.1205, abs=5e-5)
    assert check_loss(PrintedRow(**row, loss="2.05"), "chinchilla").is_equal  # 1.69 + 0.12783 + 0.23166


NOTES_PRICES = {"13B x 260B": 3_000_000, "6.7B x 134B": 900_000, "2.7B x 54B": 180_000, "2.7B x 134B": 450_000}


def test_the_notes_prices_need_two_prices_of_an_operation():
    """6 N D is 20.28, 5.3868, 0.8748 and 2.1708 x 10^21. 165,000 THB for 10^21 prints the first two, and 207,000 the others.

    3,346,200 is 3,000,000 to one digit; 888,822 is 900,000 to one; 181,084 is 180,000 and 449,356 is 450,000 to two. No price prints all
    four: the second needs at most 950,000 / 5.3868 = 176,357, and the third at least 175,000 / 0.8748 = 200,046.
    """
    printed = read_printed()
    assert printed.law == "notes" and printed.currency == "THB"
    assert {row.name: int(row.price.replace(",", "")) for row in printed.rows} == NOTES_PRICES
    checks = {row.name: check_price(row) for row in printed.rows}
    for price, names in ((165_000, ["13B x 260B", "6.7B x 134B"]), (207_000, ["2.7B x 54B", "2.7B x 134B"])):
        assert [name for name, check in checks.items() if check.lowest <= price <= check.highest] == names
    ranges = one_price_each(list(checks.values()))
    assert [bound for bounds in ranges for bound in bounds] == pytest.approx([157_793, 172_584, 204_994, 209_600], abs=1)


def test_prices_that_follow_from_one_need_one_range():
    rows = [PrintedRow(name=f"{n}", params=n * 1e9, tokens=1e12, price=f"{n}00,000") for n in (1, 2, 3)]
    (only,) = one_price_each([check_price(row) for row in rows])
    # 6e21 operations for 100,000: 16,667 for 10^21; the last one allows 250,000 / 18 to 350,000 / 18, the second 150 to 250 / 12
    assert only == pytest.approx((250_000 / 18, 150_000 / 6), rel=0.3) and only[0] < 16_667 < only[1]


def test_files_of_printed_figures_are_checked(tmp_path):
    file = tmp_path / "printed.yaml"
    cases = {
        "law: notes\ncurrency: THB\nrows: [{name: a, params: 1e9, tokens: 1e9, loss: 2.1}]": "wrong at rows.0.loss",
        "law: other\ncurrency: THB\nrows: [{name: a, params: 1e9, tokens: 1e9}]": "no law 'other'",
        "law: [": "cannot be read",
    }
    for text, message in cases.items():
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_printed(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_printed(tmp_path / "missing.yaml")
