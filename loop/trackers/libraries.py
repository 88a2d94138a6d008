"""The libraries that trackers come with. Each class imports its library when it starts.

Everything stays on this machine unless the user's own settings of that library name a server: `WANDB_MODE=online`, `MLFLOW_TRACKING_URI`,
`TRACKIO_SPACE_ID`. What a library would send home about its own use is switched off, unless the user has switched it on.
"""

import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from configs.loading import flatten
from configs.schema import RunConfig

PROJECT = "loop"
"""The project, or the experiment, that runs belong to where the user's environment names none."""
Ending = Literal["done", "stopped", "failed"]
"""How a run has ended. stopped: it was interrupted, or it waits for labels."""


class Tracker(Protocol):
    """What a library is used for."""

    module: str
    """What it is imported as."""

    @classmethod
    def start(cls, config: RunConfig, folder: Path) -> Self:
        """Start or continue the run. folder: its place in the run directory."""
        ...

    def round(self, round_number: int, values: Mapping[str, float]) -> None:
        """The figures of a finished stage of a round; of a stage before round 0 it is told that the round is 0."""
        ...

    def step(self, place: str, stage: str, step: int, values: Mapping[str, float]) -> None:
        """The figures of a running stage after a step. place: the round, for example `round-001`."""
        ...

    def close(self, ending: Ending) -> None:
        """Write what is still held, and end."""
        ...


class TensorBoard:
    """Event files. The rounds are one curve for each figure; the steps of each round are curves beside each other."""

    module = "tensorboard"

    def __init__(self, folder: Path):
        from tensorboard.summary import Writer

        self._folder, self._new = folder, Writer
        self._writers: dict[str, Any] = {}

    @classmethod
    def start(cls, config: RunConfig, folder: Path) -> Self:
        return cls(folder)

    def round(self, round_number: int, values: Mapping[str, float]) -> None:
        self._add("rounds", round_number, values)

    def step(self, place: str, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._add(place, step, values)

    def close(self, ending: Ending) -> None:
        for writer in self._writers.values():
            writer.close()

    def _add(self, curves: str, step: int, values: Mapping[str, float]) -> None:
        if curves not in self._writers:
            self._writers[curves] = self._new(str(self._folder / curves))
        for name, value in values.items():
            self._writers[curves].add_scalar(name, value, step)
        self._writers[curves].flush()


class MLflow:
    """One run of MLflow. The steps of a round are metrics of their own, whose names begin with the round."""

    module = "mlflow"
    statuses: Mapping[Ending, str] = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self, client: Any, run_id: str):
        self._client, self._run_id = client, run_id

    @classmethod
    def start(cls, config: RunConfig, folder: Path) -> Self:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the driver waits meanwhile, and by default for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.tracking import MlflowClient

        client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve() / 'mlflow.db'}"))
        known = folder / "run_id"
        if known.exists():
            client.update_run(run_id := known.read_text(encoding="utf-8"), "RUNNING")
            return cls(client, run_id)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if experiment := client.get_experiment_by_name(name):
            experiment_id = experiment.experiment_id
        else:  # of a server, only the server knows where artifacts belong
            own = None if "MLFLOW_TRACKING_URI" in os.environ else (folder.resolve() / "artifacts").as_uri()
            experiment_id = client.create_experiment(name, artifact_location=own)
        run = client.create_run(experiment_id, run_name=config.name)
        for setting, value in flatten(config.model_dump(mode="json")).items():
            client.log_param(run.info.run_id, _in_mlflow(setting), str(value))
        known.write_text(run.info.run_id, encoding="utf-8")
        return cls(client, run.info.run_id)

    def round(self, round_number: int, values: Mapping[str, float]) -> None:
        self._log(values, round_number)

    def step(self, place: str, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._log({f"{place}/{name}": value for name, value in values.items()}, step)

    def close(self, ending: Ending) -> None:
        self._client.set_terminated(self._run_id, self.statuses[ending])

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(_in_mlflow(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)


def _in_mlflow(name: str) -> str:
    """A name as MLflow takes it. The names of raters and of functions are parts of it, and may have other characters."""
    return re.sub(r"[^\w\-. /]", "_", name)


class WandB:
    """One run of Weights & Biases, offline unless `WANDB_MODE` says otherwise. `wandb sync` uploads it later."""

    module = "wandb"

    def __init__(self, run: Any):
        self._run = run
        self._known: set[str] = set()
        run.define_metric("round", hidden=True)

    @classmethod
    def start(cls, config: RunConfig, folder: Path) -> Self:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        known = folder / "run_id"
        if not known.exists():
            known.write_text(secrets.token_hex(4), encoding="utf-8")
        return cls(
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=config.name,
                id=known.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(folder),
                mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
            )
        )

    def round(self, round_number: int, values: Mapping[str, float]) -> None:
        for stage in {name.partition("/")[0] for name in values}:
            self._define(stage, "round")
        self._run.log({**values, "round": round_number})

    def step(self, place: str, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._define(f"{place}/{stage}", f"{place}/{stage}/step")
        self._run.log({**{f"{place}/{name}": value for name, value in values.items()}, f"{place}/{stage}/step": step})

    def close(self, ending: Ending) -> None:
        self._run.finish()

    def _define(self, prefix: str, step_metric: str) -> None:
        """Tell W&B what the metrics under a prefix are drawn against."""
        if prefix not in self._known:
            self._known.add(prefix)
            self._run.define_metric(f"{prefix}/*", step_metric=step_metric)


class Trackio:
    """One run of Trackio. All runs of a directory of runs are in one database there, because trackio takes one place for the whole process;
    `TRACKIO_DIR` or `TRACKIO_SPACE_ID` name another place."""

    module = "trackio"

    def __init__(self, run: Any):
        self._run = run

    @classmethod
    def start(cls, config: RunConfig, folder: Path) -> Self:
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve().parents[2] / "trackio"))  # read when trackio is imported
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        import trackio

        return cls(
            trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=config.name,
                space_id=os.environ.get("TRACKIO_SPACE_ID"),
                config=config.model_dump(mode="json"),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        )

    def round(self, round_number: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "round": round_number}, step=round_number)

    def step(self, place: str, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{place}/{name}": value for name, value in values.items()}, step=step)

    def close(self, ending: Ending) -> None:
        import trackio

        trackio.finish()  # finish the run, and forget it: at the end of the process, trackio would finish what it knows once more


LIBRARIES: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WandB, "mlflow": MLflow}
"""The names of `report_to` (configs/schema.py)."""
