"""What trackers are told: by a tracker that only remembers, and by the libraries themselves where they are installed."""

import os
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest

from configs import UserError, load_config
from configs.errors import LoopError, Stopped, WaitingForLabels
from loop.commands.main import main
from loop.masking import MASK, MaskedLog, masked, secrets_here
from loop.store.layout import RunFolder, StageWork
from loop.store.progress import ProgressFile
from loop.trackers import check_installed, libraries
from loop.trackers.tracking import figures
from tests.unit.loop.fake_executor import FakeDriver, FakeExecutor

GOLD = {0: 1.5, 1: 2.25}


class Reporting(FakeExecutor):
    """PPO reports two updates, and `evaluate` has measured something."""

    def run(self, name, request, on_wait):
        progress, metrics = StageWork(Path(request["work"])).progress, super().run(name, request, lambda: None)
        if request["stage"] == "policy":
            for update in (1, 2):
                ProgressFile(progress).write(update, 2, {"objective/kl": 0.5 * update})
                on_wait()
                on_wait()  # nothing new since then
        if request["stage"] == "evaluate":
            metrics = {"gold": {"mean": GOLD[request["round"]], "standard_error": 0.1, "count": 8}, "defects": {"empty": 0.25}}
        return metrics


class Remembering:
    """A tracker that keeps what it was told. `fails`: what it refuses to take."""

    module = "json"
    fails = ""
    told: list

    @classmethod
    def start(cls, config, folder):
        cls.told = [] if not hasattr(cls, "told") else cls.told
        return cls()

    def round(self, round_number, values):
        if any(name.startswith(self.fails or "\0") for name in values):
            raise ConnectionError("no\nroute")
        self.told.append((round_number, values))

    def step(self, place, stage, step, values):
        self.told.append((place, step, values))

    def close(self, ending):
        self.told.append(f"closed: {ending}")


@pytest.fixture
def tracker(monkeypatch):
    class Own(Remembering):
        pass

    monkeypatch.setitem(libraries.LIBRARIES, "tensorboard", Own)
    return Own


def driver(folder, num_rounds=1, report_to="tensorboard"):
    return FakeDriver(folder, f"report_to=[{report_to}]", num_rounds=num_rounds, executor=Reporting())


def test_steps_while_a_stage_runs_and_figures_when_it_is_finished(tmp_path, tracker):
    driver(tmp_path / "x").execute()
    steps = [told for told in tracker.told if len(told) == 3]
    assert steps == [("round-000", 1, {"policy/objective/kl": 0.5}), ("round-000", 2, {"policy/objective/kl": 1.0})]
    (evaluate,) = [values for r, values in (told for told in tracker.told if len(told) == 2) if "evaluate/gold" in values]
    assert evaluate.pop("evaluate/seconds") >= 0 and evaluate == {"evaluate/gold": 1.5, "evaluate/defects/empty": 0.25}
    assert tracker.told[-1] == "closed: done"


def test_a_finished_stage_is_told_once_and_a_tracker_that_is_added_later_is_told_all(tmp_path, tracker):
    driver(tmp_path / "x", report_to="").execute()
    driver(tmp_path / "x", num_rounds=2).execute()
    rounds = [told[0] for told in tracker.told if len(told) == 2 and "evaluate/gold" in told[1]]
    assert rounds == [0, 1]
    before = len(tracker.told)
    driver(tmp_path / "x", num_rounds=2).execute()  # it is done, so no tracker is started
    assert len(tracker.told) == before
    FakeDriver(tmp_path / "x", "report_to=[tensorboard]", num_rounds=3, executor=FakeExecutor()).execute()
    assert sum("evaluate/gold" in told[1] for told in tracker.told if len(told) == 2) == 2


def test_a_tracker_that_fails_does_not_stop_the_run(tmp_path, tracker):
    tracker.fails = "sft"
    run = driver(tmp_path / "x")
    run.execute()
    (said,) = [line for line in run.terminal.lines if "tensorboard" in line]
    assert said == "tensorboard has failed and is told nothing more: ConnectionError: no route"
    assert run.journal.state().state == "done" and not any("policy/seconds" in told[1] for told in tracker.told if len(told) == 2)


