"""The page over HTTP: who may come in, what is on disk when it answers, and what it refuses."""

import asyncio
import fcntl
import json
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from loop.commands.main import main
from loop.labeling.desk import Desk
from loop.labeling.door import Door, check_rater, is_allowed
from loop.labeling.page import Page
from loop.printing import UNPRINTABLE, printable
from loop.store.journal import Journal
from tests.unit.loop.labeling.made import make_run, plain_samples, rows, samples_of

LABELS = Path("labels/round-0.jsonl")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "x", plain_samples(6))


class Browser:
    """A client with the key of a rater."""

    def __init__(self, client: TestClient, page: Page):
        self.client, self.page, self.headers = client, page, {}

    async def enter(self, rater: str) -> None:
        status, body = await self.post("enter", token=self.page.door.token, rater=rater)
        assert status == 200
        self.headers = {"Authorization": f"Bearer {body['key']}"}

    async def post(self, path: str, **body):
        async with self.client.post(f"/api/{path}", json=body, headers=self.headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    async def view(self):
        async with self.client.get("/api/view", headers=self.headers) as response:
            assert response.status == 200
            return await response.json()


def browse(run, visit):
    """Serve the page of a run, and have `visit` use it as Ann."""

    async def go():
        desk = Desk(run, double=0.0)
        page = Page(desk, Door(run.labeling / "raters.json"), "127.0.0.1", lambda rater: None)
        async with TestClient(TestServer(page.app())) as client:
            browser = Browser(client, page)
            await browser.enter("ann")
            await visit(browser)
        desk.close()

    asyncio.run(go())


def test_a_label_is_on_disk_when_the_page_answers(run, monkeypatch):
    synced = []

    async def visit(browser):
        before = await browser.view()
        monkeypatch.setattr("os.fsync", lambda handle: synced.append(len(rows(LABELS))))
        status, after = await browser.post("answer", pair=before["pair"]["name"], choice="left", note="สวัสดี \ud800\0")
        assert status == 200 and synced[0] == 1 and after["labeled"] == 1 and after["problem"] == ""
        (row,) = rows(LABELS)
        assert row["rater"] == "ann" and row["comment"] == "สวัสดี \\ud800\\u0000"
        assert after["pair"]["name"] != before["pair"]["name"]
        again = await browser.post("answer", pair=before["pair"]["name"], choice="left")
        assert again[0] == 200 and len(rows(LABELS)) == 1
        status, other = await browser.post("answer", pair=before["pair"]["name"], choice="right")
        assert status == 409 and "Undo takes that back" in other["problem"] and len(rows(LABELS)) == 1
        assert (await browser.post("undo", undo=other["undo"]))[0] == 200 and rows(LABELS) == []

    browse(run, visit)


def test_a_disk_that_refuses_is_told_and_nothing_is_written(run, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    async def visit(browser):
        pair = (await browser.view())["pair"]["name"]
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", refuse)
            status, body = await browser.post("answer", pair=pair, choice="tie")
        assert status == 507 and "No space left" in body["problem"] and body["pair"]["name"] == pair and rows(LABELS) == []
        assert (await browser.post("answer", pair=pair, choice="tie"))[0] == 200 and len(rows(LABELS)) == 1

    browse(run, visit)


def test_nothing_is_written_while_a_process_works_on_the_run(run):
    async def visit(browser):
        pair = (await browser.view())["pair"]["name"]
        with run.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status, body = await browser.post("answer", pair=pair, choice="left")
            assert status == 409 and body["state"] == "working" and "not saved" in body["problem"] and rows(LABELS) == []
        assert (await browser.view())["pair"]["name"] == pair
        Journal(run.journal).append("stage_committed", round=0, stage="label", key="k", digest="d", manifest="m", seconds=1.0)
        assert (await browser.view())["state"] == "over"
        assert (await browser.post("answer", pair=pair, choice="left"))[0] == 409 and rows(LABELS) == []

    browse(run, visit)


def test_a_run_that_is_begun_and_refused_while_the_page_looks_leaves_the_page_as_it_was(run, monkeypatch):
    """Such as `loop resume` with a setting that does not fit: it holds the run's lock for a moment, and writes nothing."""
    answers = iter([False, True, False])
    monkeypatch.setattr("loop.labeling.desk.is_locked", lambda folder: next(answers, False))
    desk = Desk(run, double=0.0)
    for _ in range(4):
        desk.look()
    assert desk.state == "asking" and desk.queue is not None
    desk.close()


def test_a_run_that_was_killed_is_interrupted(run, capsys):
    """Its journal says that it is running, and no process works on it."""
    journal = Journal(run.journal)
    journal.append("run_started", num_rounds=2)
    journal.append("stage_committed", round=0, stage="label", key="k", digest="d", manifest="m", seconds=1.0)
    journal.append("stage_started", round=0, stage="retrain", key="k")

    async def visit(browser):
        view = await browser.view()
        assert (view["state"], view["run_state"]) == ("over", "interrupted")

    browse(run, visit)
    assert main(["label", "x"]) == 2 and "no round of 'x' waits for labels: it is interrupted" in capsys.readouterr().err


def test_a_token_lets_one_window_in_and_a_key_outlives_the_page(run):
    keys = []

    async def visit(browser):
        ann, token = browser.headers, browser.page.door.token
        for wrong in ("", "x", "\ud800"):
            assert (await browser.post("enter", token=wrong, rater="eve"))[0] == 401
        await browser.enter("bob")
        assert (await browser.view())["rater"] == "bob" and (await browser.post("enter", token=token, rater="eve"))[0] == 401
        browser.headers = {"Authorization": "Bearer x"}
        for path in ("answer", "skip", "undo"):
            assert (await browser.post(path))[0] == 401
        async with browser.client.get("/api/view") as response:
            assert response.status == 401
        keys.append(ann)

    async def later(browser):
        browser.headers = keys[0]
        assert (await browser.view())["rater"] == "ann"

    browse(run, visit)
    browse(run, later)
    kept = (run.labeling / "raters.json").read_text()
    assert keys[0]["Authorization"].removeprefix("Bearer ") not in kept


@pytest.mark.parametrize("name", ["", "  ", None, 7, "a,b", "a\nb", "a\u202eb", "a\0", "\ud800", "x" * 41])
def test_names_that_labels_cannot_have(name):
    with pytest.raises(ValueError, match="Type a name"):
        check_rater(name)


def test_names_that_labels_can_have():
    assert check_rater("  สมหญิง ") == "สมหญิง" and check_rater("e\u0301va") == "\u00e9va"


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("127.0.0.1:8750", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:8750", True),
        ("10.0.0.7:8750", True),  # an address is no name that another site could have given
        ("lab:8750", True),
        ("evil.example:8750", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8750", False),
        ("", False),
    ],
)
def test_other_names_are_refused(header, allowed):
    assert is_allowed(header, "lab") is allowed


def test_every_answer_has_the_headers_and_other_hosts_get_none_of_the_page(run):
    async def visit(browser):
        for path, status in (("/", 200), ("/page.js", 200), ("/page.css", 200), ("/api/view", 401), ("/nothing", 404)):
            async with browser.client.get(path) as response:
                assert response.status == status
                policy = response.headers["Content-Security-Policy"]
                assert (
                    policy.startswith("default-src 'none'") and "unsafe" not in policy and response.headers["Cache-Control"] == "no-store"
                )
                text = await response.text()
                assert "answer 0-" not in text and "style=" not in text and "onclick" not in text
        async with browser.client.get("/", headers={"Host": "evil.example"}) as response:
            assert response.status == 421 and "<html" not in await response.text()

    browse(run, visit)


def test_requests_that_make_no_sense(run):
    async def visit(browser):
        pair = (await browser.view())["pair"]["name"]
        for body, status in (
            ({"pair": pair, "choice": "both"}, 400),
            ({"pair": pair, "choice": "left", "note": "x" * 4001}, 400),
            ({"pair": pair, "choice": "left", "note": "x" * 100_000}, 413),
            ({"pair": "0" * 16, "choice": "left"}, 409),
            ({"pair": ["\ud800"], "choice": "left"}, 409),
        ):
            assert (await browser.post("answer", **body))[0] == status
        assert (await browser.post("skip", pair="x"))[0] == 409
        for raw in (b"", b"[]", b"{", b"\xff", b"[" * 60_000):
            async with browser.client.post("/api/answer", data=raw, headers=browser.headers) as response:
                assert response.status == 400
        assert rows(LABELS) == []

    browse(run, visit)


def test_hostile_texts_go_out_printable_and_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["<script>alert(1)</script>", "a\u202eb", "\ud800", "\0", "\x1b[2J", "x" * 100_000]
    prompts = [[{"role": "user\u202e", "content": f"<b>\0{text[:9]}"}] for text in texts]
    run = make_run(tmp_path / "x", samples_of([(prompt, [text, "plain"]) for prompt, text in zip(prompts, texts, strict=True)]))

    async def visit(browser):
        seen = []
        while pair := (view := await browser.view())["pair"]:
            shown = [*pair["prompt"][0].values(), pair["left"]["text"], pair["right"]["text"]]
            assert not any(UNPRINTABLE.search(text) for text in shown)
            seen += [text for text in shown[2:] if text != "plain"]
            assert shown[0] == "user\\u202e" and shown[1].startswith("<b>\\u0000")
            assert (await browser.post("answer", pair=pair["name"], choice="tie"))[0] == 200
        assert view["labeled"] == len(texts)
        assert sorted(seen) == sorted(printable(text) for text in texts) and len(max(seen, key=len)) == 100_000

    browse(run, visit)
