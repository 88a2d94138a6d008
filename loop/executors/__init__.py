"""Where stages run. `executor_for` chooses by the setting `runtime.executor`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.schema import RunConfig
from loop.executors.executor import Executor
from loop.executors.fleet import Fleet
from loop.store.layout import RunFolder


@contextmanager
def executor_for(config: RunConfig, folder: Path) -> Iterator[Executor]:
    """The executor that a config asks for, stopped at the end of the block. folder: the run whose logs it writes to."""
    if config.runtime.executor == "in-process":
        from loop.executors.in_process import InProcess  # it imports torch, which takes seconds and which the driver does not need

        executor: Executor = InProcess(config.runtime)
    else:
        executor = Fleet(config.runtime, config.name, RunFolder(folder).ray_log)
    try:
        yield executor
    finally:
        executor.stop()
