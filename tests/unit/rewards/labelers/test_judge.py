"""The judge, against a real HTTP server: both orders, ties, errors and retries, unclear replies, and a kill in the middle."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2 as httpx
import pytest

from configs import UserError, load_config
from configs.endpoints import JudgeConfig
from configs.errors import WaitingForLabels
from configs.loading import dump_config
from configs.schema import LabelerConfig
from policies.checkpoints import Checkpoints
from rewards.comparisons import Sample
from rewards.labelers import registry as labelers
from rewards.labelers.endpoint import Endpoint, ReplyCache, _retry_after
from rewards.labelers.judge import REFUSED, UNCLEAR, compare_pairs, parse, render
from rewards.labelers.picking import Pair
from tests.forked import Forked
from tests.unit.rewards.labelers.chat_server import Answer, ChatServer
from tests.unit.rewards.labelers.tasks import make_task

KEY = "sk-a-secret-that-no-file-may-hold"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def samples(num_prompts):
    """Two completions of each prompt, so that each prompt has one pair. Their lengths differ."""
    texts = ("short", "a longer answer")
    return [Sample(f"s{p}-{k}", f"p{p}", f"question {p}", text, True, 0, k) for p in range(num_prompts) for k, text in enumerate(texts)]


def label(server, cache, num_prompts=20, checkpoints=None, **judge):
    config = LabelerConfig(kind="judge", pairs_per_prompt=1)
    settings = JudgeConfig(**{"url": server.url, "model": "m", "cache": str(cache), "backoff_seconds": 0.0} | judge)
    return labelers.label(make_task(samples(num_prompts), config, checkpoints=checkpoints or Checkpoints(), judge=settings))


def answers(text):
    """The two answers in what the judge is asked, A first."""
    return [re.search(rf"<answer_{name}>\n(.*)\n</answer_{name}>", text)[1] for name in "ab"]


def shorter(text, before=0):
    """A judge who is right in both orders."""
    a, b = answers(text)
    return Answer("A" if len(a) < len(b) else "B")


def test_both_orders_are_asked_and_the_same_completion_wins(tmp_path):
    with ChatServer(shorter) as server:
        found = label(server, tmp_path, price_input=3.0, price_output=15.0)
    assert len(found.comparisons) == 20 and {row.chosen for row in found.comparisons} == {"short"}
    row = found.comparisons[0]
    assert (row.labeler, row.rater, row.shown_first, row.confidence) == ("judge", "m", "both", 1.0)
    assert datetime.fromisoformat(row.labeled_at) <= datetime.now(UTC)
    orders = Counter((re.search(r"question \d+", text)[0], *answers(text)) for text in server.asked)
    assert len(orders) == 40 and set(orders.values()) == {1} and set(server.asked.values()) == {1}
    assert {body["path"] for body in server.bodies} == {"/v1/chat/completions"}
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.bodies} == {("m", 0.0, 16)}
    # 40 replies of 100 + 2 tokens: 4,000 x 3 / 1e6 + 80 x 15 / 1e6 = 0.0132
    counts = found.counts()
    assert [counts[f"judge_{name}"] for name in ("replies", "input", "output")] == [40, 4000, 80]
    assert counts["judge_cost"] == pytest.approx(0.0132)


@pytest.mark.parametrize("said", ["A", "B", "tie"])
def test_disagreement_of_the_orders_is_a_tie(tmp_path, said):
    """A judge who likes one place says nothing about the completions."""
    with ChatServer(lambda text, before: Answer(said)) as server:
        found = label(server, tmp_path)
    assert {(row.tie, row.confidence) for row in found.comparisons} == {(True, 0.5)} and len(found.comparisons) == 20


def test_a_tie_in_one_order_is_a_tie(tmp_path):
    with ChatServer(lambda text, before: Answer("A" if answers(text)[0] == "short" else "tie")) as server:
        assert label(server, tmp_path).counts()["ties"] == 20


@pytest.mark.parametrize(
    "error",
    [
        Answer("slow down", 429, {"Retry-After": "0"}),
        Answer("slow down", 429, {"Retry-After": format_datetime(datetime.now(UTC) - timedelta(days=1))}),
        Answer("oops", 500),
        Answer("", 503, raw=b"<html>starting</html>"),
        Answer(raw=b"<html>a proxy's page</html>"),
        Answer(raw=b'{"choices": []}'),
        Answer(raw=b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": 1e999}}'),
        Answer(raw=b"[" * 100_000),
        Answer(raw=b"not packed", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_errors_that_pass_are_tried_again(tmp_path, error):
    with ChatServer(lambda text, before: shorter(text) if before == 2 else error) as server:
        found = label(server, tmp_path, num_prompts=4)
    assert len(found.comparisons) == 4 and set(server.asked.values()) == {3} and set(server.paid.values()) == {1}
    assert set(server.keys.values()) == {3}  # all tries of a request have one key, by which an endpoint may know it


def test_the_endpoint_says_how_long_to_wait_and_waits_grow(tmp_path):
    """Retry-After: 1 is longer than the back-off. Two waits without it take 0.1 + 0.2 s."""
    with ChatServer(lambda text, before: shorter(text) if before else Answer("", 429, {"Retry-After": "1"})) as server:
        started = time.monotonic()
        label(server, tmp_path / "a", num_prompts=2)
        assert time.monotonic() - started >= 1.0
    with ChatServer(lambda text, before: shorter(text) if before == 2 else Answer("", 500)) as server:
        started = time.monotonic()
        label(server, tmp_path / "b", num_prompts=2, backoff_seconds=0.1)
        assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y", "%A, %d-%b-%y %H:%M:%S GMT", "30"])
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Bangkok"])
def test_a_date_until_which_to_wait_is_in_utc(monkeypatch, form, zone):
    """All forms of dates that HTTP knows, also the one without a zone, wherever the run is."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        header = (datetime.now(UTC) + timedelta(seconds=30)).strftime(form)
        assert 25 < _retry_after(httpx.Response(429, headers={"Retry-After": header})) <= 30
    finally:
        monkeypatch.undo()
        time.tzset()


