"""What the driver does with an executor that fails, and what several runs may share. No test here needs Ray."""

import json
import os
import signal
from contextlib import nullcontext

import pytest

from configs.errors import LoopError, Stopped, UserError, WaitingForLabels
from configs.loading import load_config
from configs.schema import RuntimeConfig
from loop.driver import Driver
from loop.executors.in_process import InProcess
from loop.failures import OutOfMemory, StageFailed, WorkerLost
from loop.signals import StopSignals
from loop.store.journal import fold, read_events
from loop.store.measures import find_measure
from loop.store.upkeep import verify
from tests.unit.loop.fake_executor import FakeDriver, FakeExecutor, SilentTerminal


class FailingExecutor(FakeExecutor):
    """Raises the given errors in turn when it is asked for the policy."""

    def __init__(self, *errors: BaseException):
        super().__init__()
        self.errors = list(errors)

    def run(self, name, request, on_wait):
        if name.endswith("policy") and self.errors:
            raise self.errors.pop(0)
        return super().run(name, request, on_wait)


def events(folder):
    return [event.event for event in read_events(folder / "journal.jsonl")]


def test_a_stage_continues_after_workers_are_lost(tmp_path):
    FakeDriver(tmp_path / "undisturbed").execute()
    driver = FakeDriver(tmp_path / "x", executor=FailingExecutor(*(WorkerLost("a worker died") for _ in range(3))))
    driver.execute()
    assert driver.digests() == FakeDriver(tmp_path / "undisturbed").digests()
    assert driver.journal.state().stage("policy", 0).restarts == 3
    assert [line for line in driver.terminal.lines if "continuing" in line][-1] == (
        "round-000/policy: a worker died; continuing with new workers (restart 3 of at most 3)"
    )


def test_after_too_many_lost_workers_the_run_fails_and_can_be_resumed(tmp_path):
    executor = FailingExecutor(*(WorkerLost("a worker died", "the end of Ray's log") for _ in range(4)))
    with pytest.raises(LoopError, match="a stage failed: a worker died\n  log: .*\n  the same command continues") as error:
        FakeDriver(tmp_path / "x", executor=executor).execute()
    assert error.value.exit_code == 4 and events(tmp_path / "x")[-1] == "failed"
    assert (tmp_path / "x" / "logs" / "failed-stage.log").read_text() == "the end of Ray's log"
    FakeDriver(tmp_path / "x", executor=executor).execute()
    assert events(tmp_path / "x")[-1] == "run_done" and verify(tmp_path / "x")[0] == []


def test_no_message_log_or_journal_of_a_failed_stage_has_a_secret(tmp_path, monkeypatch):
    """The variable of the judge's key is known by the setting that names it, whatever its name is."""
    monkeypatch.setenv("JUDGE", "sk-abcdefgh")
    lost = WorkerLost("a worker died at http://me:pass1234@hub")
    failed = StageFailed("HTTPError: 401 at http://me:pass1234@judge/v1", "header: sk-abcdefgh")
    driver = FakeDriver(tmp_path / "x", "judge.key_variable=JUDGE", executor=FailingExecutor(lost, failed))
    with pytest.raises(LoopError, match="401 at http") as error:
        driver.execute()
    said = [str(error.value), *driver.terminal.lines, (tmp_path / "x" / "journal.jsonl").read_text()]
    assert not any("pass1234" in text for text in said) and "a worker died at http://***@hub" in said[-1]
    assert (tmp_path / "x" / "logs" / "failed-stage.log").read_text() == "header: ***"


