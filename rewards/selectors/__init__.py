"""Selectors: given a prompt's candidates, which one will be preferred? `select.kind` names one.

    listwise             an adapter and a head, trained on the comparisons of all rounds (listwise.py)
    file.py:function     a user function that scores answers, also as module:function (function.py)

To add a selector, write a function from `SelectTask` to `Selector` and enter it here and in `SelectConfig.kind` (configs/sections.py).
Every selector is judged in the same way (judging.py).
"""

from collections.abc import Callable

from configs import user_functions
from rewards.selectors import function, listwise
from rewards.selectors.selector import Selector, SelectTask

SELECTORS: dict[str, Callable[[SelectTask], Selector]] = {"listwise": listwise.select}
"""The built-in selectors by name."""


def select(task: SelectTask) -> Selector:
    """Make the selector that the config names."""
    kind = task.config.kind
    return function.select(task) if user_functions.is_function(kind) else SELECTORS[kind](task)
