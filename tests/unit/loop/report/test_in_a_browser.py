"""The page in a real browser, driven as a reader would. Skipped where there is no Chromium."""

import shutil

import pytest

from loop.report.page import Page, render, runs_page
from tests.unit.loop.report.hostile import MARK, hostile_texts, writable_texts
from tests.unit.loop.report.made import make_run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a page from disk. Whatever it asks for beside itself, or complains of, is a failure."""
    contexts, troubles = [], []

    def opened(page, **settings):
        file = tmp_path / "page.html"
        file.write_text(render(page), encoding="utf-8")
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        tab.on("request", lambda request: troubles.append(request.url) if request.url != file.as_uri() else None)
        tab.on("console", lambda message: troubles.append(message.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("dialog", lambda dialog: troubles.append(dialog.message))
        tab.goto(file.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def card(number, answers, kind="held-out", source="helpful", language="latin"):
    """A prompt of the browser with (text, gold, rules) of each round's answer."""
    rows = [{"n": 0, "r": r, "t": text, "m": {"gold": gold}, "d": list(rules)} for r, (text, gold, rules) in enumerate(answers)]
    return {"k": kind, "p": f"prompt {number}", "s": source, "l": language, "i": f"p{number}", "a": rows}


def page_of(cards):
    samples = {"runs": ["run"], "cards": cards, "answers": sum(len(one["a"]) for one in cards)}
    return Page("Report of a run", "run", [], [], [], samples)


def shown(tab):
    return tab.locator(".card .prompt").all_text_contents()


@pytest.fixture
def few(visit):
    """Gold of the last answers: 1, 3, 2, and no other order of the cards is the same as the one by it."""
    cards = [
        card(0, [("a cat", 4.0, []), ("a dog", 1.0, ["repetition"])]),
        card(1, [("แมว", 3.0, []), ("ปลา", 3.0, [])], source="redteam", language="thai"),
        card(2, [("a fish", 0.0, ["footer"]), ("a FISH", 2.0, [])]),
        card(3, [("a bird", 0.0, [])], kind="labeled"),
    ]
    return visit(page_of(cards))


def test_hostile_samples_are_text_and_nothing_in_them_runs(visit, tmp_path):
    """The title would be another one, or there would be a dialog, an image or a message, if a sample had run."""
    run = make_run(tmp_path / "run", answers=hostile_texts(17), extra={"warnings": writable_texts(17)})
    tab = visit(runs_page([run], 2000))
    assert tab.locator("#found").inner_text() == "4 prompts, 12 answers"  # the held-out prompts come first
    assert tab.locator(".card").count() == 4 and tab.locator("script").count() == 2 and tab.locator("img").count() == 0
    assert tab.title() == "run – loop" and MARK in (tab.locator(".card").first.text_content() or "")


def test_each_filter_narrows_the_samples(few):
    assert shown(few) == ["prompt 0", "prompt 1", "prompt 2"]
    for name, value, wanted in (
        ("source", "=redteam", [1]),
        ("language", "=thai", [1]),
        ("defect", "=footer", [2]),
        ("kind", "=labeled", [3]),
    ):
        first = few.locator(f"#{name}").input_value()
        few.select_option(f"#{name}", value)
        assert shown(few) == [f"prompt {number}" for number in wanted], name
        few.select_option(f"#{name}", first)
    few.fill("#find", "Fish")
    assert shown(few) == ["prompt 2"] and few.locator("#found").inner_text() == "1 prompt, 2 answers"
    few.select_option("#source", "=redteam")
    assert shown(few) == []
    few.fill("#find", "ปลา")
    assert shown(few) == ["prompt 1"]


def test_the_samples_can_be_ordered(few):
    """Gold changed by -3, 0 and +2."""
    for order, wanted in (
        ("lowest gold", [0, 2, 1]),
        ("highest gold", [1, 2, 0]),
        ("gold fell most", [0, 1, 2]),
        ("gold rose most", [2, 1, 0]),
    ):
        few.select_option("#order", label=order)
        assert shown(few) == [f"prompt {number}" for number in wanted], order


def test_of_two_thousand_answers_a_few_are_shown_at_a_time(visit):
    """30 cards are shown at a time. One more card is the one that is searched for."""
    cards = [card(n, [(f"answer {n} of round {r}. " * 20, n % 7 + r, ["repetition"] * (n % 2)) for r in range(4)]) for n in range(500)]
    tab = visit(page_of([*cards, card(500, [("needle", 1.0, [])])]))
    assert tab.locator(".card").count() == 30
    tab.get_by_role("button", name="Show 30 more of 471").press("Enter")  # on a busy machine, a click may be lost while the page moves
    playwright.expect(tab.locator(".card")).to_have_count(60)
    tab.fill("#find", "needle")
    playwright.expect(tab.locator(".card")).to_have_count(1)
    assert shown(tab) == ["prompt 500"]
    tab.fill("#find", "")
    tab.select_option("#order", label="highest gold")
    playwright.expect(tab.locator(".card")).to_have_count(30)


@pytest.mark.parametrize(
    ("width", "scheme", "paper"),
    [(1280, "light", "rgb(253, 252, 250)"), (390, "light", "rgb(253, 252, 250)"), (390, "dark", "rgb(23, 24, 27)")],
)
def test_the_page_fits_a_desktop_and_a_phone_in_light_and_dark(visit, tmp_path, width, scheme, paper):
    """Nothing is wider than the window, except what scrolls by itself."""
    tab = visit(runs_page([make_run(tmp_path / "run")], 100), viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert tab.locator("svg").first.bounding_box()["width"] > 300
    assert len(tab.screenshot(full_page=True)) > 40_000  # an empty page has a few kilobytes