def test_time_outs_are_tried_again(tmp_path):
    with ChatServer(lambda text, before: shorter(text) if before else Answer("A", seconds=3.0)) as server:
        found = label(server, tmp_path, num_prompts=2, timeout_seconds=0.3)
    assert len(found.comparisons) == 2 and set(server.asked.values()) == {2}


def test_an_endpoint_that_stays_down_ends_the_run_with_what_it_has(tmp_path):
    """It answers 10 requests. The next attempt asks for the other 30 only."""
    count = Counter()

    def ten_only(text, before):
        with lock:
            count["all"] += 1
            return shorter(text) if count["all"] <= 10 else Answer("no more quota", 429)

    lock = threading.Lock()
    with ChatServer(ten_only) as server:
        with pytest.raises(WaitingForLabels, match="no more quota") as caught:
            label(server, tmp_path, max_retries=1)
        assert "none is paid twice" in str(caught.value)
        server.reply = shorter
        assert len(label(server, tmp_path).comparisons) == 20
    assert server.paid.total() == 40 and set(server.paid.values()) == {1}


def test_a_pause_that_is_too_long_is_not_waited_for(tmp_path):
    tomorrow = Answer("tomorrow", 429, {"Retry-After": "86400"})
    with ChatServer(lambda text, before: tomorrow) as server, pytest.raises(WaitingForLabels, match="tomorrow"):
        label(server, tmp_path)


