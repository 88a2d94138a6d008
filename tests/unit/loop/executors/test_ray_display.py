"""Which figures of a run are served, and which steps are counted. Ray's gauges and counters are replaced by ones that remember."""

from collections import Counter

import pytest

from configs import load_config
from loop.executors import ray_display
from loop.store.layout import RunFolder
from loop.store.progress import ProgressFile


@pytest.fixture
def served(monkeypatch):
    """What gauges and counters were told since it was last cleared: (name, run, stage) -> value."""
    found = Counter()

    class Metric:
        def __init__(self, name, meaning, tags):
            self.name = name.removeprefix("loop_")

        def set(self, value, tags):
            found[self.name, tags["run"], tags["stage"]] = value

        def inc(self, value, tags):
            found[self.name, tags["run"], tags["stage"]] += value

    for name in ("Gauge", "Counter"):
        monkeypatch.setattr(ray_display, name, Metric)
    monkeypatch.setattr(ray_display, "LOOK_SECONDS", 0.0)
    return found


@pytest.fixture
def begin(tmp_path):
    """Begin a stage of a run; returns the file of its progress."""

    def run(metrics, name, stage):
        work = RunFolder(tmp_path / name).work(stage, 0)
        work.path.mkdir(parents=True, exist_ok=True)
        config = load_config(name=name).model_dump(mode="json")
        metrics.begin({"stage": stage, "round": 0, "config": config, "work": str(work.path)})
        return ProgressFile(work.progress)

    return run


def test_a_run_is_not_served_with_the_figures_of_the_run_before(served, begin):
    metrics = ray_display.RunMetrics()
    begin(metrics, "a", "sft")
    metrics.finish({"loss": 2.5})
    begin(metrics, "a", "policy")
    metrics.look()
    assert served["loss", "a", "sft"] == 2.5
    served.clear()
    begin(metrics, "b", "policy")
    metrics.finish({"loss": 1.5})
    assert served["loss", "b", "policy"] == 1.5 and ("loss", "b", "sft") not in served


def test_a_finished_stage_has_no_pace_and_waits_for_no_labels(served, begin):
    metrics = ray_display.RunMetrics()
    progress = begin(metrics, "a", "label")
    for done in (1, 3):
        progress.write(done, 4)
        progress._written = 0.0
        metrics.look()
    assert served["steps_per_second", "a", "label"] > 0 and served["labels_waiting", "a", "label"] == 1
    served.clear()
    metrics.finish({"comparisons": 3})
    assert served["comparisons", "a", "label"] == 3 and served["steps_done", "a", "label"] == 3
    assert not {name for name, _, _ in served} & set(ray_display.WHILE_RUNNING)


def test_tags_are_ascii_because_ray_takes_no_others(served, begin, monkeypatch):
    """A run on Ray whose name was in Thai failed at the end of its first stage, and so did one whose raters had Thai names."""
    told = []
    for name, method in (("Gauge", "set"), ("Counter", "inc")):
        monkeypatch.setattr(getattr(ray_display, name), method, lambda self, value, tags: told.append(tags))
    metrics = ray_display.RunMetrics()
    begin(metrics, "รัน-é", "label").write(1, 1)
    metrics.finish({"rater_accuracy": {"สมชาย": 0.9, "ann": 0.8}})
    assert all(value.isascii() for tags in told for value in tags.values())
    assert {tags["run"] for tags in told} == {r"\u0e23\u0e31\u0e19-\u00e9"}
    assert {tags["part"] for tags in told if tags.get("part")} == {r"\u0e2a\u0e21\u0e0a\u0e32\u0e22", "ann"}


@pytest.mark.parametrize(("resumes", "counted"), [(True, 10), (False, 30)])
def test_the_steps_up_to_a_checkpoint_are_not_counted_again(served, begin, tmp_path, resumes, counted):
    """Another attempt is first seen at step 20 and goes on to step 30."""
    if resumes:
        (RunFolder(tmp_path / "a").work("policy", 0).checkpoints / "train" / "step-00000020").mkdir(parents=True)
    metrics = ray_display.RunMetrics()
    progress = begin(metrics, "a", "policy")
    metrics.look()  # before the stage has told anything
    for done in (20, 30):
        progress.write(done, 40)
        progress._written = 0.0
        metrics.look()
    assert served["steps_made", "a", "policy"] == counted
