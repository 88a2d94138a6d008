"""The labeling page in a real Chromium, driven by its keyboard. Skipped where there is no Chromium or no playwright.

The server is the command `loop label` in a process of its own, so it can be killed.
"""

import json
import random
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from loop.printing import printable
from rewards.comparisons import Comparison, read_jsonl
from tests.integration.conftest import IN_PROCESS, SMALL, Workspace
from tests.unit.loop.labeling.hostile import MARK, hostile_texts
from tests.unit.loop.labeling.made import make_run, plain_samples, rows, samples_of

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed, which drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
KEYS = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie"}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Server:
    """`loop label RUN` in a process. It has the same port after a restart."""

    def __init__(self, workspace: Workspace, *words: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._workspace, self._words = workspace, ("label", *words, "--port", str(port))
        self.start()

    def start(self) -> None:
        self.process = self._workspace.start(*self._words)
        self.address = self.next_address()

    def next_address(self) -> str:
        """The address in the next line that shows one."""
        seen = []
        while line := self.process.stdout.readline():
            seen.append(line)
            if found := re.search(r"http://\S+", line):
                return found[0]
        raise AssertionError("".join(seen) + self.process.stderr.read())

    def kill(self) -> None:
        """SIGKILL. Nothing happens if it has ended."""
        if not self.process.stdout.closed:
            self.process.kill()
            self.process.communicate(timeout=30)

    def stop(self) -> str:
        """Ctrl-C; returns the rest of what it has printed."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0 and not err, err
        return out


class Rater:
    """A person with a window of their own, who presses keys and remembers what was on the screen."""

    def __init__(self, browser, server: Server, name: str):
        self.name, self.said, self.problems = name, [], []
        self.page = browser.new_context(viewport={"width": 1100, "height": 800}).new_page()
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message) or dialog.dismiss())
        self.page.goto(server.address)
        self.page.fill("#rater", name)
        self.page.keyboard.press("Enter")
        server.address = server.next_address()
        self.page.wait_for_selector("#pair:not([hidden])")

    def shown(self) -> tuple[str, str]:
        """The texts on the left and on the right."""
        return tuple(self.page.evaluate("['left', 'right'].map(side => document.querySelector(`#${side} .text`).textContent)"))

    def press(self, key: str) -> None:
        """Press a key, and remember the verdict as the label file should have it: chosen, rejected, tie, and the one that was left."""
        if choice := KEYS.get(key):
            left, right = self.shown()
            sides = sorted((left, right)) if choice == "tie" else [left, right] if choice == "left" else [right, left]
            self.said.append((self.name, *sides, choice == "tie", left))
        self.page.keyboard.press(key)

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true in the page. playwright's own way of waiting is forbidden by the page's policy."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.005)

    def settled(self, says: str) -> None:
        """Wait until the page has its answer, and check what it says."""
        self.until("!busy")
        assert says in self.page.text_content("#message")

    def choose(self, key: str) -> None:
        self.press(key)
        self.settled("Saved: ")


def labels_in(path: Path, texts: dict[str, str]) -> list[tuple]:
    """The label file in the form of `Rater.said`."""
    found = []
    for row in rows(path):
        sides = [texts[row["chosen_id"]], texts[row["rejected_id"]]]
        found.append((row["rater"], *(sorted(sides) if row["tie"] else sides), row["tie"], texts[row[f"{row['shown_first']}_id"]]))
    return found


@pytest.fixture
def here(tmp_path):
    return Workspace(tmp_path, tmp_path / "cache")


@pytest.fixture
def serve():
    """Starts servers, and ends those that a failed test has left."""
    started = []

    def start(workspace: Workspace, *words: str) -> Server:
        started.append(Server(workspace, *words))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def test_fifty_comparisons_by_keyboard_with_a_reload_a_kill_and_two_raters_at_once(here, serve, browser):
    samples, labels = plain_samples(60), here.folder / "labels" / "round-0.jsonl"
    make_run(here.folder / "runs" / "x", samples, "labeler.min_labels=50")
    server = serve(here, "x", "--double", "0")
    ann, bob = Rater(browser, server, "ann"), Rater(browser, server, "บ๊อบ")
    chance = random.Random(5)
    for number in range(25):
        for rater in (ann, bob):
            rater.press(chance.choice(list(KEYS)))
        for rater in (ann, bob):
            rater.settled("Saved: ")
        assert len(rows(labels)) == 2 * number + 2  # what the page calls saved is on disk
        if number == 8:
            before = ann.shown()
            ann.page.reload()
            ann.page.wait_for_selector("#pair:not([hidden])")
            assert ann.shown() == before
        if number == 12:
            server.kill()
            ann.press("ArrowLeft")
            ann.until("$('message').textContent.startsWith('Not saved yet')")
            ann.page.keyboard.press("ArrowRight")  # does nothing while the first is under way
            assert len(rows(labels)) == 26
            server.start()
            ann.settled("Saved: left")
            ann.page.keyboard.press("u")
            ann.settled("Taken back.")
            assert ann.shown() == tuple(ann.said.pop()[1:3]) and len(rows(labels)) == 26
        if number == 15:
            first = bob.shown()
            bob.page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ห', code: 'KeyS'}))")  # S on a Thai layout
            bob.settled("Skipped.")
            assert bob.shown() != first
            bob.page.keyboard.press("u")
            bob.settled("Taken back.")
            assert bob.shown() == first
        if number == 20:
            ann.page.keyboard.press("n")
            ann.page.keyboard.type("left s u ดี")  # letters are not keys while one writes a note
            ann.page.keyboard.press("Escape")
    for rater in (ann, bob):
        rater.until("$('count').textContent === '50 of 50 pairs labeled'")
    assert "enough labels" in server.stop()
    texts = {sample.id: sample.completion for sample in samples}
    assert sorted(labels_in(labels, texts)) == sorted(ann.said + bob.said)
    assert len(rows(labels)) == 50 == len({frozenset((row["chosen_id"], row["rejected_id"])) for row in rows(labels)})
    assert [row["comment"] for row in rows(labels) if "comment" in row] == ["left s u ดี"]
    assert [line for line in ann.problems + bob.problems if "ERR_CONNECTION_REFUSED" not in line] == []


def test_five_hundred_hostile_texts_are_shown_as_text_and_nothing_else_happens(here, serve, browser):
    texts = hostile_texts(501)
    prompts, completions = texts[::3], list(zip(texts[1::3], texts[2::3], strict=True))
    samples = samples_of([([{"role": "user", "content": prompt}], pair) for prompt, pair in zip(prompts, completions, strict=True)])
    make_run(here.folder / "runs" / "x", samples)
    server = serve(here, "x", "--double", "0")
    ann = Rater(browser, server, "ann")
    look = "[document.querySelectorAll('*').length, document.documentElement.scrollWidth <= innerWidth, $('prompt').textContent]"
    elements = ann.page.evaluate(look)[0]
    seen = []
    for _ in completions:
        now, fits, prompt = ann.page.evaluate(look)
        assert now == elements and fits, prompt
        seen += [prompt.removeprefix("user"), *ann.shown()]
        ann.choose("ArrowDown")
    in_file = [json.loads(json.dumps(text)) for text in texts]  # two halves of a surrogate pair that meet are a character
    assert sorted(seen) == sorted(printable(text) for text in in_file)
    assert ann.page.evaluate(f"window.{MARK}") is None and ann.page.title() == "Labels" and ann.problems == []
    server.stop()
    assert len(rows(here.folder / "labels" / "round-0.jsonl")) == 167


def test_the_whole_cycle_from_a_waiting_run_to_its_end(workspace, serve, browser):
    """One round of the small run waits for 12 labels, a person gives them, and the run comes to its end by itself."""
    words = (
        "labeler.kind=preferences-file",
        "labeler.path=labels/{round}.jsonl",
        "labeler.min_labels=12",
        "ppo.num_updates=1",
        "evaluate.best_of=0",
    )
    out, err = workspace.loop("run", "--name", "people", "--rounds", "1", IN_PROCESS, *SMALL, *words, exit_code=3)
    assert "waiting for labels" in err
    server = serve(workspace, "people", "--resume")
    ann = Rater(browser, server, "ann")
    for _ in range(12):
        ann.choose("ArrowRight")
    ann.until("$('message').textContent.startsWith('The run goes on')")
    ann.until("$('message').textContent == 'The run is done. Thank you.'", 300)
    assert server.process.wait(timeout=60) == 0
    status = workspace.status("people")
    wins = read_jsonl(workspace.folder / "runs" / "people" / "round-000" / "label" / "wins.jsonl", Comparison)
    decided = sum(row.rater == "ann" for row in wins)
    assert status["state"] == "done" and status["rounds"][0]["stages"]["label"]["metrics"]["comparisons"] + decided == 12
    assert decided == 1  # min_labels asks for one pair of policies, and it comes first
    assert ann.problems == []


def test_a_new_address_in_the_same_window_is_for_a_new_rater(here, serve, browser):
    make_run(here.folder / "runs" / "x", plain_samples(4))
    server = serve(here, "x", "--double", "0")
    window = Rater(browser, server, "ann")
    window.choose("ArrowLeft")
    window.page.goto(server.address)
    window.page.wait_for_selector("#enter:not([hidden])")
    window.page.fill("#rater", "bob")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("#pair:not([hidden])")
    window.choose("ArrowLeft")
    server.stop()
    assert [row["rater"] for row in rows(here.folder / "labels" / "round-0.jsonl")] == ["ann", "bob"]


def test_the_page_needs_no_torch_to_start(here, serve):
    """A fresh process, from the command's words to the address."""
    make_run(here.folder / "runs" / "x", plain_samples(2))
    server = serve(here, "x")
    maps = Path(f"/proc/{server.process.pid}/maps")
    assert not maps.exists() or "libtorch" not in maps.read_text()
    server.stop()
