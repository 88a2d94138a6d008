"""Every metric that is shown is known, with a unit; what a running stage reports can be read while it runs."""

from loop.round import STAGES
from loop.store.measures import COUNTERS, HEADLINES, LIVE, MEASURES, RUNNING, find_measure, live, name_on_ray, numbers
from loop.store.progress import Progress, ProgressFile, read_progress


def test_every_stage_has_a_headline_of_known_metrics():
    assert HEADLINES.keys() == {stage.name for stage in STAGES}
    assert all(find_measure(name) for names in HEADLINES.values() for name in names)
    assert all(measure.meaning and measure.unit for measure in MEASURES.values())


def test_a_difference_has_the_unit_and_the_direction_of_what_is_compared():
    gold, over = MEASURES["gold"], find_measure("gold_over_sft")
    assert (over.unit, over.better, over.difference) == (gold.unit, "higher", True) and over.meaning.endswith("minus that of sft")
    assert find_measure("gold").difference is False
    assert find_measure("something") is None and find_measure("something_over_sft") is None


def test_progress_is_read_while_it_is_written(tmp_path):
    path = tmp_path / "progress.json"
    assert read_progress(path) == Progress()
    file = ProgressFile(path)
    file.write(1, 3, {"objective/kl": 0.5, "objective/scores": -1.25}, ["a text"])
    assert read_progress(path) == Progress(1, 3, {"objective/kl": 0.5, "objective/scores": -1.25}, ["a text"])
    file.write(2, 3)  # a moment later, so it is left out
    assert read_progress(path).done == 1
    file.write(3, 3, warning="it cheats")
    assert read_progress(path) == Progress(3, 3, {}, [], "it cheats")
    path.write_text('{"done": 1, "tot')
    assert read_progress(path) == Progress()


def test_the_bar_shows_the_figures_that_it_knows():
    assert live({"objective/kl": 0.5, "objective/scores": -1.25, "other": 1.0}) == "scores -1.25, kl 0.50"
    assert live({}) == "" and all(find_measure(name) for name in LIVE)


def test_the_numbers_of_metrics():
    """A summary is its mean; parts have names; what is no finite number is left out."""
    found = numbers(
        {
            "gold": {"mean": 1.5, "standard_error": 0.1, "count": 32},
            "defects": {"empty": 0.25, "mine.py:is_long": 0.0},
            "judged": {"features": {"pairwise": {"accuracy": 0.75, "standard_error": None, "pairs": 8}}},
            "normalization": {"mean": 0.5, "std": 2.0},
            "pairs": 12,
            "loss": float("nan"),
            "kl": {"mean": None, "standard_error": None, "count": 0},
            "warnings": ["late"],
            "reference": "sft",
            "is_new": True,
        }
    )
    assert list(found) == [
        ("gold", "", 1.5),
        ("defects", "empty", 0.25),
        ("defects", "mine.py:is_long", 0.0),
        ("judged", "features.pairwise", 0.75),
        ("normalization", "mean", 0.5),
        ("normalization", "std", 2.0),
        ("pairs", "", 12.0),
    ]


def test_every_metric_has_its_own_name_on_ray():
    """Ray refuses names with other letters, and two metrics of one name would be one."""
    names = [name_on_ray(name) for name in (*MEASURES, *RUNNING, *COUNTERS)]
    assert len(set(names)) == len(names) and all(name.isascii() and name.isidentifier() for name in names)
