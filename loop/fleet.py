"""The fleet: one long-lived Ray actor a GPU, or one on a CPU machine, in a placement group. The only file that imports Ray.

Every stage is called on all actors at once, under the name that the dashboard shows ("round-001/policy"). Ray owns
scheduling, logs and metrics; the actors know nothing of it.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.errors import LoopError, UserError
from configs.schema import RuntimeConfig
from loop.worker import Worker

POLL_SECONDS = 0.25
OBJECT_STORE_BYTES = 200 * 1024 * 1024
NAMESPACE = "loop"
NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA out of memory")
"""How torch says so where it raises a plain RuntimeError."""


class StageFailed(LoopError):
    """A stage raised on a worker; `detail` is the traceback for the log."""

    def __init__(self, message: str, detail: str):
        super().__init__(message)
        self.detail = detail


class WorkerLost(LoopError):
    """An actor died or is not heard of; the stage can go on with new ones. `detail` is for the log."""

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message)
        self.detail = detail


class OutOfMemory(LoopError):
    """A worker had not enough memory, by its own word, Ray's or the kernel's."""


class Fleet:
    """Starts or joins Ray and keeps the workers. A context manager."""

    def __init__(self, config: RuntimeConfig, run: str):
        self.config, self.run, self.dashboard = config, run, ""
        self.startup: dict[str, float] = {}
        """Seconds that Ray and the workers took to start."""
        self._workers: list[Any] = []
        self._group: Any = None

    def __enter__(self) -> "Fleet":
        started = time.monotonic()
        self._start_ray()
        ready = time.monotonic()
        self.start_workers()
        self.startup = {"ray": ready - started, "workers": time.monotonic() - ready}
        return self

    def start_workers(self) -> None:
        """Put new actors in place, after killing those that there are. Raises UserError where the cluster has no room."""
        for worker in self._workers:
            ray.kill(worker)
        if self._group is not None:
            remove_placement_group(self._group)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        workers = self.config.workers
        if gpus and gpus < workers:
            raise UserError(f"{workers} workers asked for, {gpus} GPUs in the cluster", "runtime.workers", f"set it to {gpus} or less")
        threads = self._threads()
        bundle = {"GPU": 1.0, "CPU": 1.0} if gpus else {"CPU": 1.0}
        self._group = placement_group([bundle] * workers, strategy="PACK")
        if not self._group.wait(timeout_seconds=60):
            raise UserError(f"no room for {workers} workers ({bundle} each) in the cluster", "runtime.workers", "set it lower")
        self._workers = [self._start_worker(rank, threads, bundle) for rank in range(workers)]
        if workers > 1:
            host, port = self._get([self._workers[0].address.options(name="join").remote()])[0]
            self._get([w.join.options(name="join").remote(workers, host, port) for w in self._workers])
        self._get([w.ready.options(name="ready").remote() for w in self._workers])

    def _get(self, references: list[Any]) -> list[Any]:
        try:
            return ray.get(references)
        except ray.exceptions.RayError as error:
            raise WorkerLost("a worker died while it started", str(error)) from None

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            ray.kill(worker)
        if ray.is_initialized():
            if self.config.address:
                remove_placement_group(self._group)
            ray.shutdown()

    def call(self, name: str, request: dict[str, Any], on_wait: Callable[[], None]) -> dict[str, Any]:
        """Run a stage on all workers; `name` is what the dashboard shows. Calls `on_wait` a few times a second.

        Raises what the stage raised where it is a LoopError, OutOfMemory, WorkerLost where an actor died, else StageFailed.
        """
        pending = [worker.run_stage.options(name=name).remote(request) for worker in self._workers]
        first = pending[0]
        while pending:
            done, pending = ray.wait(pending, timeout=POLL_SECONDS)
            on_wait()
            for reference in done:
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, LoopError):
                        raise error.cause from None
                    if "outofmemory" in type(error.cause).__name__.lower() or any(sign in str(error.cause) for sign in NO_MEMORY):
                        raise OutOfMemory(f"{type(error.cause).__name__}: {str(error.cause).splitlines()[0]}") from None
                    raise StageFailed(f"{type(error.cause).__name__}: {error.cause}", str(error)) from None
                except ray.exceptions.OutOfMemoryError:
                    raise OutOfMemory("Ray's memory monitor killed a worker") from None
                except ray.exceptions.RayError as error:
                    raise WorkerLost("a worker died", str(error)) from None
        return ray.get(first)

    def _start_ray(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "namespace": NAMESPACE}
        if self.config.address is None:
            os.environ |= self._variables()
            # One logical CPU a worker at least, so that two workers fit on any machine.
            options |= {
                "address": "local",  # without it, Ray joins a cluster that somebody else has started on this machine
                "num_cpus": max(os.cpu_count() or 1, self.config.workers),
                "include_dashboard": True,
                "dashboard_host": "127.0.0.1",
                "dashboard_port": self.config.dashboard_port,  # None: Ray looks for a free one
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            options["address"] = self.config.address
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            self.dashboard = f"http://{ray.init(**options).dashboard_url}"
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler would exit with 1, before the journal is written
        except (ConnectionError, ValueError) as error:
            raise UserError(
                f"cannot start or join Ray: {' '.join(str(error).split())}",
                f"runtime.address={self.config.address}, runtime.dashboard_port={self.config.dashboard_port}",
                "free the port, or start a cluster with `ray start --head`",
            ) from None

    def _threads(self) -> int:
        return self.config.threads or max(1, (os.cpu_count() or 1) // self.config.workers)

    def _variables(self) -> dict[str, str]:
        """What a worker finds in its environment."""
        return {
            "OMP_NUM_THREADS": str(self._threads()),
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def _start_worker(self, rank: int, threads: int, bundle: dict[str, float]) -> Any:
        strategy = PlacementGroupSchedulingStrategy(placement_group=self._group, placement_group_bundle_index=rank)
        # Where Ray was started here, the workers that it keeps ready have inherited the variables.
        environment = {"env_vars": self._variables() | {"LOOP_MULTI_NODE": "1"}} if self.config.address else {}
        actor = ray.remote(Worker).options(
            name=f"{self.run}-worker-{rank}",
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=strategy,
            runtime_env=environment,
        )
        return actor.remote(rank, threads)
