"""The page, as an HTML parser reads it, with samples that try to break it."""

import html.parser
import itertools
import json
import math
import re

import pytest

from loop.report.browsing import as_json, browser_data
from loop.report.charts import Point, Series, clean, line_chart
from loop.report.figures import costs
from loop.report.page import csp_hash, render, runs_page
from loop.report.reading import read_run
from loop.store.journal import Journal
from tests.unit.loop.report.hostile import MARK, hostile_texts, writable_texts
from tests.unit.loop.report.made import SETTINGS, make_run, summary

VOID = {"meta", "input"}


class Reader(html.parser.HTMLParser):
    """Reads a page: its elements, and the text of its scripts and styles. Fails if an element is not closed as it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if self.inside and self.inside[-1] in ("script", "style"):
            self.raw.append((self.inside[-1], self.elements[-1][1], data))
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def data(self):
        return next(json.loads(text) for tag, attributes, text in self.raw if attributes.get("type") == "application/json")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("report") / "run", extra={"best_of": {"random": summary(2), "oracle": summary(3)}})
    return Reader(render(runs_page([run], 100)))


def test_the_page_tells_the_story_and_has_every_section(page):
    for words in ("Yes: +2.00 in true reward", "No sign of it", "Round 1", "Reward models", "Selectors", "Time and memory"):
        assert words in page.text, words
    charts = {attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"}
    assert {"True reward", "True reward against distance", "Rule rates", "Selectors", "Mixture", "Labels", "Time by stage"} <= charts


def test_no_two_elements_have_the_same_id(page):
    """The ids inside a drawing come from its title and content, and are named only there."""
    ids = [attributes["id"] for tag, attributes in page.elements if "id" in attributes and tag not in ("path", "clippath")]
    assert len(ids) == len(set(ids)) and "sample-data" in ids


def test_the_page_needs_no_network_and_allows_only_its_own_script(page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base", "img") and "style" not in attributes
        assert not any(name.startswith("on") for name in attributes), attributes
        assert "src" not in attributes and (attributes.get("href") or "#").startswith("#"), attributes
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    (style,) = [text for tag, _, text in page.raw if tag == "style"]
    (script,) = [text for tag, attributes, text in page.raw if tag == "script" and "type" not in attributes]
    wanted = {"default-src 'none'", f"style-src '{csp_hash(style)}'", f"script-src '{csp_hash(script)}'"}
    assert wanted <= set(policy.split("; ")) and "unsafe" not in policy


def test_the_browser_has_each_prompt_with_every_round(page):
    """4 prompts with answers of SFT, round 0 and round 1; 4 prompts with two labeled answers of each round: 12 + 16 answers."""
    cards, held_out = page.data["cards"], [card for card in page.data["cards"] if card["k"] == "held-out"]
    assert page.data["answers"] == 28 == sum(len(card["a"]) for card in cards)
    assert [[answer["r"] for answer in card["a"]] for card in held_out] == [[None, 0, 1]] * 4
    labeled = next(card for card in cards if card["k"] == "labeled" and card["i"] == "p0")
    assert [answer["w"] for answer in labeled["a"]] == [[1, 0, 0], [0, 1, 0]] * 2
    assert {card["l"] for card in cards} == {"latin", "thai"}


def test_two_runs_are_compared(tmp_path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", golds=(1.5,), settings=SETTINGS.replace("seed: 0", "seed: 7"))]
    page = Reader(render(runs_page(runs, 100)))
    assert "What differs" in page.text and "seed 0 7" in page.text and page.data["runs"] == ["one", "two"]
    held_out = [card for card in page.data["cards"] if card["k"] == "held-out"]
    assert [[(answer["n"], answer["r"]) for answer in card["a"]] for card in held_out] == [
        [(0, None), (0, 0), (0, 1), (1, None), (1, 0)]
    ] * 4


def test_stages_that_only_some_runs_have_are_in_the_times(tmp_path):
    """Each made stage takes 1.5 s, and a round has seven of them."""
    run = make_run(tmp_path / "run", golds=(2.0,))
    Journal(run.folder.journal).append("stage_committed", stage="committee", round=0, seconds=7.0, metrics={})
    times = next(chart for chart in costs(read_run(run.folder.path)) if chart.title == "Time by stage")
    assert ["committee", "0", "7"] in times.rows and ["policy", "0", "1.5"] in times.rows and len(times.rows) == 8


def test_win_rates_have_charts_and_a_table(tmp_path):
    """A rate over SFT in both rounds would be a line; here the last one has it, so there is one point of each kind."""
    rates = {"sft": summary(0.7, 0.02), "last": summary(0.6, 0.02)}
    ties = {"win_ties": {"sft": 0.1}, "win_agreement": {"raters": 2, "pairs": 9, "alpha": None}}
    run = make_run(tmp_path / "run", extra={"win_rate": rates, "length_controlled_win_rate": {"sft": summary(0.66, 0.02)}, **ties})
    page = Reader(render(runs_page([run], 10)))
    charts = {attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"}
    assert {"Win rate", "Win rate against distance"} <= charts
    assert "policy over SFT over SFT, at the same length over the last round ties with SFT raters" in page.text
    assert "round 1 70% ± 2% 66% ± 2% 60% ± 2% 10% 2" in page.text


def test_a_page_without_samples_has_no_script(tmp_path):
    page = Reader(render(runs_page([make_run(tmp_path / "run")], 0)))
    assert not [tag for tag, _ in page.elements if tag == "script"] and "Samples" not in page.text


def test_labels_of_points_that_lie_together_do_not_cover_each_other():
    """Three points within 1 % of the axis. Their labels are 8 or more points apart, the height of a letter."""
    points = [Point(0, 0, label="SFT"), Point(1, 1, label="0"), Point(1.01, 1, label="1"), Point(1, 1.01, label="2")]
    chart = line_chart("a", "", [Series("x", points, joined=False)], "u", "v")
    assert chart
    found = {
        text.strip(): (float(x), float(y))
        for x, y, text in re.findall(r'<text x="([-0-9.]+)" y="([-0-9.]+)"[^>]*font-size="8.5"[^>]*>([^<]*)<', chart.svg)
    }
    places = [found[name] for name in ("SFT", "0", "1", "2")]
    assert min(math.dist(a, b) for a, b in itertools.combinations(places, 2)) > 8


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    Journal(folder / "journal.jsonl").append("run_started", num_rounds=2)
    assert "Not known yet" in Reader(render(runs_page([read_run(folder)], 100))).text


def test_hostile_samples_and_names_stay_text(tmp_path):
    """500 texts as answers and sources, others as a setting and as warnings. Nothing in them becomes an element."""
    texts = hostile_texts(500)
    settings = f"{SETTINGS}name: {json.dumps(texts[0])}\n"
    run = make_run(tmp_path / "run", answers=texts[:2], extra={"warnings": writable_texts(17)}, settings=settings)
    for start in range(2, 500, 4):
        for stage, r in (("baseline", None), ("evaluate", 0), ("evaluate", 1)):
            path = run.folder.stage(stage, r) / "samples.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()[:4]]
            for i, row in enumerate(rows):
                row |= {"prompt_id": f"h{start + i}", "completion": texts[(start + i) % 500], "source": texts[start % 15]}
            with path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
    written = render(runs_page([run], 5000))
    page = Reader(written)
    written.encode("utf-8")  # no half of a surrogate pair is left
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", written)
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == ["application/json", None]
    assert not any(MARK in str(value) for _, attributes in page.elements for value in attributes.values())
    assert len({card["i"] for card in page.data["cards"]}) > 490
    assert max(len(answer["t"]) for card in page.data["cards"] for answer in card["a"]) < 20_000


def test_json_in_a_script_holds_no_tag():
    text = as_json({"t": "</script><!--<script>&\u2028\ud800"})
    assert not set("<>&") & set(text) and text.isascii()
    assert json.loads(text)["t"] == "</script><!--<script>&\u2028\ud800"


def test_the_browser_keeps_to_its_limit(tmp_path):
    """Of 28 answers, 10 are wanted: 6 to held-out prompts, that is 2 prompts of 3 policies; 4 are left, one prompt of each round."""
    data = browser_data([make_run(tmp_path / "run")], 10)
    assert data["answers"] == 10


def test_a_chart_has_the_pages_colours_and_no_style():
    chart = line_chart(
        "a", "", [Series("x", [Point(0, 1, (0.8, 1.2)), Point(1, 2)]), Series("y", [Point(0, 1, label="p")], 1, joined=False)], "u", "v"
    )
    assert chart and "var(--c0)" in chart.svg and "var(--c1)" in chart.svg and "#fe" not in chart.svg
    assert "style" not in chart.svg and "<metadata" not in chart.svg and "font-family" not in chart.svg
    assert [row[:3] for row in chart.rows] == [["x", "0", "1"], ["x", "1", "2"], ["y", "p", "1"]]
    assert [row[3:] for row in chart.rows] == [["0.8", "1.2"], ["", ""], ["", ""]]


def numbers_of_ticks(svg: str) -> list[float]:
    return [float(text.replace("\u2212", "-").removesuffix("%")) for text in re.findall(r">([\u2212-]?[0-9.]+%)<", svg)]


def test_an_axis_of_shares_ends_at_100_percent():
    """The interval of a share of 9 in 10, of ten, is 0.9 ± 1.96 x 0.095: it goes beyond 1."""
    series = [Series("a", [Point(0, 0.9, (0.71, 1.09)), Point(1, 0.05, (-0.09, 0.19))])]
    shares, others = (line_chart("t", "", series, "round", "", percent=percent) for percent in (True, False))
    assert max(numbers_of_ticks(shares.svg)) == 100 and min(numbers_of_ticks(shares.svg)) == 0
    assert shares.rows == others.rows  # what was measured is not changed


def test_points_beside_each_other_have_the_same_place_in_the_numbers():
    """Two series at the places 0 and 1, which are called one and two: of the second, the points are drawn a little to the right."""
    series = [
        Series("a", [Point(0, 1), Point(1, 2)], joined=False),
        Series("b", [Point(0, 1, shift=0.2), Point(1, 2, shift=0.2)], joined=False),
    ]
    chart = line_chart("t", "", series, "arm", "", [(0.0, "one"), (1.0, "two")])
    assert [row[:3] for row in chart.rows] == [["a", "one", "1"], ["a", "two", "2"], ["b", "one", "1"], ["b", "two", "2"]]
    drawn = [float(x) for x in re.findall(r'<use[^>]* x="([0-9.]+)"', chart.svg)]
    first, second = drawn[:2], drawn[2:4]
    assert all(b > a for a, b in zip(first, second, strict=True)) and second[0] < first[1]


def test_nothing_to_draw_is_no_chart():
    assert line_chart("a", "", [Series("x", [])], "u", "v") is None


def test_scripts_and_styles_of_a_drawing_are_left_out():
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg"><style>*{}</style><script>1</script><g id="a" style="fill: #fe0001; font: 9px X"/></svg>'
    )
    assert clean(drawn, "t") == '<svg role="img" aria-label="t"><g fill="var(--ink)" font-size="9" /></svg>'
