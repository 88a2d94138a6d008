"""Every metric that is shown is known, with a unit; what a running stage reports can be read while it runs."""

from loop.round import STAGES
from loop.store.measures import HEADLINES, LIVE, MEASURES, find_measure, live
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
    file.write(3, 3)
    assert read_progress(path) == Progress(3, 3, {}, [])
    path.write_text('{"done": 1, "tot')
    assert read_progress(path) == Progress()


def test_the_bar_shows_the_figures_that_it_knows():
    assert live({"objective/kl": 0.5, "objective/scores": -1.25, "other": 1.0}) == "scores -1.25, kl 0.50"
    assert live({}) == "" and all(find_measure(name) for name in LIVE)
