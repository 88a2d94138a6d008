"""Labelers that choose pairs and have them judged, by the world, by scores, or by a function of the user's."""

import math
from typing import get_args

import pytest

from configs import UserError
from configs.errors import WaitingForLabels
from configs.schema import LabelerConfig
from policies.checkpoints import Checkpoints
from rewards.comparisons import Sample, win_probability
from rewards.labelers import registry as labelers
from rewards.labelers.pairs import judge_by_scores, label_by_judge
from rewards.labelers.picking import choose_pairs
from rewards.labelers.registry import LABELERS
from tests.unit.rewards.labelers.tasks import SPLIT, make_task


def samples(num_prompts=200, n=4):
    return [Sample(f"s{p}-{k}", f"p{p}", f"prompt {p}", f"answer {k}", True, 0, k) for p in range(num_prompts) for k in range(n)]


def task(asked, checkpoints=None, **settings):
    """What the label stage hands to a labeler. settings: of the labeler."""
    return make_task(asked, LabelerConfig.model_validate(settings), checkpoints=checkpoints or Checkpoints())


def test_the_law_of_the_labeler():
    """P(a is better than b) at difference 1 is 1 / (1 + e^-1) = 0.7311. 20,000 pairs have a standard error of 0.0031."""
    found = label_by_judge(task(samples(5000), pairs_per_prompt=4), judge_by_scores({s.id: float(s.k == 0) for s in samples(5000)}))
    decided = [row for row in found.comparisons if "answer 0" in (row.chosen, row.rejected)]
    assert len(decided) > 8000
    assert sum(row.chosen == "answer 0" for row in decided) / len(decided) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)
    assert win_probability(0.0) == 0.5


def test_comparisons_by_score():
    def compare():
        return label_by_judge(task(samples(), pairs_per_prompt=3), judge_by_scores({s.id: 100.0 * s.k for s in samples()})).comparisons

    found = compare()
    assert len(found) == 600
    assert all(c.chosen > c.rejected and c.generation == 0 and c.labeler == "gold" for c in found)
    assert all(c.heldout == SPLIT.holds_out(c.prompt) for c in found)
    # A fraction of 0.2 of 200 prompts has a standard error of 0.028.
    assert 0.12 < len({c.prompt_id for c in found if c.heldout}) / 200 < 0.28
    assert found == compare()


def test_equal_completions_are_not_compared():
    same = [Sample(f"s{k}", "p", "q", "one answer", True, 0, k) for k in range(4)]
    assert choose_pairs(same, 4, 0) == []


def test_the_config_knows_the_labelers_that_there_are():
    built_in, _ = get_args(LabelerConfig.model_fields["kind"].annotation)
    assert set(get_args(built_in)) == set(LABELERS)


# -- a judge of the user's ------------------------------------------------------------------------------------------------


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """A function that writes the body of `judges.py:judge`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return lambda body: (tmp_path / "judges.py").write_text(f"def judge(pairs):\n    {body}\n")


def label(num_prompts=20, checkpoints=None):
    return labelers.label(task(samples(num_prompts), checkpoints, kind="judges.py:judge", pairs_per_prompt=3))


def test_a_judge_of_the_users_decides(judge):
    judge("return [pair.first.completion > pair.second.completion for pair in pairs]")
    found = label().comparisons
    assert len(found) == 60 and all(row.chosen > row.rejected and row.labeler == "judges.py:judge" for row in found)


def test_a_judge_may_be_unsure_and_may_call_ties(judge):
    """At 0.25 the first wins about every fourth pair: 600 pairs have a standard error of 0.018."""
    judge("return [0.25] * len(pairs)")
    pairs = choose_pairs(samples(), 3, 0)
    rows = label(200).comparisons
    wins = sum(row.chosen_id == pair.first.id for row, pair in zip(rows, pairs, strict=True))
    assert wins / 600 == pytest.approx(0.25, abs=0.07)
    judge("return [None] * len(pairs)")
    heldout = label().counts()["heldout"]
    assert label().counts() | {"heldout": 0} == {
        "comparisons": 60,
        "heldout": 0,
        "ties": 60,
        "picked": {"random": 60 - heldout},
        "left_out": {},
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", "it gave 1 verdicts for 32 pairs"),
        ("pass", "it gave no verdicts but NoneType"),
        ("return ['A'] * len(pairs)", "the verdict 'A' is not a probability"),
        ("return [2.0] * len(pairs)", "the verdict 2.0 is not a probability"),
        ("return [float('nan')] * len(pairs)", "the verdict nan is not a probability"),
    ],
)
def test_verdicts_that_are_none_are_refused(judge, body, message):
    judge(body)
    with pytest.raises(UserError, match=message) as caught:
        label()
    assert caught.value.where == "judges.py:judge"


def test_a_judge_is_not_asked_twice_about_a_pair(judge, tmp_path):
    """It fails at the third of four shards. The next attempt asks it about what is left, and a new judge must not know the difference."""
    body = "from pathlib import Path; file = Path('asked'); said = file.read_text() if file.exists() else ''; "
    body += "file.write_text(said + f'{len(pairs)} '); "
    judge(body + "assert len(file.read_text().split()) < 3; return [1.0] * len(pairs)")
    with pytest.raises(AssertionError):
        label(40, Checkpoints(tmp_path / "checkpoints"))
    judge(body + "return [1.0] * len(pairs)")
    assert len(label(40, Checkpoints(tmp_path / "checkpoints")).comparisons) == 120
    assert (tmp_path / "asked").read_text().split() == ["32", "32", "32", "32", "24"]


def test_a_judge_may_have_the_run_wait(judge):
    judge("from configs.errors import WaitingForLabels; raise WaitingForLabels('ask again tomorrow')")
    with pytest.raises(WaitingForLabels, match="tomorrow"):
        label()
