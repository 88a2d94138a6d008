"""What runs inside one actor of the fleet: it holds the backbone and runs stages. Ray itself is not known here."""

import logging
import socket
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from loop.executors.heartbeat import Heartbeat
from loop.failures import WorkerLost
from loop.store.layout import StageWork
from loop.store.progress import ProgressFile

COLLECTIVE_FACTOR = 5
"""A sum over the workers may take so many times `hang_seconds`. That ends it where waiting looks like work, as it does on a GPU, and
lets a worker wait for a slower one."""


class Worker:
    """One member of the fleet. The backbone is loaded once and kept from stage to stage."""

    def __init__(self, rank: int, threads: int):
        warnings.filterwarnings("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        import torch

        from policies.training import quiet

        quiet()
        torch.set_num_threads(threads)
        self.rank = rank
        self._heartbeat = Heartbeat()
        self._listener: socket.socket | None = None
        self._backbones: dict[str, Any] = {}

    def ready(self) -> None:
        """Answers once everything heavy is imported, so that a stage starts at once."""
        from loop import stages  # noqa: F401

    def listen(self, host: str) -> int:
        """Open a port at `host` for `join`, where the workers will meet; called on the first one only."""
        self._listener = socket.create_server((host, 0))
        return self._listener.getsockname()[1]

    def join(self, workers: int, host: str, meeting_host: str, meeting_port: int, hang_seconds: float) -> None:
        """Make the workers one group. `host`: the address of this one, by which the others reach it."""
        from policies import parallel

        meeting = parallel.Meeting(meeting_host, meeting_port, self._listener)
        parallel.join(self.rank, workers, host, meeting, COLLECTIVE_FACTOR * hang_seconds)

    def run_stage(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one stage; `request` is plain data (see `driver.py`). Returns the stage's metrics."""
        from configs.schema import RunConfig
        from configs.views import visible
        from loop import stages
        from policies import parallel
        from policies.checkpoints import Checkpoints
        from policies.reporting import report_nothing

        config, work = visible(RunConfig.model_validate(request["config"]), request["reads"]), StageWork(Path(request["work"]))
        progress = ProgressFile(work.progress) if self.rank == 0 else None
        context = stages.Context(
            stage=request["stage"],
            round=request["round"],
            config=config,
            inputs={name: _paths(value) for name, value in request["inputs"].items()},
            output=Path(request["output"]),
            checkpoints=Checkpoints(work.checkpoints, config.runtime.checkpoint_seconds, work.stop),
            report=progress.write if progress else report_nothing,
            get_backbone=lambda folder: self._backbone(config, folder),
        )
        try:
            fetches = request["stage"] == "data" or (request["stage"] == "base" and config.base.model != "embedded")
            with self._heartbeat.beating(work.beat(self.rank)), self._heartbeat.downloading() if fetches else nullcontext():
                metrics = stages.STAGES[request["stage"]](context)
                parallel.barrier()
        except RuntimeError as error:
            if parallel.lost_another(error):
                raise WorkerLost("a worker waited in vain for another", str(error)) from None
            raise
        return metrics

    def _backbone(self, config: Any, folder: Path) -> Any:
        """The base that the base stage's directory holds or records. Raises UserError where the user's files are other ones now."""
        from loop.store.base_files import check_unchanged, read_record
        from policies.backbone import Backbone

        source = str(folder) if config.base.model == "embedded" else config.base.model
        if source not in self._backbones:
            check_unchanged(folder)
            commit = read_record(folder).get("commit")
            base = config.base.model_copy(update={"revision": commit}) if commit else config.base
            with nullcontext() if config.base.model == "embedded" else self._heartbeat.downloading():
                self._backbones = {source: Backbone.load(source, base, config.lora)}
            check_unchanged(folder)  # and were not replaced while they were read
        return self._backbones[source]


def _paths(value: Any) -> Any:
    return [Path(item) for item in value] if isinstance(value, list) else Path(value)