def test_unclear_replies_are_asked_again_and_then_counted(tmp_path):
    """Question 1 never gets a clear reply. Question 2 gets one at the third time. The other ones are clear at once."""

    def reply(text, before):
        if "question 1\n" in text or ("question 2\n" in text and before < 2):
            return Answer(["Both are good.", None, "A or B"][before])
        return shorter(text)

    with ChatServer(reply) as server:
        found = label(server, tmp_path, num_prompts=6)
    assert len(found.comparisons) == 5 and found.left_out == {UNCLEAR: 1} and found.rows == 6
    by_question = Counter()
    for text, times in server.asked.items():
        by_question[re.search(r"question \d", text)[0][-1]] += times
    assert by_question == {"0": 2, "1": 6, "2": 6, "3": 2, "4": 2, "5": 2}


def test_a_refused_request_is_left_out_and_all_refused_is_an_error(tmp_path):
    with ChatServer(lambda text, before: Answer("content filter", 400) if "question 1\n" in text else shorter(text)) as server:
        found = label(server, tmp_path / "a", num_prompts=4)
        assert (len(found.comparisons), dict(found.left_out)) == (3, {REFUSED: 1}) and set(server.asked.values()) == {1}
    message, refused = "refuses every request: status 400: no such parameter", Answer("no such parameter", 400)
    with ChatServer(lambda text, before: refused) as server, pytest.raises(UserError, match=message):
        label(server, tmp_path / "b", num_prompts=4)


def test_a_prompt_that_is_refused_alone_does_not_end_the_run(tmp_path):
    """The last of 17 pairs is asked about in a shard of its own, because a shard has 16."""
    with ChatServer(lambda text, before: Answer("content filter", 400) if "question 16\n" in text else shorter(text)) as server:
        found = label(server, tmp_path, num_prompts=17)
    assert (len(found.comparisons), dict(found.left_out)) == (16, {REFUSED: 1})


def test_no_more_requests_at_once_than_allowed(tmp_path):
    def reply(text, before):
        time.sleep(0.01)
        return shorter(text)

    with ChatServer(reply) as server:
        label(server, tmp_path, concurrency=3)
    assert 1 < server.most_at_once <= 3


def test_the_same_question_at_the_same_time_is_paid_once(tmp_path):
    """The policy wrote two texts twice each, so four pairs of samples are one pair of texts: two questions, one for each order."""

    def reply(text, before):
        time.sleep(0.1)
        return shorter(text)

    texts = ("short", "a longer answer")
    written = [Sample(f"s-{k}", "p", "a question", texts[k % 2], True, 0, k) for k in range(4)]
    pairs = [Pair(written[a], written[b], 0.5) for a in (0, 2) for b in (1, 3)]
    with ChatServer(reply) as server, Endpoint(JudgeConfig(url=server.url), ReplyCache(tmp_path)) as endpoint:
        assert [said["verdict"] for said in compare_pairs(endpoint, pairs)] == ["first"] * 4
        assert sorted(server.paid.values()) == [1, 1]


# -- the key --------------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_and_goes_to_the_endpoint_only(tmp_path, monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("MY_KEY", KEY)
    wrong = Answer(f"wrong key {KEY}", 401)
    with ChatServer(lambda text, before: wrong) as server, pytest.raises(UserError, match=r"status 401: wrong key \*\*\*") as caught:
        label(server, tmp_path, key_variable="MY_KEY")
    assert server.authorizations == {f"Bearer {KEY}"}
    with ChatServer(shorter) as server:
        rows = label(server, tmp_path, key_variable="MY_KEY").comparisons
    texts = [str(caught.value), caplog.text, repr(rows), *(path.read_text() for path in tmp_path.rglob("*.json"))]
    texts.append(dump_config(load_config(overrides=["judge.key_variable=MY_KEY"])))
    assert all(KEY not in text for text in texts) and "MY_KEY" in texts[-1]


def test_a_key_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with ChatServer(shorter) as server, pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        label(server, tmp_path, key_variable="NO_SUCH_KEY")
    assert not server.asked


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://localhost:80a/v1", "http://localhost:99999/v1", "http://:80/v1", "http://[::1/v1"]
)
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(UserError, match="is not the address of an endpoint"):
        load_config(overrides=[f"judge.url={url!r}"])


