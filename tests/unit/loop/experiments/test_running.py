"""`loop experiment` from words to exit code, on runs whose stages compute nothing: what is made, what is copied, what is written."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from configs.errors import Stopped
from loop.commands.main import main
from loop.experiments.tables import write_markdown
from loop.store.upkeep import verify
from tests.unit.loop.fake_executor import FakeExecutor

FILE = """
rounds: 2
seeds: [0, 1, 2]
arms:
  a: {}
  b: {rounds: 1, retrain.data: last}
compare: [[a, b]]
metrics:
  - {path: evaluate.gold, rounds: all}
"""
GOLD = {
    ("concat", 0): (1.0, 2.0),
    ("concat", 1): (1.5, 2.3),
    ("concat", 2): (2.0, 2.6),
    ("last", 0): (1.9,),
    ("last", 1): (2.0,),
    ("last", 2): (2.1,),
}
"""Gold by `retrain.data`, seed and round."""
KL = {"concat": 0.5, "last": 0.25}


class MeasuringExecutor(FakeExecutor):
    """Reports GOLD and KL. `made` says the run too. Raises `Stopped` instead of making its `stops_at`-th stage."""

    def __init__(self, stops_at: int | None = None):
        super().__init__()
        self.stops_at = stops_at

    def run(self, name, request, on_wait):
        if len(self.made) == self.stops_at:
            raise Stopped("asked")
        config, run = request["config"], Path(request["work"]).parents[1].name
        data = config["retrain"]["data"]
        self.content = data if request["stage"] == "retrain" else "the same"  # so that what follows `retrain` differs by arm
        metrics = super().run(name, request, on_wait)
        self.made[-1] = f"{run}: {name}"
        if request["stage"] == "evaluate":
            gold, kl = GOLD[data, config["seed"]][request["round"]], KL[data] + request["round"]
            metrics = {"gold": {"mean": gold, "standard_error": 0.1}, "kl": {"mean": kl, "standard_error": 0.1}}
        return metrics


@pytest.fixture
def experiment(tmp_path, monkeypatch, capsys):
    """Type `loop experiment` in the test's own folder. Returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(FILE)

    def run(executor, *words):
        monkeypatch.setattr("loop.commands.experiment.executor_for", lambda config, folder: nullcontext(executor))
        code = main(["experiment", "x.yaml", *words])
        return code, *capsys.readouterr()

    return run


def results(tmp_path):
    return json.loads((tmp_path / "runs" / "x" / "results.json").read_text())


def test_every_stage_is_made_once(experiment, tmp_path):
    """Arm b has other settings from `retrain` on, but `keep` reads only what is the same. Another seed shares `base` and, as the data are
    the same here, `filter`."""
    executor = MeasuringExecutor()
    assert experiment(executor)[0] == 0
    by_run: dict[str, list[str]] = {}
    for line in executor.made:
        run, name = line.split(": ")
        by_run.setdefault(run, []).append(name)
    late = [f"round-000/{name}" for name in ("retrain", "select", "evaluate")]
    assert all(by_run[f"b-seed-{seed}"] == late for seed in (0, 1, 2))
    # 5 stages before round 0 and 2 x 9; a later seed without base and filter.
    assert [len(by_run[f"a-seed-{seed}"]) for seed in (0, 1, 2)] == [23, 21, 21]
    for run in by_run:
        assert verify(tmp_path / "runs" / "x" / run)[0] == []


def test_the_differences_are_paired_by_seed(experiment, tmp_path):
    """Last round: 2.0 - 1.9, 2.3 - 2.0, 2.6 - 2.1 = 0.1, 0.3, 0.5: mean 0.3, error 0.2 / sqrt(3) = 0.11547, t = 4.30265, so 0.3 -+ 0.49683.
    Round 0: -0.9, -0.5, -0.1: mean -0.5, standard deviation 0.4, error 0.23094, -0.5 -+ 0.99366. Arm b has no round 1."""
    assert experiment(MeasuringExecutor())[0] == 0
    rows = {row["round"]: row for row in results(tmp_path)["differences"]}
    assert set(rows) == {0, "last"}
    expected = {"last": (0.3, 0.11547, -0.19683, 0.79683), 0: (-0.5, 0.23094, -1.49366, 0.49366)}
    for at, numbers in expected.items():
        row = rows[at]
        assert (row["mean"], row["standard_error"], row["low"], row["high"]) == pytest.approx(numbers, abs=1e-5)
        assert (row["arm"], row["minus"], row["count"]) == ("a", "b", 3)
    assert rows["last"]["positive"] == 3 and rows["last"]["kl"] == {"a": 1.5, "b": 0.25}
    assert rows[0]["positive"] == 0 and rows[0]["kl"] == {"a": 0.5, "b": 0.25}


def test_the_tables_are_printed_and_written(experiment, tmp_path):
    code, out, err = experiment(MeasuringExecutor())
    assert code == 0 and not err
    text = (tmp_path / "runs" / "x" / "results.md").read_text()
    # Arm a: 2.0, 2.3, 2.6 has mean 2.3, standard deviation 0.3, error 0.3 / sqrt(3) = 0.173. Arm b: 1.9, 2.0, 2.1, error 0.058.
    for row in (
        "| a | 2 | 2.300 ± 0.173 |",
        "| b | 1 | 2.000 ± 0.058 |",
        "| a | 1.500 ± 0.289 | 2.300 ± 0.173 |",
        "| b | 2.000 ± 0.058 | - |",
        "| a - b | evaluate.gold | 0 | -0.500 | 0.231 | -1.494 to +0.494 | 0 of 3 | 0.50 and 0.25 |",
        "| a - b | evaluate.gold | last | +0.300 | 0.115 | -0.197 to +0.797 | 3 of 3 | 1.50 and 0.25 |",
        "| b | 1 | retrain.data=last |",
    ):
        assert row in text, row
    assert "$ loop experiment x.yaml\n" in text
    for cell in ("2.300 ± 0.173", "-0.197 to +0.797", "1.50 and 0.25", "results.md"):
        assert cell in out, cell


