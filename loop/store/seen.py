"""The state of a run as somebody sees it who only reads. Must never import torch or Ray."""

from collections.abc import Sequence

from loop.store.journal import Event, RunState, fold
from loop.store.layout import RunFolder
from loop.store.lock import is_locked


def seen_state(folder: RunFolder, events: Sequence[Event]) -> RunState:
    """What the events of a run's journal add up to. A run that no process works on was interrupted, and its stage with it, whatever its
    journal says."""
    state = fold(events)
    if state.state == "running" and not is_locked(folder.path):
        return fold([*events, Event(event="interrupted", message=state.message)])
    return state
