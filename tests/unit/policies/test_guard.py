"""What PPO does when its guard is alarmed, and that it does the same after it was stopped and resumed anywhere."""

from contextlib import suppress

import pytest
import torch

from configs.errors import Stopped
from policies.checkpoints import Checkpoints
from policies.guard import Guard, Look
from policies.reporting import report_nothing
from tests.unit.policies.test_checkpoints import fresh_backbone
from tests.unit.policies.test_ppo import PROMPTS, make_trainer

UPDATES, EVERY, ALARM_AT = 7, 3, 3


def alarmed(update):
    """The alarm rises in the second look, after three updates, and stays."""
    return Look(update, "it cheats" if update >= ALARM_AT else "", {"x": 1.0})


def trained(guard, checkpoints=None, report=report_nothing, updates=UPDATES):
    """The policy's tensors, the log and the guard after PPO on a new backbone."""
    trainer = make_trainer(fresh_backbone(), num_epochs=1)
    log = trainer.train([PROMPTS] * updates, checkpoints or Checkpoints(), report, guard)
    return trainer.backbone.adapter_state("policy"), log


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_workers_agree(monkeypatch):
    """A worker that sees nothing ends PPO with the main worker, which is alarmed, and one that is alarmed goes on with it."""
    for of_main, own in ((True, ""), (False, "it cheats")):
        monkeypatch.setattr("policies.guard.parallel.agree", lambda found, of_main=of_main: of_main)
        guard = Guard("stop", EVERY, lambda update, own=own: Look(update, own))
        guard.after(EVERY, False, torch.zeros(1))
        assert guard.has_ended == of_main


def test_when_it_looks():
    """After every third of seven updates, a first time after half as many, and after the last one."""
    guard = Guard("warn", EVERY, alarmed)
    trained(guard)
    assert [(look.update, bool(look.alarm)) for look in guard.looks] == [(1, False), (3, True), (6, True), (7, True)]
    assert guard.alarm.update == 3 and not guard.has_ended and guard.chosen is None
    assert not Guard().looks and Guard().alarm is None


def test_it_looks_when_the_policy_has_moved():
    """After an update whose divergence is a step beyond those of all looks so far: 0.25, then 0.45 or more. After update 10 it looks
    because it is time, so the next step ends at 0.89."""
    guard, policy = Guard("warn", 10, Look, step=0.2), torch.zeros(1)
    for update, moved in enumerate([0.1, 0.25, 0.2, 0.4, 0.1, 0.5, 0.6, 0.1, 0.5, 0.69, 0.7, 0.9], 1):
        guard.after(update, False, policy, moved)
    assert [(look.update, look.moved) for look in guard.looks] == [(2, 0.25), (5, 0.1), (6, 0.5), (10, 0.69), (12, 0.9)]
    assert not Guard("warn", 0, Look, step=0.2).looks


@pytest.mark.parametrize("action", ["warn", "best"])
def test_looks_at_a_policy_that_moves_are_the_same_after_a_resume(action, tmp_path):
    """How far it had moved at the looks before is part of a checkpoint."""

    def make():
        return Guard(action, 20, lambda update: Look(update, "it cheats" if update >= 6 else ""), step=1e-3)

    whole = make()
    expected, _ = trained(whole)
    assert 1 < len(whole.looks) < UPDATES and all(look.moved for look in whole.looks)
    stop = tmp_path / "stop"
    for _ in range(UPDATES - 1):
        with suppress(Stopped):
            trained(make(), Checkpoints(tmp_path / "checkpoints", seconds=1e6, stop=stop), lambda *_: stop.touch())
        stop.unlink(missing_ok=True)
    guard = make()
    policy, _ = trained(guard, Checkpoints(tmp_path / "checkpoints", stop=stop))
    assert same(policy, expected) and guard.looks == whole.looks


@pytest.mark.parametrize(("action", "updates", "chosen"), [("warn", 7, 7), ("stop", 3, 3), ("best", 3, 1)])
def test_what_it_does(action, updates, chosen):
    """The policy is that of PPO which was given `chosen` of the same batches and no guard. `num_updates`, on which the learning rate
    depends, is 20 in all of them."""
    guard = Guard(action, EVERY, alarmed)
    policy, log = trained(guard)
    expected, _ = trained(None, updates=chosen)
    assert len(log) == updates and same(policy, expected)
    assert guard.chosen == (None if action == "warn" else chosen)
    if action != "warn":
        further, _ = trained(None, updates=chosen + 1)
        assert not same(policy, further)


def test_an_alarm_in_the_first_look_leads_back_to_the_start():
    guard = Guard("best", EVERY, lambda update: Look(update, "it cheats"))
    policy, log = trained(guard)
    start = make_trainer(fresh_backbone(), num_epochs=1).backbone.adapter_state("policy")
    assert len(log) == 1 and guard.chosen == 0 and same(policy, start)


def test_without_an_alarm_all_updates_are_done():
    for action in ("stop", "best"):
        guard = Guard(action, EVERY, Look)
        policy, log = trained(guard)
        assert len(log) == UPDATES and guard.chosen is None and same(policy, trained(None)[0])


@pytest.mark.parametrize("action", ["warn", "stop", "best"])
def test_stopped_after_every_update_and_resumed(action, tmp_path):
    """Also where the last thing that was saved is the alarm itself: then nothing is left to do but to go back."""
    whole = Guard(action, EVERY, alarmed)
    expected, expected_log = trained(whole)
    stop, looked = tmp_path / "stop", []

    def look(update):
        looked.append(update)
        return alarmed(update)

    def report(done, total, metrics, texts=(), warning=""):
        assert warning == ("it cheats" if done >= ALARM_AT else "")
        stop.touch()

    for _ in expected_log:
        with pytest.raises(Stopped):
            trained(Guard(action, EVERY, look), Checkpoints(tmp_path / "checkpoints", seconds=1e6, stop=stop), report)
        stop.unlink()
    guard = Guard(action, EVERY, look)
    policy, log = trained(guard, Checkpoints(tmp_path / "checkpoints", stop=stop), report)
    assert same(policy, expected) and log == expected_log
    assert guard.looks == whole.looks and looked == [seen.update for seen in whole.looks] and guard.chosen == whole.chosen