def test_a_tracker_that_does_not_start_is_refused_before_anything_is_made(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr(tracker, "start", classmethod(lambda cls, config, folder: 1 / 0))
    run = driver(tmp_path / "x")
    with pytest.raises(UserError, match="tensorboard does not start: division by zero"):
        run.execute()
    assert run.made == []


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (KeyboardInterrupt, "stopped"),
        (Stopped, "stopped"),
        (WaitingForLabels, "stopped"),
        (LoopError, "failed"),
        (ZeroDivisionError, "failed"),
    ],
)
def test_a_tracker_is_told_how_the_run_has_ended(tmp_path, tracker, monkeypatch, error, ending):
    run = driver(tmp_path / "x")
    monkeypatch.setattr(run.executor, "run", Mock(side_effect=error))
    with pytest.raises((LoopError, ZeroDivisionError)):
        run.execute()
    assert tracker.told == [f"closed: {ending}"]


def test_mlflow_has_its_own_words_for_how_a_run_ends():
    client = Mock()
    for ending, status in (("done", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")):
        libraries.MLflow(client, "id").close(ending)
        client.set_terminated.assert_called_with("id", status)


def test_mlflow_is_given_names_that_it_takes(tmp_path, monkeypatch):
    """A rater may be called by an address, and MLflow would refuse the run because of the `@`."""
    pytest.importorskip("mlflow")
    client = Mock()
    client.create_run.return_value.info.run_id = "id"
    monkeypatch.setattr("mlflow.tracking.MlflowClient", lambda uri: client)
    libraries.MLflow.start(load_config(overrides=["labeler.rater_weights={ann@x.org: 2}"]), tmp_path)
    assert ("id", "labeler.rater_weights.ann_x.org", "2.0") in [call.args for call in client.log_param.call_args_list]


def test_no_secret_gets_into_the_log_or_the_terminal(tmp_path, tracker, monkeypatch):
    """A library prints a key in two parts, has a password in an address, in a setting and in a header, and fails with the key. Of the
    judge's and the translator's, only the settings say that they are secrets."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("JUDGE", "judges-secret")
    monkeypatch.setenv("TRANSLATOR", "translators-secret")
    monkeypatch.setenv("SHORT_KEY", "on")  # an ordinary word

    def print_all(self, round_number, values):
        print("key ", end="")
        print("01234567", end="")
        print("89abcdef on", file=sys.stdout)
        print("https://user:p@ss/word@host:5000/api, and judges-secret, translators-secret", file=sys.stderr)
        print("password='hunter2!' Authorization: Bearer eyJhbGciOi, half of \ud83d", end="")
        raise ConnectionError("0123456789abcdef is refused by http://user:other@host/x")

    monkeypatch.setattr(tracker, "round", print_all)
    words = ("report_to=[tensorboard]", "judge.key_variable=JUDGE", "pivot.key_variable=TRANSLATOR")
    run = FakeDriver(tmp_path / "x", *words, num_rounds=1, executor=Reporting())
    run.execute()
    assert RunFolder(tmp_path / "x").tracker_log.read_text().splitlines() == [
        "key *** on",
        "https://***@host:5000/api, and ***, ***",
        "password='***' Authorization: Bearer ***, half of \\ud83d",
    ]
    (said,) = [line for line in run.terminal.lines if "tensorboard" in line]
    assert said.endswith("ConnectionError: *** is refused by http://***@host/x")


@pytest.mark.parametrize("name", ["token", "aws_secret_access_key", "AccountKey", "api-key", "passwd", "client_secret"])
def test_what_follows_the_name_of_a_secret_is_masked(name):
    assert masked(f"{name}=hf_abc max_tokens=5", []) == f"{name}={MASK} max_tokens=5"


def test_which_variables_hold_secrets(monkeypatch):
    names = ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "OTHER")
    monkeypatch.setattr(os, "environ", {name: f"value of {name}" for name in names})
    assert secrets_here(["OTHER", "NOT_SET"]) == [
        "value of MLFLOW_TRACKING_PASSWORD",
        "value of AWS_SECRET_ACCESS_KEY",
        "value of HF_TOKEN",
        "value of OTHER",
    ]


def test_a_log_of_secrets_is_as_good_as_a_file(tmp_path):
    """Libraries ask what kind of stream it is: bytes are refused, as by any text file."""
    with (tmp_path / "log").open("w") as file, closing(MaskedLog(file, ["secret"])) as log:
        with pytest.raises(TypeError):
            log.write(b"")
        assert log.writable() and not log.isatty() and log.write("a\nb") == 3
        log.flush()
        assert (tmp_path / "log").read_text() == "a\n"  # the rest of the line may be the beginning of a secret
    assert (tmp_path / "log").read_text() == "a\nb"
    with pytest.raises(ValueError, match="closed"):
        log.write("c")


def test_a_missing_library_is_one_message(tmp_path, monkeypatch, capsys):
    """Before the run starts: no directory is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(libraries.TensorBoard, "module", "no_such_library")
    assert main(["run", "report_to=[tensorboard]"]) == 2
    said = capsys.readouterr().err
    assert "report_to names tensorboard, which is not installed" in said and "pip install 'loop-rlhf[tensorboard]'" in said
    assert not (tmp_path / "runs").exists()


def test_every_tracker_of_the_config_has_a_library_and_an_extra():
    names = load_config(overrides=["report_to=[tensorboard, trackio, wandb, mlflow]"]).report_to
    assert set(names) == set(libraries.LIBRARIES)
    project = (Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{name} = [" in project for name in names)


def test_report_to_changes_no_key(tmp_path, tracker):
    """A tracker may be added to a run that exists, or taken away."""
    run, other = FakeDriver(tmp_path / "x"), driver(tmp_path / "y")
    run.execute()
    other.execute()
    keys = [[row.committed.key for _, _, row in one.journal.state().stages()] for one in (run, other)]
    assert keys[0] == keys[1]


def test_names_of_figures():
    assert figures("select", {"judged": {"model": {"pairwise": {"accuracy": 0.5, "standard_error": 0.1, "pairs": 4}}}, "groups": 3}) == {
        "select/judged/model.pairwise": 0.5,
        "select/groups": 3.0,
    }


# -- the libraries --------------------------------------------------------------------------------------------------------


def test_event_files_are_read_back_by_tensorboard(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    driver(tmp_path / "x", num_rounds=2).execute()
    folder = RunFolder(tmp_path / "x").tracker("tensorboard")

    def curve(place, name):
        found = accumulators.EventAccumulator(str(folder / place))
        found.Reload()
        return [(int(tensor.step), round(float(tensor.tensor_proto.float_val[0]), 6)) for tensor in found.Tensors(name)]

    assert curve("rounds", "evaluate/gold") == [(0, 1.5), (1, 2.25)]
    assert curve("round-000", "policy/objective/kl") == curve("round-001", "policy/objective/kl") == [(1, 0.5), (2, 1.0)]


@pytest.mark.slow  # it makes a database with all tables of mlflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow 3.17 uses what sqlalchemy 2.1 will remove
def test_a_run_of_mlflow_is_read_back(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    driver(tmp_path / "x", report_to="mlflow").execute()
    driver(tmp_path / "x", num_rounds=2, report_to="mlflow").execute()  # it goes on with the same run of MLflow
    folder = RunFolder(tmp_path / "x").tracker("mlflow")
    client = tracking.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "loop"]
    (run,) = client.search_runs([experiment.experiment_id])
    gold = client.get_metric_history(run.info.run_id, "evaluate/gold")
    assert [(metric.step, metric.value) for metric in gold] == [(0, 1.5), (1, 2.25)]
    kl = client.get_metric_history(run.info.run_id, "round-001/policy/objective/kl")
    assert [(metric.step, metric.value) for metric in kl] == [(1, 0.5), (2, 1.0)]
    assert run.data.params["ppo.kl_coefficient"] == str(load_config().ppo.kl_coefficient) and run.info.status == "FINISHED"


def test_what_is_installed_is_not_refused(tracker):
    check_installed(load_config(overrides=["report_to=[tensorboard]"]), "report_to")


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    driver(tmp_path / "x", report_to="wandb").execute()
    folder = RunFolder(tmp_path / "x").tracker("wandb")
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_a_run_of_trackio_is_read_back(tmp_path, monkeypatch):
    if find_spec("trackio") is None:  # it reads the variable when it is imported
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    driver(tmp_path / "x", report_to="trackio").execute()
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("loop", "x")
    assert [row["evaluate/gold"] for row in rows if "evaluate/gold" in row] == [1.5]
    assert [(row["step"], row["round-000/policy/objective/kl"]) for row in rows if "round-000/policy/objective/kl" in row] == [
        (1, 0.5),
        (2, 1.0),
    ]
