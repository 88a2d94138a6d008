"""The child process of the fleet, `python -m loop.executors.actors`. It starts or joins Ray and keeps one Ray actor for each worker.

It does what the driver asks for over a pipe (see `fleet.py`) and ends when the driver ends. Every stage is called on all actors at
once, under the name that the dashboard shows ("round-001/policy"). Ray owns scheduling, logs and metrics, and the code of the stages
does not know of it. Only this file and `ray_display.py`, which says what the dashboard shows, import Ray.
"""

import errno
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.errors import LoopError, UserError
from configs.schema import RuntimeConfig
from loop.executors.executor import QUIET_LIBRARIES, StageRequest, thread_variables
from loop.executors.processes import MARK, kill_marked_from_outside
from loop.executors.ray_display import NamedWorker, RunMetrics
from loop.failures import RESUMES, OutOfMemory, WorkerLost, error_to_json, stage_error

POLL_SECONDS = 0.25
PROBE_SECONDS = 1.0
ROOM_SECONDS = 60
"""How long a busy cluster may take to make room for the workers."""
CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 200 * 1024 * 1024
LOOPBACK = "127.0.0.1"
MODE = "RAY_AUTH_MODE"
"""The environment variable that tells Ray whether a cluster wants a token."""


class Actors:
    """Ray, and one actor for each worker."""

    def __init__(self, config: RuntimeConfig, run: str, driver: "DriverPipe"):
        self.config, self.run, self.driver = config, run, driver
        self._workers: list[Any] = []
        self._group: Any = None
        self._metrics: RunMetrics | None = None

    def start_ray(self) -> dict[str, Any]:
        """Start or join Ray, and return the addresses of its dashboard and of its metrics.

        Raises UserError for an address or a port that cannot be used, WorkerLost where another try may help.
        """
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if self.config.address is None:
            os.environ |= self._variables()
            # At least one logical CPU for each worker, so that two workers fit on any machine.
            options |= {
                "address": "local",  # whatever RAY_ADDRESS says
                "num_cpus": max(os.cpu_count() or 1, self.config.workers),
                "include_dashboard": True,
                "dashboard_host": LOOPBACK,
                "dashboard_port": self.config.dashboard_port,  # None: Ray looks for a free one
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            options["address"] = self.config.address
        try:
            if self.config.address is not None and "://" not in self.config.address:  # `auto`, or host:port
                options["address"] = canonicalize_bootstrap_address(self.config.address)
                _agree_on_token(options["address"])
            dashboard = ray.init(**options).dashboard_url
        except Exception as error:  # Ray raises many kinds here, even plain Exception; the user gets one message
            raise _start_error(error, self.config) from None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # instead of Ray's handler: this process ends when the driver ends
        self._metrics = RunMetrics()
        return {"dashboard": f"http://{dashboard}", "metrics": _metrics_address()}

    def start_workers(self) -> dict[str, Any]:
        """Kill the actors that exist and start new ones. Raises UserError where the cluster has no room."""
        for worker in self._workers:
            ray.kill(worker)
        if self._group is not None:
            remove_placement_group(self._group)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        workers = self.config.workers
        if gpus and gpus < workers:
            raise UserError(f"{workers} workers asked for, {gpus} GPUs in the cluster", "runtime.workers", f"set it to {gpus} or less")
        bundle = {"GPU": 1.0, "CPU": 1.0} if gpus else {"CPU": 1.0}
        self._group = placement_group([bundle] * workers, strategy="PACK")
        self._wait_for_room(bundle)
        self._workers = [self._start_worker(rank, bundle) for rank in range(workers)]
        if workers > 1:
            hosts = self._hosts()
            port = self._get([self._workers[0].listen.options(name="join").remote(hosts[0])])[0]
            seconds = self.config.hang_seconds
            self._get(
                [w.join.options(name="join").remote(workers, hosts[rank], hosts[0], port, seconds) for rank, w in enumerate(self._workers)]
            )
        self._get([w.ready.options(name="ready").remote() for w in self._workers])
        return {}

    def look(self, work: str, word: str) -> dict[str, Any]:
        """What each worker says about a stage's work directory (see `shared_folder.py`)."""
        return {"sights": self._get([worker.look.options(name="look").remote(work, word) for worker in self._workers])}

    def call(self, name: str, request: StageRequest) -> dict[str, Any]:
        """Run a stage on all workers, and give up where the driver asks for something else.

        Raises what the stage raised where it is a LoopError; else OutOfMemory, WorkerLost where an actor died, or StageFailed.
        """
        assert self._metrics is not None
        self._metrics.begin(request)
        pending = [worker.run_stage.options(name=name).remote(request) for worker in self._workers]
        first, probed = pending[0], time.monotonic()
        while pending and not self.driver.is_asking():
            done, pending = ray.wait(pending, timeout=POLL_SECONDS)
            for reference in done:
                _check(reference)
            if time.monotonic() - probed > PROBE_SECONDS:
                _probe()
                probed = time.monotonic()
            self._metrics.look()
            self.driver.say_alive()
        if pending:
            return {}
        self._metrics.finish(metrics := ray.get(first))
        return metrics

    def stop(self) -> None:
        """Kill the actors and leave Ray."""
        for worker in self._workers:
            ray.kill(worker)
        if ray.is_initialized():
            if self.config.address and self._group is not None:
                remove_placement_group(self._group)
            ray.shutdown()

    def _wait_for_room(self, bundle: dict[str, float]) -> None:
        for _ in range(ROOM_SECONDS):
            if self._group.wait(timeout_seconds=1):
                return
            if self.config.address:  # Ray on this machine has room; if it hangs, silence tells the driver so
                self.driver.say_alive()
        if self.config.address is None:
            raise WorkerLost("Ray does not answer")
        raise UserError(f"no room for {self.config.workers} workers ({bundle} each) in the cluster", "runtime.workers", "set it lower")

    def _hosts(self) -> list[str]:
        """The address of each worker's node for the other workers; loopback where all are on one machine."""
        nodes = placement_group_table(self._group)["bundles_to_node_id"]
        if len(set(nodes.values())) == 1:
            return [LOOPBACK] * len(nodes)
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        return [addresses[node] for _, node in sorted(nodes.items())]

    def _get(self, references: list[Any]) -> list[Any]:
        try:
            return ray.get(references)
        except ray.exceptions.RayError as error:
            raise WorkerLost("a worker died before its first stage", str(error)) from None

    def _variables(self) -> dict[str, str]:
        """The environment of a worker."""
        return (
            QUIET_LIBRARIES
            | thread_variables(self.config.threads_per_worker)
            | {
                "PYTHONWARNINGS": "ignore",
                "RAY_ENABLE_RECORD_ACTOR_TASK_LOGGING": "1",  # so that the dashboard shows the lines of each stage by themselves
                "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).parents[2])),
            }
        )

    def _start_worker(self, rank: int, bundle: dict[str, float]) -> Any:
        strategy = PlacementGroupSchedulingStrategy(placement_group=self._group, placement_group_bundle_index=rank)
        # Where Ray was started here, its workers have inherited the variables.
        environment = {"env_vars": self._variables()} if self.config.address else {}
        actor = ray.remote(NamedWorker).options(
            name=f"{self.run}-worker-{rank}",
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=strategy,
            runtime_env=environment,
        )
        return actor.remote(rank, self.config.threads_per_worker, self.run)


def _metrics_address() -> str | None:
    """Where Prometheus finds the metrics of this process: the agent of this process's node serves them."""
    own = ray.get_runtime_context().get_node_id()
    node = next((node for node in ray.nodes() if node["NodeID"] == own), None)
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" if node else None


def _agree_on_token(address: str) -> None:
    """Find out whether a cluster wants a token, and set Ray to that. Raises an error where nothing answers or the token is wrong.

    Ray itself looks for a token only where it starts a cluster or is told `auto`, and then does not ask whether the cluster wants one.
    """
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(f"nothing answers at {address} ({error})") from None
    if MODE in os.environ:
        _ask_for_session(address)
        return
    os.environ[MODE] = "disabled"  # even where this machine has a token
    try:
        _ask_for_session(address)
    except ray.exceptions.AuthenticationError:
        os.environ[MODE] = "token"
        Config.initialize("")  # makes Ray read the variable again, as its own `ray.init` does
        _ask_for_session(address)


def _ask_for_session(address: str) -> None:
    GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=CONNECT_SECONDS)