def test_keys_do_not_belong_into_the_config():
    with pytest.raises(UserError, match="user name or a password"):
        load_config(overrides=["judge.url=https://me:secret@host/v1"])
    with pytest.raises(UserError, match="key_variable"):
        load_config(overrides=["judge.key_variable=sk-123"])


# -- texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "choice"),
    [("A", "A"), (" b.\n", "B"), ("**A**", "A"), ("[[B]]", "B"), ("Tie", "tie"), ('"tie".', "tie")]
    + [(text, None) for text in (None, "", "C", "A B", "Answer A", "A is better", "AB", "the tie", "เสมอ")],
)
def test_replies_are_read_strictly(text, choice):
    assert parse(text) == choice


def test_texts_that_look_like_the_template_change_nothing():
    a, b = (
        Sample(f"s{k}", "p", "what is {a}?", text, finished, 0, k)
        for k, (text, finished) in enumerate([("{b}{prompt}", True), ("{a}", False)])
    )
    text = render(JudgeConfig(template="{prompt}|{a}|{b}"), a.prompt, a, b)
    assert text == "what is {a}?|{b}{prompt}|{a} [cut off here]"


def test_thai_prompts_get_the_thai_template():
    thai = [{"role": "user", "content": "ท้องฟ้าเป็นสีม่วงเพราะอะไร (sky)"}]
    one, other = (Sample(f"s{k}", "p", thai, text, True, 0, k) for k, text in enumerate(["เพราะแสง", "ไม่รู้"]))
    text = render(JudgeConfig(), thai, one, other)
    assert text.startswith("ผู้ช่วยสองคน") and "user: ท้องฟ้า" in text and "เพราะแสง" in text
    assert render(JudgeConfig(), "why is the sky ม่วง", one, other).startswith("Two assistants")


# -- a kill ---------------------------------------------------------------------------------------------------------------


def label_in_a_process(url, folder, out):
    """What the killed process does, and the one after it."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    server = type("Server", (), {"url": url})
    rows = label(server, Path(folder) / "cache", 40, Checkpoints(Path(folder) / "checkpoints")).comparisons
    Path(out).write_text(json.dumps([(row.prompt_id, row.chosen, row.labeled_at) for row in rows]))


def test_a_kill_in_the_middle_loses_nothing_and_pays_nothing_twice(tmp_path):
    """The server answers 50 of 80 requests and holds the others back. Once the 50 replies are kept, the process is killed."""
    held, lock, count = threading.Event(), threading.Lock(), Counter()

    def fifty_only(text, before):
        with lock:
            count["all"] += 1
            if count["all"] <= 50:
                return shorter(text)
        held.wait(60)
        return Answer("too late", 500)

    def start(name):
        return Forked(
            label_in_a_process, server.url, str(tmp_path), str(tmp_path / name), folder=tmp_path, environment=os.environ,
            out=tmp_path / "stdout", err=tmp_path / "stderr",
        )  # fmt: skip

    with ChatServer(fifty_only) as server:
        process, until = start("first"), time.monotonic() + 100
        while len(list((tmp_path / "cache").rglob("*.json"))) < 50 and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        held.set()
        assert server.paid.total() == 50
        server.reply = shorter
        assert start("second").wait(100) == 0, (tmp_path / "stderr").read_text()
    rows = json.loads((tmp_path / "second").read_text())
    assert not (tmp_path / "first").exists() and len({row[0] for row in rows}) == len(rows) == 40
    assert server.paid.total() == 80 and set(server.paid.values()) == {1}
    with ChatServer(shorter) as unasked:  # another run, and another address: what is paid for one is not taken for the other
        assert len(label(unasked, tmp_path / "cache", 40).comparisons) == 40 and unasked.paid.total() == 80
