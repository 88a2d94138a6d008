"""What all selectors have in common, on a tiny backbone."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from configs.errors import UserError
from configs.judging import FeatureGroup, SelectorName
from configs.schema import SelectConfig
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from rewards import selectors
from rewards.comparisons import Answer, Comparison, Sample, group_candidates
from rewards.rules import RULES
from rewards.scoring import Scorer
from rewards.selectors import SELECTORS, Candidates, SelectTask, Tools, group_samples
from rewards.selectors.choosing import choose
from rewards.selectors.features import FEATURES, make_examples
from tests.conftest import perturb

GROUPS = [
    Candidates("p0", "mango?", "", [Answer("mango?", text, True) for text in ("It is yellow.", "It is blue. It is blue.", "green")]),
    Candidates("p1", "sky?", "", [Answer("sky?", text, finished) for text, finished in (("blue", True), ("", False))]),
]
MINE = """
CALLS = []


def score(answers):
    CALLS.append([answer.completion for answer in answers])
    return [-len(answer.completion) for answer in answers]


def too_few(answers):
    return [1.0]
"""


@pytest.fixture
def task(backbone):
    for name in ("sft", "reward"):
        backbone.add_adapter(name)
        perturb(backbone, name)
    tools = Tools(backbone, Scorer(backbone, "reward", torch.linspace(-1, 1, backbone.hidden_size)[None]), RULES)
    rows = [Comparison("p0", "mango?", "green", "It is yellow."), Comparison("p0", "mango?", "green", "It is blue. It is blue.")]
    examples = make_examples(tools, GROUPS, rows, list(FEATURES), 1.0)
    return SelectTask(tools, group_candidates(rows), examples, SelectConfig(), 1.0, Checkpoints(), report_nothing, seed=5)


def test_the_schema_knows_the_same_names():
    assert set(get_args(SelectorName)) == SELECTORS.keys() and set(get_args(FeatureGroup)) == FEATURES.keys()


@pytest.mark.parametrize("kind", SELECTORS)
def test_a_selector_that_is_saved_and_loaded_gives_the_same_scores(task, kind, tmp_path):
    made = selectors.fit(kind, task)
    scores = made.score(GROUPS)
    assert [len(of_group) for of_group in scores] == [3, 2]
    assert [len(made.reasons(group)) for group in GROUPS] == [3, 2]
    folder = tmp_path / selectors.folder_of(kind)
    folder.mkdir()
    made.save(folder)
    loaded = selectors.load(tmp_path, kind, replace(task.tools, measured={}))
    assert loaded.score(GROUPS) == [pytest.approx(of_group, abs=1e-5) for of_group in scores]


@pytest.mark.parametrize(("kind", "favourites"), [("rules", ["It is yellow.", "blue"]), ("longest", ["It is blue. It is blue.", "blue"])])
def test_simple_selectors_by_hand(task, kind, favourites):
    """A repetition is one defect; an empty answer that is cut off has two. Of equal candidates the first is chosen."""
    choices = choose(selectors.fit(kind, task), GROUPS)
    assert [choice.answer.completion for choice in choices] == favourites
    if kind == "rules":
        assert [(choice.score, choice.runner_up) for choice in choices] == [(0.0, 0.0), (0.0, -2.0)]
        assert selectors.fit(kind, task).reasons(GROUPS[1])[1] == {"empty": -1.0, "missing_end": -1.0}


def test_the_reward_model_of_the_tools_is_asked(task):
    """The same selector with another reward model: here, with the opposite one."""
    selector = selectors.fit("reward-model", task)
    reward = task.tools.reward
    opposite = replace(task.tools, reward=Scorer(task.tools.backbone, "reward", -reward.head), measured={})
    assert selector.score(GROUPS)[0] == pytest.approx(reward.score_answers(GROUPS[0].answers), abs=1e-5)
    assert selector.using(opposite).score(GROUPS)[0] == pytest.approx([-x for x in selector.score(GROUPS)[0]], abs=1e-5)


def test_chance_depends_on_the_seed_and_the_prompt(task):
    one, again, other = (selectors.fit("random", replace(task, seed=seed)).score(GROUPS) for seed in (1, 1, 2))
    assert one == again != other and one[0][:2] != one[1]


def test_a_function_gets_the_candidates_of_one_prompt_in_a_call(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    selector = selectors.fit("mine.py:score", task)
    assert selector.score(GROUPS) == [[-13.0, -23.0, -5.0], [-4.0, 0.0]]
    assert selector.function.__wrapped__.__globals__["CALLS"] == [[a.completion for a in group.answers] for group in GROUPS]
    assert selectors.load(tmp_path, "mine.py:score", task.tools).score(GROUPS[1:]) == [[-4.0, 0.0]]
    with pytest.raises(UserError, match="it gave 1 scores for 3 answers"):
        selectors.fit("mine.py:too_few", task).score(GROUPS)


def test_candidates_are_the_samples_of_a_prompt_and_what_labels_bring():
    samples = [
        Sample(f"{p}{k}", p, f"{p}?", text, True, 0, k) for p, k, text in (("a", 0, "x"), ("b", 0, "y"), ("a", 1, "x"), ("a", 2, "z"))
    ]
    labels = [Comparison("b", "b?", "y", "w", rejected_finished=False), Comparison("c", "c?", "1", "2", source="mail")]
    found = group_samples(samples, labels)
    assert [(g.prompt_id, [a.completion for a in g.answers]) for g in found] == [
        ("a", ["x", "x", "z"]),
        ("b", ["y", "w"]),
        ("c", ["1", "2"]),
    ]
    assert found[1].answers[1] == Answer("b?", "w", False) and found[2].source == "mail"


def test_a_choice_says_what_was_chosen():
    class Fixed:
        def score(self, groups):
            return [[1.0, 3.0, 2.0], [0.5]]

        def reasons(self, group):
            return [{"number": float(k)} for k in range(len(group.answers))]

    alone = Candidates("p2", "sea?", "mail", [Answer("sea?", "salty", True)])
    first, second = choose(Fixed(), [GROUPS[0], alone])
    assert (first.number, first.score, first.runner_up, first.reasons) == (1, 3.0, 2.0, {"number": 1.0})
    assert second.row() == {
        "prompt_id": "p2",
        "prompt": "sea?",
        "source": "mail",
        "completion": "salty",
        "finished": True,
        "score": 0.5,
        "runner_up": None,
        "reasons": {"number": 0.0},
    }
