"""The worker that runs stages. On a fleet it lives inside a Ray actor, but it knows nothing of Ray.

The process of the fleet imports this module too, and it must start quickly and stay small. Therefore everything that imports torch is
imported inside functions here.
"""

import gc
import logging
import socket
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from configs.views import visible
from loop import functions
from loop.executors.executor import StageRequest
from loop.executors.heartbeat import Heartbeat
from loop.executors.shared_folder import Sight, find_problem
from loop.failures import WorkerLost
from loop.round import BASE, DATA, LABEL, LABELER, PMP
from loop.store import base_files
from loop.store.layout import StageWork
from loop.store.progress import ProgressFile
from policies.reporting import Report, report_nothing

COLLECTIVE_FACTOR = 5
"""A sum over the workers may take this many times `hang_seconds`. The limit ends a wait that looks like work, as it does on a GPU, and it
is long enough to wait for a slower worker."""


class Worker:
    """Runs stages, one after the other. It loads the base model once and keeps it from stage to stage."""

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
        self._backbone_of: Any = None
        self._loaded: Any = None

    def ready(self) -> None:
        """Import everything that stages need, so that a stage starts at once.

        What is imported lives to the end. The garbage collector need not look through it, which every trainer has it do at its end.
        """
        from loop import stages  # noqa: F401

        gc.freeze()

    def listen(self, host: str) -> int:
        """Open a port at `host`, where the workers will meet in `join`, and return it. Only the first worker does this."""
        self._listener = socket.create_server((host, 0))
        return self._listener.getsockname()[1]

    def join(self, workers: int, host: str, meeting_host: str, meeting_port: int, hang_seconds: float) -> None:
        """Make the workers one group. `host` is the address at which the others reach this worker."""
        from policies import parallel

        meeting = parallel.Meeting(meeting_host, meeting_port, self._listener)
        parallel.join(self.rank, workers, host, meeting, COLLECTIVE_FACTOR * hang_seconds)

    def look(self, work: str, word: str) -> Sight:
        """Say whether this worker sees a stage's work directory, where the driver has left a word."""
        return Sight(rank=self.rank, host=socket.gethostname(), problem=find_problem(StageWork(Path(work)), self.rank, word))

    def run_stage(self, request: StageRequest) -> dict[str, Any]:
        """Run one stage and return its metrics. The request is plain data (`executor.py`).

        Raises WorkerLost if another worker of the group is lost, UserError if a user function is edited meanwhile, and whatever
        the stage raises.
        """
        from loop import stages
        from policies import parallel
        from policies.checkpoints import Checkpoints

        config, work = visible(RunConfig.model_validate(request["config"]), request["reads"]), StageWork(Path(request["work"]))
        context = stages.Context(
            stage=request["stage"],
            round=request["round"],
            config=config,
            inputs={name: _paths(value) for name, value in request["inputs"].items()},
            output=Path(request["output"]),
            checkpoints=Checkpoints(work.checkpoints, config.runtime.checkpoint_seconds, work.stop),
            report=self.reporter(work),
            get_backbone=lambda folder: self._backbone(config, folder),
        )
        try:
            with self._heartbeat.beating(work.beat(self.rank)), self._waiting_allowed(request):
                functions.check_unchanged(request["functions"])
                metrics = stages.STAGES[request["stage"]](context)
                functions.check_unchanged(request["functions"])
                parallel.barrier()
        except RuntimeError as error:
            if parallel.lost_another(error):
                raise WorkerLost("a worker waited in vain for another", str(error)) from None
            raise
        return metrics

    def reporter(self, work: StageWork) -> Report:
        """What a stage tells its progress to. The main worker writes it down for the driver."""
        return ProgressFile(work.progress).write if self.rank == 0 else report_nothing

    def _waiting_allowed(self, request: StageRequest) -> AbstractContextManager[None]:
        """For stages that may wait for a network: they download, or ask a judge or a translator, or call a user's function that may ask a
        service."""
        stage, labeler = request["stage"], request["config"]["labeler"]
        downloads = stage in (DATA.name, PMP.name) or (stage == BASE.name and request["config"]["base"]["model"] != "embedded")
        downloads = downloads or (stage in (LABELER.name, LABEL.name) and labeler["model"] is not None)
        asks = stage == LABEL.name and (bool(request["functions"]) or "judge" in (labeler["kind"], *labeler["parts"]))
        translates = "pivot" in request["reads"] and request["config"]["pivot"]["translator"] != "dictionary"
        return self._heartbeat.downloading() if downloads or asks or translates else nullcontext()

    def _backbone(self, config: Any, folder: Path) -> Any:
        """The base model that the directory of the base stage holds or records. Raises UserError if the user's files have changed.

        The next run of an experiment may name the same base with other settings, or with files that were replaced since: then it is loaded
        again. There is never more than one in memory.
        """
        from policies.backbone import Backbone
        from policies.conversion import make_available

        source, base = base_files.pinned(config.base, folder)
        wanted = source, base, config.lora, config.runtime.shard_base, base_files.read_record(folder)
        if wanted != self._backbone_of:
            self._backbone_of = self._loaded = None
            gc.collect()
            with self._heartbeat.downloading():
                make_available(config.base.model)
            base_files.check_unchanged(folder)
            with nullcontext() if config.base.model == "embedded" else self._heartbeat.downloading():
                loaded = Backbone.load(source, base, config.lora, config.runtime.shard_base)
            base_files.check_unchanged(folder)  # again, because the files may have been replaced while they were read
            self._backbone_of, self._loaded = wanted, loaded
        self._loaded.tokens_per_batch = config.runtime.tokens_per_batch  # it may differ between the runs of an experiment
        return self._loaded


def _paths(value: Any) -> Any:
    return [Path(item) for item in value] if isinstance(value, list) else Path(value)
