"""Which pair each rater gets, and what is written: reloads, several raters, skips, undo, agreement."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loop.labeling.answers import Conflict
from loop.labeling.queue import Agreement
from rewards.comparisons import answer_id
from rewards.data.unusable import BadRow
from rewards.labelers.label_files import read_labels
from rewards.labelers.preferences_file import compare_by_file
from tests.unit.loop.labeling.made import asked_in, make_run, plain_samples, queue_of, rows, samples_of, write_wanted
from tests.unit.rewards.labelers.tasks import file_task

LABELS = Path("labels/round-0.jsonl")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Twenty prompts with three completions: 60 pairs."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "x", plain_samples(20, 3))


def say_all(queue, rater, choice="left"):
    """Have a rater answer until nothing is left; returns the names of the pairs."""
    names = []
    while pair := queue.next(rater):
        queue.answer(rater, pair.name, choice)
        names.append(pair.name)
    return names


def test_a_restart_shows_the_same_pairs_in_the_same_way(run):
    first, again = queue_of(run), queue_of(run)
    shown = [(queue.next("ann").name, queue.sides("ann", queue.next("ann"))) for queue in (first, again, first)]
    assert shown[0] == shown[1] == shown[2]
    assert say_all(first, "ann")[1:3] != [again.next("bob").name] and len(rows(LABELS)) == 60


def test_all_prompts_come_before_second_pairs_of_a_prompt(run):
    queue = queue_of(run)
    prompts = [queue.pairs[name].prompt_id for name in say_all(queue, "ann")]
    for start in (0, 20, 40):
        assert len(set(prompts[start : start + 20])) == 20


def test_two_raters_at_once_never_have_the_same_pair_and_together_label_each_once(run):
    queue, names = queue_of(run), []
    while pair := queue.next("ann"):
        other = queue.next("bob")
        assert other is None or other.name != pair.name
        for rater, shown in (("ann", pair), ("bob", other)):
            if shown:
                queue.answer(rater, shown.name, "tie")
                names.append(shown.name)
    assert sorted(names) == sorted(queue.pairs) and len(rows(LABELS)) == 60
    assert queue.labeled == queue.wanted == 60 and queue.by_rater() == {"ann": 30, "bob": 30} and queue.agreement().pairs == 0


def test_what_a_rater_saw_is_what_is_written(run):
    queue = queue_of(run)
    lefts = 0
    for choice in ("left", "right", "tie") * 20:
        pair = queue.next("ann")
        left, right = (pair.answers[number].id for number in queue.sides("ann", pair))
        lefts += left == pair.answers[0].id
        queue.answer("ann", pair.name, choice, "a note")
        row = rows(LABELS)[-1]
        assert row["tie"] is (choice == "tie") and {row["chosen_id"], row["rejected_id"]} == {left, right}
        assert choice == "tie" or row["chosen_id"] == (left if choice == "left" else right)
        assert row[f"{row['shown_first']}_id"] == left and row["comment"] == "a note" and row["round"] == 0
    assert 15 <= lefts <= 45  # fair coin, 60 throws: standard deviation 3.9


def test_the_run_reads_every_label_as_it_was_given(run):
    """Ties keep their order too: the reader would turn a tie round whose samples are in another order, and not what was shown first."""
    samples, queue = plain_samples(20, 3), queue_of(run)
    for number, rater in enumerate(["ann", "bob"] * 30):
        queue.answer(rater, queue.next(rater).name, ("left", "right", "tie")[number % 3])
    found = compare_by_file(file_task(samples, LABELS))
    assert len(found.comparisons) == 60 and not found.left_out
    said = {(row["chosen_id"], row["rejected_id"], row["tie"], row["rater"], row["shown_first"]) for row in rows(LABELS)}
    assert {(row.chosen_id, row.rejected_id, row.tie, row.rater, row.shown_first) for row in found.comparisons} == said


def test_a_share_of_the_pairs_is_labeled_twice_and_agreement_is_measured(run):
    """Ann says left of all, which is the first answer or the second; Bob says tie of all that he sees."""
    queue = queue_of(run, double=1.0)
    assert len(say_all(queue, "ann")) == 60 and len(say_all(queue, "bob", "tie")) == 60 and queue.next("cat") is None
    found = queue.agreement()
    assert (found.pairs, found.agree) == (60, 0) and found.alpha < 0
    some = len(queue_of(run, double=0.3)._doubled)
    assert 7 <= some <= 29  # 60 x 0.3 = 18, standard deviation 3.5


def test_second_labels_come_early(run):
    """Ann and Bob label in turn, and every pair wants two labels: what one has labeled, the other gets next."""
    queue = queue_of(run, double=1.0)
    for _ in range(10):
        for rater in ("ann", "bob"):
            queue.answer(rater, queue.next(rater).name, "left")
    assert queue.agreement().pairs >= 9 and queue.labeled <= 11


def test_alpha_is_that_of_the_definition(run):
    """Three pairs with two votes: they agree on the first two, and of the third one says first and one tie. Each pair counts in both
    orders, so there are 12 values in 6 units: pair 1 gives 2 x first and 2 x second, pair 2 gives 4 ties, pair 3 first + tie and
    second + tie. first 3, second 3, tie 6. Observed: 2 units of 6 disagree, 2 x 2 / 1 = 4. Expected: 144 - 9 - 9 - 36 = 90.
    alpha = 1 - 11 x 4 / 90."""
    queue = queue_of(run, double=1.0)
    for pair, said in zip(queue.asked.pairs, [("first", "first"), ("tie", "tie"), ("first", "tie")], strict=False):
        for rater, verdict in zip(("ann", "bob"), said, strict=True):
            left, _ = queue.sides(rater, pair)
            queue.answer(rater, pair.name, "tie" if verdict == "tie" else "left" if left == 0 else "right")
    assert queue.agreement() == Agreement(3, 2, pytest.approx(1 - 11 * 4 / 90))


def test_a_skipped_pair_comes_again_at_the_end_also_after_a_restart(run):
    queue = queue_of(run)
    first = queue.next("ann").name
    queue.skip("ann", first)
    queue.skip("ann", first)  # the same request again, after a reply that was lost
    assert len(rows(run.path / "skips.jsonl")) == 1
    again = queue_of(run)
    assert again.skipped("ann") == 1 and again.next("ann").name != first
    assert again.next("bob") is not None
    names = say_all(again, "ann")
    assert names[-1] == first and names.count(first) == 1 and again.skipped("ann") == 0 and len(names) == 60


def test_undo_takes_back_the_last_verdict_or_skip_once(run):
    queue = queue_of(run)
    assert queue.undoable("ann") == "" and not queue.undo("ann", "")
    first = queue.next("ann").name
    queue.answer("ann", first, "left")
    second = queue.next("ann").name
    queue.skip("ann", second)
    queue.answer("bob", queue.next("bob").name, "left")
    queue = queue_of(run)  # what can be undone outlives the page
    what = queue.undoable("ann")
    assert queue.undo("ann", what) and not queue.undo("ann", what)  # the same request again takes back nothing more
    assert queue.next("ann").name == second and queue.skipped("ann") == 0 and len(rows(LABELS)) == 2
    assert queue.undo("ann", queue.undoable("ann")) and queue.next("ann").name == first
    assert [row["rater"] for row in rows(LABELS)] == ["bob"]
    queue.answer("ann", first, "right")
    queue = queue_of(run)
    with pytest.raises(Conflict):
        queue.answer("ann", first, "left")
    assert not queue.answer("ann", first, "right") and len(rows(LABELS)) == 2


def test_how_many_labels_are_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert queue_of(make_run(tmp_path / "all", plain_samples(4))).wanted == 4
    assert queue_of(make_run(tmp_path / "some", plain_samples(4), "labeler.min_labels=3")).wanted == 3
    assert queue_of(make_run(tmp_path / "more", plain_samples(4), "labeler.min_labels=9")).wanted == 4


def test_labels_of_other_rounds_in_the_same_file_do_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_file = ("labeler.kind=preferences-file", "labeler.path=labels.jsonl", "labeler.min_labels=3")
    run = make_run(tmp_path / "x", plain_samples(4), labeled_by=one_file)
    lines = [{"chosen_id": f"{number}-{number}-p-0", "rejected_id": f"{number}-{number}-p-1"} for number in (7, 0)]
    Path("labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert queue_of(run).wanted == 2 and queue_of(run).labeled == 0  # one pair of round 0 that is not on offer has a label


def test_labels_in_other_files_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "x", plain_samples(3), labeled_by=("labeler.kind=preferences-file", "labeler.path=labels/*.jsonl"))
    ids = sorted(asked_in(run).pairs[0].ids)
    (tmp_path / "labels").mkdir()
    Path("labels/theirs.jsonl").write_text(f'{{"chosen_id": "{ids[0]}", "rejected_id": "{ids[1]}", "rater": "eve"}}\nnot JSON\n')
    queue = queue_of(run)
    assert queue.labeled == 1 and len(say_all(queue, "ann")) == 2 and queue.by_rater() == {"ann": 2, "eve": 1}
    assert len(rows(Path("labels/loop-label-round-000.jsonl"))) == 2


def win_pairs(number):
    """Rows that ask whose answer is better, of a policy and of SFT, to each of so many prompts."""
    asked = [(f"w{n}", [answer_id(0, 0, f"w{n}"), answer_id(0, None, f"w{n}")]) for n in range(number)]
    return [{"job": "win-rate", "prompt": prompt, "ids": ids, "completions": ["new", "old"]} for prompt, ids in asked]


def test_pairs_for_win_rates_come_first_and_are_not_enough(tmp_path, monkeypatch):
    """Three labels are enough, but the run needs one of samples too."""
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "x", plain_samples(4), "labeler.min_labels=3")
    write_wanted(run, win_pairs(4))
    queue = queue_of(run)
    for number in range(4):
        pair = queue.next("ann")
        assert pair.tier == -1 and queue.wanted == max(3, number + 1)
        queue.answer("ann", pair.name, "left")
    assert (queue.labeled, queue.wanted) == (4, 5)
    queue.answer("ann", queue.next("ann").name, "left")
    assert (queue.labeled, queue.wanted) == (5, 3)


def test_a_mixture_counts_the_pairs_on_offer_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = ("labeler.kind=mixture", "labeler.parts=[preferences-file, rules]", "labeler.shares=[0.5, 0.5]", "labeler.path=l.jsonl")
    run = make_run(tmp_path / "x", plain_samples(2), "labeler.min_labels=2", labeled_by=parts)
    write_wanted(run, win_pairs(3))
    Path("l.jsonl").write_text('{"chosen_id": "0-0-p-0", "rejected_id": "0-0-p-1"}\n')
    queue = queue_of(run)
    assert (len(queue.pairs), queue.labeled, queue.wanted) == (3, 0, 2)
    queue.answer("ann", queue.next("ann").name, "left")
    queue.answer("ann", queue.next("ann").name, "left")
    assert (queue.labeled, queue.wanted) == (2, 2)


MIXTURE = ("labeler.kind=mixture", "labeler.parts=[preferences-file, rules]", "labeler.shares=[0.5, 0.5]")


@pytest.mark.parametrize("path", ["labels/round-{round}.jsonl", "labels/*.jsonl"])
def test_pairs_that_are_labeled_by_their_texts_are_not_asked_again(tmp_path, monkeypatch, path):
    """Of four pairs, two are labeled by texts: one by a row of this round, one by a row that only a file of its own round explains. Rows
    of another round, of other texts and of nobody's pair say nothing."""
    monkeypatch.chdir(tmp_path)
    samples = plain_samples(4)
    run = make_run(tmp_path / "x", samples, labeled_by=(*MIXTURE, f"labeler.path={path}"))
    write_wanted(run, [asked_about(*samples[2 * n : 2 * n + 2]) for n in range(4)])
    by_texts = [{"prompt": f"question {n}?", "chosen": f"answer {n}-1", "rejected": f"answer {n}-0"} for n in range(4)]
    given = [
        by_texts[0] | {"rater": "eve", "round": 0},
        by_texts[1] | {"rater": "eve"},
        by_texts[2] | {"rater": "eve", "round": 1},
        by_texts[3] | {"rejected": "another answer", "round": 0},
        by_texts[3] | {"rejected": ""},
    ]
    Path("labels").mkdir()
    Path("labels/round-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    queue, known = queue_of(run), 2 if "{round}" in path else 1
    assert queue.labeled == known and queue.by_rater() == {"eve": known} and queue.wanted == 4
    assert {queue.pairs[name].prompt for name in say_all(queue, "ann")} == {f"question {n}?" for n in range(known, 4)}
    assert queue.labeled == 4


def test_of_wanted_pairs_with_the_same_texts_one_is_asked(tmp_path, monkeypatch):
    """The texts are a, b, a and c: the pairs of a and b are one question, and that of a and c is another."""
    monkeypatch.chdir(tmp_path)
    first, second, third, fourth = [replace(sample, finished=True) for sample in samples_of([("q", ["a", "b", "a", "c"])])]
    run = make_run(tmp_path / "x", [first, second, third, fourth], labeled_by=(*MIXTURE, "labeler.path=l.jsonl"))
    write_wanted(run, [asked_about(first, second), asked_about(second, third), asked_about(third, fourth)])
    queue = queue_of(run)
    assert [pair.ids for pair in queue.asked.pairs] == [{first.id, second.id}, {third.id, fourth.id}]
    assert [pair.tier for pair in queue.asked.pairs] == [0, 1]


def test_texts_may_be_written_in_another_form_where_the_run_normalises_its_own(tmp_path, monkeypatch):
    """An e with an accent is one character or two. The policy wrote two, and the row has one."""
    monkeypatch.chdir(tmp_path)
    samples = samples_of([("caf\u00e9?", ["cafe\u0301", "tea"])])
    Path("l.jsonl").write_text(json.dumps({"prompt": "cafe\u0301?", "chosen": "tea", "rejected": "caf\u00e9", "round": 0}) + "\n")
    for source, labeled in (("pairs.jsonl", 1), ("embedded", 0)):
        words = (*MIXTURE, "labeler.path=l.jsonl", f"data.source={source}")
        run = make_run(tmp_path / source, samples, labeled_by=words)
        write_wanted(run, [asked_about(*samples)])
        assert queue_of(run).labeled == labeled
    assert not queue_of(run).by_rater()


def asked_about(first, second):
    """A row of the label stage's question about two samples."""
    return {"prompt": first.prompt, "ids": [first.id, second.id], "completions": [first.completion, second.completion]}


@pytest.mark.parametrize("wrong", [{"better": 1}, {"tie": "no"}, {"round": 3}, {"confidence": 7}])
@pytest.mark.parametrize("file", ["labels/loop-label-round-000.jsonl", "labels/theirs.jsonl"])
def test_rows_that_the_run_cannot_use_are_no_labels(tmp_path, monkeypatch, file, wrong):
    """With `labeler.bad_rows=skip`, the run would wait for a pair that nobody is asked about again."""
    monkeypatch.chdir(tmp_path)
    run = make_run(
        tmp_path / "x",
        plain_samples(2),
        "labeler.bad_rows=skip",
        labeled_by=("labeler.kind=preferences-file", "labeler.path=labels/*.jsonl"),
    )
    first, second = asked_in(run).pairs
    good, bad = ({"chosen_id": pair.answers[0].id, "rejected_id": pair.answers[1].id, "rater": "ann"} for pair in (first, second))
    (tmp_path / "labels").mkdir()
    (tmp_path / file).write_text(json.dumps(good) + "\n" + json.dumps(bad | wrong) + "\n")
    queue = queue_of(run)
    assert queue.labeled == 1 and queue.next("ann") == second
    assert queue.answer("ann", second.name, "left") and queue.labeled == 2


@pytest.mark.parametrize("wrong", ['"comment": "half of \\ud83d"', '"tie": true, "tie": false', '"comment": NaN'])
def test_lines_that_the_run_refuses_are_no_labels_in_the_page_s_own_file(tmp_path, monkeypatch, wrong):
    """Python would read them. The first one would also end an export as CSV."""
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "x", plain_samples(1))
    first, second = (answer.id for answer in asked_in(run).pairs[0].answers)
    (tmp_path / "labels").mkdir()
    line = f'{{"chosen_id": "{first}", "rejected_id": "{second}", {wrong}}}\n'
    (tmp_path / "labels" / "round-0.jsonl").write_text(line)
    assert queue_of(run).labeled == 0
    assert [type(row) for _, row in read_labels(tmp_path / "labels" / "round-0.jsonl")] == [BadRow]