@pytest.mark.parametrize(
    ("error", "event", "exit_code", "words"),
    [
        (StageFailed("ValueError: no", "Traceback"), "failed", 4, "a stage failed: ValueError: no"),
        (
            OutOfMemory("torch said so"),
            "failed",
            4,
            "lower ppo.micro_batch_size (now 32), generation.batch_size (now 128) or runtime.tokens_per_batch (now 16384)",
        ),
        (UserError("too few pairs", "the data", "give more"), "failed", 2, "too few pairs"),
        (WaitingForLabels("label them"), "waiting", 3, "label them"),
        (Stopped("stopped after step 3"), "interrupted", 130, "interrupted: the same command continues"),
        (KeyboardInterrupt(), "interrupted", 130, "interrupted: the same command continues"),
        (LoopError("SafetensorError: No space left on device"), "failed", 4, "the disk is full"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_the_journal_tells_how_a_run_ended(tmp_path, error, event, exit_code, words):
    with pytest.raises(LoopError) as raised:
        FakeDriver(tmp_path / "x", executor=FailingExecutor(error)).execute()
    assert raised.value.exit_code == exit_code and words in str(raised.value)
    assert events(tmp_path / "x")[-1] == event


def test_two_runs_share_one_executor(tmp_path):
    executor = FakeExecutor()
    FakeDriver(tmp_path / "a", executor=executor).execute()
    FakeDriver(tmp_path / "b", executor=executor).execute()
    assert FakeDriver(tmp_path / "a").digests() == FakeDriver(tmp_path / "b").digests()
    assert executor.made.count("round-000/policy") == 2


def test_one_process_has_one_worker():
    with pytest.raises(UserError, match="runtime.executor=in-process has one worker"):
        load_config(overrides=["runtime.executor=in-process", "runtime.workers=2"])


# -- real stages in this process ------------------------------------------------------------------------------------------

TINY = (
    "base.pretraining_steps=2",
    "base.hidden_size=16",
    "base.num_layers=1",
    "base.num_heads=2",
    "base.vocabulary_size=500",
    "lora.rank=2",
    "data.num_pairs=128",
    "data.labeler_fraction=0.5",
    "labeler.kind=reward-model",
    "data.max_prompt_tokens=200",
    "data.max_completion_tokens=200",
    "generation.max_new_tokens=6",
    "sft.batch_size=32",
    "reward.batch_size=32",
    "reward.num_epochs=1",
    "reward.normalization_samples=8",
    "ppo.num_updates=3",
    "ppo.batch_size=8",
    "ppo.num_epochs=1",
    "sample.num_prompts=20",
    "sample.num_completions=3",
    "sample.heldout_fraction=0.4",
    "select.num_epochs=1",
    "evaluate.num_prompts=8",
)


class InterruptingTerminal(SilentTerminal):
    """Sends this process a SIGINT when the policy is a step further."""

    def stage(self, name, run="", state=None):
        def show(now):
            if name.endswith("policy") and now.done and self.interrupts:
                self.interrupts -= 1
                os.kill(os.getpid(), signal.SIGINT)

        return nullcontext(show)

    interrupts = 1


@pytest.mark.slow
def test_real_stages_run_in_this_process_and_two_runs_share_them(tmp_path, monkeypatch):
    """The second run is interrupted by Ctrl-C in the middle of PPO, and continues to the same end."""
    monkeypatch.setattr("loop.executors.in_process.POLL_SECONDS", 0.01)
    monkeypatch.setattr("loop.stages.setup.NUM_PRETRAINING_DIALOGUES", 2000)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    executor, digests = InProcess(RuntimeConfig(executor="in-process", threads=1)), {}
    try:
        for name, interrupted in (("a", False), ("b", True)):
            config = load_config(overrides=TINY, name=name, num_rounds=1)
            if interrupted:
                terminal = InterruptingTerminal()
                with StopSignals(terminal.say) as signals, pytest.raises(Stopped):
                    Driver(config, tmp_path / name, terminal, executor, signals).execute()
                assert terminal.interrupts == 0 and "finishing this step" in " ".join(terminal.lines)
            Driver(config, tmp_path / name, SilentTerminal(), executor).execute()
            assert verify(tmp_path / name)[0] == []
            digests[name] = {
                str(path.parent.relative_to(tmp_path / name)): json.loads(path.read_text())["digest"]
                for path in (tmp_path / name).glob("*/*/manifest.json")
            }
    finally:
        executor.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert digests["a"] == digests["b"] and len(digests["a"]) == 15
    metrics = [(name, set(row.metrics)) for _, name, row in fold(read_events(tmp_path / "a" / "journal.jsonl")).stages()]
    assert not [(stage, name) for stage, names in metrics for name in names if find_measure(name) is None]
    resumed = [event.resumed for event in read_events(tmp_path / "b" / "journal.jsonl") if event.stage == "policy" and event.resumed]
    assert resumed and resumed[0].startswith("step-")