def test_a_setting_of_several_lines_is_in_one_row(tmp_path):
    arms = {"other": {"kind": "rounds", "rounds": 2, "changes": {"judge.template": "Q: {prompt}\n\nA|{a}\n"}}}
    results = {"experiment": "x", "command": "loop", "seeds": [0], "all_seeds": [0], "arms": arms, "means": [], "differences": []}
    write_markdown(tmp_path, results)
    assert "| other | 2 | judge.template=Q: {prompt} A\\|{a} |" in (tmp_path / "results.md").read_text().splitlines()


def test_the_same_command_resumes(experiment, tmp_path, monkeypatch):
    """Stopped once in each run in turn, and then left alone: every stage is made once in all, and the results are those of one go."""
    whole = MeasuringExecutor()
    assert experiment(whole, "--runs", "whole")[0] == 0
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "another cache"))
    made = []
    for stops_at in (3, 17, 2, 9, 10):
        executor = MeasuringExecutor(stops_at)
        code, _, err = experiment(executor)
        assert code == 130 and "the same command continues" in err
        made += executor.made
    last = MeasuringExecutor()
    assert experiment(last)[0] == 0 and last.made
    assert made + last.made == whole.made
    for name in ("results.json", "results.md"):
        one_go = (tmp_path / "whole" / "x" / name).read_text().replace(" --runs whole", "")
        assert (tmp_path / "runs" / "x" / name).read_text() == one_go
    done = MeasuringExecutor()
    code, out, _ = experiment(done)
    assert code == 0 and done.made == [] and "3 of 3" in out


def test_results_are_written_whenever_a_seed_is_done(experiment, tmp_path):
    """The first seed has 21 + 3 stages. The run is stopped in the second."""
    assert experiment(MeasuringExecutor(stops_at=30))[0] == 130
    found = results(tmp_path)
    assert found["seeds"] == [0] and found["all_seeds"] == [0, 1, 2]
    assert [(row["mean"], row["low"]) for row in found["differences"] if row["round"] == "last"] == [(pytest.approx(0.1), None)]
    assert "over 1 of 3 seeds" in (tmp_path / "runs" / "x" / "results.md").read_text()


def test_an_arm_that_changes_is_refused_before_anything_runs(experiment, tmp_path):
    assert experiment(MeasuringExecutor(stops_at=8))[0] == 130
    (tmp_path / "x.yaml").write_text(FILE.replace("a: {}", "a: {ppo.num_updates: 9}"))
    executor = MeasuringExecutor()
    code, _, err = experiment(executor)
    assert code == 2 and "ppo.num_updates: 80 there, 9 now" in err and "another name" in err and executor.made == []


def test_more_seeds_and_more_rounds_continue_what_is_there(experiment, tmp_path):
    assert experiment(MeasuringExecutor(), "--seeds", "0")[0] == 0
    executor = MeasuringExecutor()
    assert experiment(executor)[0] == 0
    assert {line.split(":")[0] for line in executor.made} == {"a-seed-1", "b-seed-1", "a-seed-2", "b-seed-2"}


def test_a_metric_that_no_run_has_is_named_after_the_first_seed(experiment, tmp_path):
    (tmp_path / "x.yaml").write_text(FILE.replace("evaluate.gold", "evaluate.length"))
    code, _, err = experiment(MeasuringExecutor())
    assert code == 2 and "no run has a number at 'evaluate.length'" in err and "evaluate has: gold, kl" in err
    (tmp_path / "x.yaml").write_text(FILE)
    assert experiment(MeasuringExecutor())[0] == 0  # nothing is lost


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("compare: [[a, c]]", "`compare` names an arm that does not exist: 'c'"),
        ("base: {ppo.kl_coeficient: 1}", "did you mean 'ppo.kl_coefficient'?"),
        ("metrics: [evaluate.glod]", "did you mean 'gold'?"),
        ("base: {labeler.kind: preferences-file, labeler.path: x.jsonl, data: nothere.jsonl}", "the data file does not exist"),
        ("base: {evaluate.rules: ['mine.py:rule']}", "mine.py"),
    ],
)
def test_bad_input_is_one_message_before_anything_runs(experiment, tmp_path, wrong, message):
    key = wrong.partition(":")[0]
    kept = [line for line in FILE.splitlines() if not line.startswith((f"{key}:", *(["  - "] if key == "metrics" else [])))]
    (tmp_path / "x.yaml").write_text("\n".join([*kept, wrong]))
    executor = MeasuringExecutor()
    code, out, err = experiment(executor)
    assert code == 2 and message in err and err.count("error:") == 1 and not out
    assert executor.made == [] and not (tmp_path / "runs").exists()


def test_a_run_of_the_same_name_is_left_alone(experiment, tmp_path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "journal.jsonl").touch()
    code, _, err = experiment(MeasuringExecutor())
    assert code == 2 and "there is a run 'x'" in err and [path.name for path in (tmp_path / "runs" / "x").iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("words", [["--seeds", "-1"], ["--seeds", "a"], ["seed=3"], ["seeds=3"]])
def test_words_that_are_wrong(experiment, words):
    executor = MeasuringExecutor()
    code, _, err = experiment(executor, *words)
    assert code == 2 and "to do:" in err and executor.made == []
