"""What `loop dashboard` says of runs that are running, of others, and where there are several."""

import pytest

from loop.commands.main import main
from loop.store.journal import Journal
from loop.store.layout import RunFolder
from loop.store.lock import one_writer
from loop.store.progress import ProgressFile

DASHBOARD, METRICS = "http://127.0.0.1:8265", "http://127.0.0.1:9999/metrics"


@pytest.fixture
def run(tmp_path):
    """A run in the middle of PPO, which has started Ray."""
    run = RunFolder(tmp_path / "x")
    work = run.work("policy", 0)
    work.path.mkdir(parents=True)
    journal = Journal(run.journal)
    journal.append("run_started", num_rounds=2, dashboard=DASHBOARD, prometheus=METRICS)
    journal.append("stage_started", round=0, stage="policy")
    ProgressFile(work.progress).write(3, 40)
    return run


def dashboard(run, capsys, *words, exit_code=0):
    assert main(["dashboard", "--runs", str(run.path.parent), *words]) == exit_code
    return "".join(capsys.readouterr())


def test_a_running_run_has_addresses_and_a_way_to_log_in(run, capsys):
    with one_writer(run.path):
        said = dashboard(run, capsys)
        assert said.splitlines()[0] == "x is running round-000/policy, 3 of 40"
        assert DASHBOARD in said and METRICS in said and "`ray get-auth-token`" in said
        assert dashboard(run, capsys, "x") == said


def test_a_run_that_is_not_running_has_none(run, capsys):
    assert "no run is running, so there is no dashboard" in dashboard(run, capsys, exit_code=2)
    assert "the run 'x' is not running" in dashboard(run, capsys, "x", exit_code=2)


def test_a_run_that_has_not_started_ray_says_so(run, capsys):
    Journal(run.journal).append("run_started", num_rounds=2)
    with one_writer(run.path):
        assert "has not started Ray" in dashboard(run, capsys, exit_code=2)


def test_a_run_of_an_experiment_is_found(run, capsys):
    of_experiment = RunFolder(run.path.parent / "arms" / "a-seed-0")
    of_experiment.path.mkdir(parents=True)
    Journal(of_experiment.journal).append("run_started", num_rounds=2, dashboard=DASHBOARD)
    with one_writer(of_experiment.path):
        assert dashboard(run, capsys).startswith("a-seed-0 is running") and DASHBOARD in dashboard(run, capsys, "arms/a-seed-0")
        with one_writer(run.path):
            assert "several runs are running: x, arms/a-seed-0" in dashboard(run, capsys, exit_code=2)


def test_one_of_several_has_to_be_named(run, capsys):
    other = RunFolder(run.path.with_name("y"))
    other.path.mkdir()
    Journal(other.journal).append("run_started", num_rounds=2, dashboard="http://127.0.0.1:8266")
    with one_writer(run.path), one_writer(other.path):
        assert "several runs are running: x, y" in dashboard(run, capsys, exit_code=2)
        assert "http://127.0.0.1:8266" in dashboard(run, capsys, "y")
