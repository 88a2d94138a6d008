"""What each stage does. A stage is a function from a `Context` to metrics; `round.py` says which stage gets the output of which.

A stage reads its inputs, calls one function of `rewards` or `policies`, writes what that returns, and returns metrics. Every worker
of the fleet calls the same stage at the same time. What is trained is trained by all workers, what is sampled is divided among
them, and only the main worker writes. A stage reads nothing but its inputs and takes every random number from `context.seed`. It
must never look at other stages, the journal, or Ray.
"""

from collections.abc import Callable

from loop.round import ANSWER, CHOOSE, KEEP, LABEL, LABELER, PIVOT, PMP, PROMOTE, PROMOTE_ADAPTER, READY_LABELER, REFRESH, SETUP_STAGES
from loop.round import STAGES as DECLARED
from loop.stages import choosing, keeping, labeling, pivoting, promoting, rounds, setup, winning
from loop.stages.context import Context, Metrics

_ELSEWHERE = dict.fromkeys((*SETUP_STAGES, PMP, LABELER, READY_LABELER), setup) | dict.fromkeys((KEEP, REFRESH), keeping)
_ELSEWHERE |= {ANSWER: winning, LABEL: labeling, PIVOT: pivoting}

STAGES: dict[str, Callable[[Context], Metrics]] = {stage.name: getattr(_ELSEWHERE.get(stage, rounds), stage.name) for stage in DECLARED} | {
    CHOOSE.name: choosing.choose,
    PROMOTE.name: promoting.promote,
    PROMOTE_ADAPTER.name: promoting.promote_adapter,
}
"""Each stage that `round.py` declares, with its function, which has the stage's name, and what `loop choose` and `loop promote` ask."""