def _start_error(error: Exception, config: RuntimeConfig) -> LoopError:
    """The message where Ray did not start or could not be joined."""
    said = " ".join(str(error).split())[:500]
    if isinstance(error, ray.exceptions.AuthenticationError):
        return UserError(
            "the Ray cluster wants a token, and the one here is missing or wrong",
            f"runtime.address={config.address}",
            "run `ray get-auth-token` on the cluster, and put what it prints into ~/.ray/auth_token here, or into RAY_AUTH_TOKEN",
        )
    if config.address is not None:
        return UserError(
            f"cannot join the Ray cluster: {said}",
            f"runtime.address={config.address}",
            "start one with `ray start --head`; Ray and Python must have the same versions on all its machines",
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and (full or error.filename):
        where = error.filename or os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray")
        return LoopError(
            f"Ray cannot write its session: {'the disk is full' if full else error.strerror}\n  where: {where}\n"
            f"  to do: fix this, or set RAY_TMPDIR to another folder; {RESUMES}"
        )
    if isinstance(error, ValueError) and config.dashboard_port is not None and str(config.dashboard_port) in said:
        return UserError(f"Ray cannot start: {said}", f"runtime.dashboard_port={config.dashboard_port}", "free the port, or choose another")
    if isinstance(error, ValueError):
        return LoopError(f"Ray cannot start: {said}")
    return WorkerLost(f"Ray did not start: {said}", traceback.format_exc())


def _check(reference: Any) -> None:
    """Raises what a worker's finished call raised, as the kind of error that the driver knows."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise stage_error(error.cause, str(error)) from None
    except ray.exceptions.OutOfMemoryError:
        raise OutOfMemory("Ray's memory monitor killed a worker") from None
    except ray.exceptions.RayError as error:
        raise WorkerLost("a worker died", str(error)) from None


def _probe() -> None:
    """Blocks or raises where Ray is frozen or dead: this machine's raylet answers `put`, the cluster's head answers `nodes`."""
    ray.put(0)
    ray.nodes()


class DriverPipe:
    """The two pipes to the driver: commands come in, messages go out. When the driver ends, this process ends too, with all of Ray."""

    def __init__(self, commands: TextIO, messages: TextIO):
        self._messages, self._id = messages, 0
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, args=(commands,), daemon=True).start()

    def next_command(self) -> dict[str, Any]:
        command = self._commands.get()
        self._id = command.pop("id")
        return command

    def is_asking(self) -> bool:
        """Whether another command is waiting."""
        return not self._commands.empty()

    def say_alive(self) -> None:
        self.say({"alive": True})

    def say(self, message: dict[str, Any]) -> None:
        try:
            self._messages.write(json.dumps({"id": self._id} | message) + "\n")
            self._messages.flush()
        except BrokenPipeError:  # the driver has ended, and `_listen` ends this process
            threading.Event().wait()

    def _listen(self, commands: TextIO) -> None:
        for line in commands:
            self._commands.put(json.loads(line))
        kill_marked_from_outside(os.environ[MARK])


def main() -> None:
    """Do what the driver asks until it says stop or ends."""
    # The driver reads only messages. Everything else that is written to standard output goes to the log.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = RuntimeConfig.model_validate_json(sys.argv[1])
    driver = DriverPipe(sys.stdin, messages)
    actors = Actors(config, sys.argv[2], driver)
    while (command := driver.next_command())["do"] != "stop":
        try:
            if command["do"] == "start ray":
                driver.say({"answer": actors.start_ray()})
            elif command["do"] == "start workers":
                driver.say({"answer": actors.start_workers()})
            elif command["do"] == "look":
                driver.say({"answer": actors.look(command["work"], command["word"])})
            else:
                driver.say({"answer": actors.call(command["name"], command["request"])})
        except LoopError as error:
            driver.say({"error": error_to_json(error)})
        except Exception as error:  # whatever Ray raises when parts of it are dead: the driver starts it again
            driver.say({"error": error_to_json(WorkerLost(f"Ray failed ({type(error).__name__})", traceback.format_exc()))})
    actors.stop()


if __name__ == "__main__":
    main()
