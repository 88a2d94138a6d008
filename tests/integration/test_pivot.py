"""Runs that answer Thai prompts by way of English, in this process: one round by the dictionary, and one whose translator stops."""

import json
import shutil
from zlib import crc32

import pytest

from configs import load_config
from configs.errors import WaitingForLabels
from loop.driver import Driver
from loop.executors.in_process import InProcess
from loop.labeling.rounds import _pairs_of, _with_originals
from loop.report.answers import held_out_answers
from loop.report.reading import read_run
from loop.round import set_up
from loop.store.measures import find_measure
from loop.terminal import Terminal
from rewards.comparisons import Comparison, Sample, read_jsonl
from rewards.shown import as_shown
from rewards.world.gold import gold_scores
from tests.integration.conftest import IN_PROCESS, SMALL
from tests.unit.rewards.labelers.chat_server import Answer, ChatServer

pytestmark = pytest.mark.slow


def execute(folder, *words, program=None):
    config = load_config(overrides=[*SMALL, IN_PROCESS, "respond=pivot", *words], name=folder.name, num_rounds=1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    Driver(config, folder, Terminal(), InProcess(config.runtime)).execute(*([program] if program else []))


def test_a_round_by_way_of_english(tmp_path):
    run = tmp_path / "runs" / "english"
    execute(run)
    metrics = {path.parent.name: json.loads(path.read_text())["metrics"] for path in run.glob("*/*/manifest.json")}
    assert all(find_measure(name) for found in metrics.values() for name in found)
    evaluated = read_jsonl(run / "round-000/evaluate/samples.jsonl", Sample)
    pivoted = [sample for sample in evaluated if sample.pivot]
    assert 0 < len(pivoted) < len(evaluated) and metrics["evaluate"]["pivot"]["share"] == len(pivoted) / len(evaluated)
    measured = [json.loads(line)["gold"] for line in (run / "round-000/evaluate/measurements.jsonl").read_text().splitlines()]
    assert measured == [gold_scores([as_shown(sample)])[sample.id] for sample in evaluated]
    samples = {sample.id: sample for sample in read_jsonl(run / "round-000/sample/samples.jsonl", Sample)}
    rows = read_jsonl(run / "round-000/label/comparisons.jsonl", Comparison)
    assert any(row.pivot for row in rows)
    for row in rows:
        assert (row.chosen, row.prompt) == (samples[row.chosen_id].completion, samples[row.chosen_id].prompt)
        assert as_shown(row).chosen == as_shown(samples[row.chosen_id]).completion
    shown = {answer.prompt_id: answer for answer in held_out_answers(read_run(run), 0)}
    for sample in evaluated:
        answer, seen = shown[sample.prompt_id], as_shown(sample)
        assert answer.text == seen.completion and bool(answer.asked) == bool(sample.pivot)
        assert not sample.pivot or answer.written == sample.completion
    pair = next(pair for pair in _page_pairs(list(samples.values())) if pair.asked)
    by_id = [samples[answer.id] for answer in pair.answers]
    assert pair.prompt == as_shown(by_id[0]).prompt and pair.asked == by_id[0].prompt
    assert [answer.written for answer in pair.answers] == [sample.completion for sample in by_id]
    assert [answer.text for answer in pair.answers] == [as_shown(sample).completion for sample in by_id]


def _page_pairs(samples):
    """What the page shows of these samples."""
    return _with_originals(_pairs_of([as_shown(sample) for sample in samples], 0), samples)


def test_a_run_whose_translator_stops_goes_on_and_pays_for_no_text_twice(tmp_path, monkeypatch):
    """The translator answers 40 requests and is then down. The same run started again asks for nothing that was paid."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    healthy = False

    def reply(asked, before):
        word = f"w{crc32(asked.encode())}"  # a short translation that no other text has
        return Answer(word) if healthy or server.paid.total() < 40 else Answer("down", 503)

    with ChatServer(reply) as server:
        words = ["pivot.translator=http", f"pivot.url={server.url}", "pivot.max_retries=1", "pivot.backoff_seconds=0", "data.num_pairs=32"]
        words += ["pivot.scope=rule", "pivot.sources=[dahoas]"]
        run = tmp_path / "runs" / "endpoint"
        with pytest.raises(WaitingForLabels, match="the translator does not answer: status 503"):
            execute(run, *words, program=set_up)
        assert not (run / "setup/pivot").exists() and 40 <= server.paid.total() < 60
        healthy = True
        execute(run, *words, program=set_up)
        assert set(server.paid.values()) <= {0, 1}
        there = {text for text, count in server.paid.items() if count}
        assert there == set(server.asked)
        shutil.rmtree(run / "setup/baseline")
        before = server.paid.total()
        execute(run, *words, program=set_up)
        assert server.paid.total() == before
    assert {sample.source for sample in read_jsonl(run / "setup/baseline/samples.jsonl", Sample) if sample.pivot} == {"dahoas"}
