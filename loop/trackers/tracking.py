"""What trackers are told of a run: the figures of each finished stage by round, and the curves of the running stage by step.

The run's own directory has all of it and more, so a tracker is told and never asked. A tracker that fails while the run works is left
alone from then on; the run continues. Each tracker remembers in the run directory which finished stages it has been told of: one that is
added later is told of all of them, and a run that resumes tells nothing twice. Must never import torch or Ray.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from configs.errors import Stopped, UserError, WaitingForLabels
from configs.schema import RunConfig
from loop.masking import MaskedLog, masked, secrets_of
from loop.store.artifacts import Artifact
from loop.store.layout import RunFolder, place, stage_name
from loop.store.measures import numbers
from loop.store.progress import Progress
from loop.trackers.libraries import LIBRARIES, Ending, Tracker

TOLD = "told"
"""The file of a tracker that says which stages it was told of, one a line."""


def check_installed(config: RunConfig, where: str) -> None:
    """Raises UserError for a tracker whose library is not installed. where: the place of the setting in the user's input."""
    for name in config.report_to:
        if importlib.util.find_spec(LIBRARIES[name].module) is None:
            to_do = f"install it: pip install 'loop-rlhf[{name}]'; or leave it out of report_to"
            raise UserError(f"report_to names {name}, which is not installed", where, to_do)


class Trackers:
    """All trackers of one run. Without `report_to` it does nothing."""

    def __init__(self, config: RunConfig, folder: Path, say: Callable[[str], None]):
        self._config, self._folder, self._say = config, RunFolder(folder), say
        self._secrets = secrets_of(config)
        self._trackers: dict[str, Tracker] = {}
        self._shown: tuple[str, int] | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The libraries are started before the block, and told at its end how it has ended. Raises UserError where one does not start."""
        ending: Ending = "failed"
        try:
            self._open()
            yield
            ending = "done"
        except (KeyboardInterrupt, BrokenPipeError, Stopped, WaitingForLabels):
            ending = "stopped"
            raise
        finally:
            self._tell(lambda tracker: tracker.close(ending))
            self._trackers = {}

    def _open(self) -> None:
        for name in dict.fromkeys(self._config.report_to):
            folder = self._folder.tracker(name)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with self._quietly():
                    self._trackers[name] = LIBRARIES[name].start(self._config, folder)
            except Exception as error:  # the libraries raise errors of many kinds
                to_do = "correct this, or leave it out of report_to: the same command then continues without it"
                raise UserError(f"{name} does not start: {self._in_a_line(error)}", "report_to", to_do) from None

    def progress(self, stage: str, round_number: int | None, now: Progress) -> None:
        """Tell the newest step of the running stage, unless it was told."""
        newest = stage_name(stage, round_number), now.done
        if now.metrics and newest != self._shown:
            self._shown = newest
            values = {f"{stage}/{name}": value for name, value in now.metrics.items()}
            self._tell(lambda tracker: tracker.step(place(round_number), stage, now.done, values))

    def finished(self, stage: str, round_number: int | None, artifact: Artifact) -> None:
        """Tell the figures of a stage that is committed to each tracker that was not told of them."""
        if not self._trackers:
            return
        values = {f"{stage}/seconds": artifact.seconds} | figures(stage, artifact.metrics)
        line = f"{stage_name(stage, round_number)} {artifact.digest}"
        untold = {name for name in self._trackers if line not in self._told(name)}
        self._tell(lambda tracker: tracker.round(round_number or 0, values), untold)
        for name in untold & self._trackers.keys():
            with (self._folder.tracker(name) / TOLD).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def _told(self, name: str) -> list[str]:
        path = self._folder.tracker(name) / TOLD
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _tell(self, tell: Callable[[Tracker], None], names: set[str] | None = None) -> None:
        """Call `tell` with each tracker, or with those of these names."""
        for name, tracker in list(self._trackers.items()):
            if names is not None and name not in names:
                continue
            try:
                with self._quietly():
                    tell(tracker)
            except Exception as error:  # whatever a library or its network raises, the run continues
                del self._trackers[name]
                self._say(f"{name} has failed and is told nothing more: {type(error).__name__}: {self._in_a_line(error)}")

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """What a library prints in the block goes to the run's log of trackers, without secrets."""
        path = self._folder.tracker_log
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.open("a", encoding=MaskedLog.encoding, errors=MaskedLog.errors) as file,
            closing(MaskedLog(file, self._secrets)) as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            yield

    def _in_a_line(self, error: Exception) -> str:
        """What a library says, without secrets."""
        return masked(" ".join(str(error).split()), self._secrets)


def figures(stage: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of a finished stage under the names that trackers show, for example `evaluate/defects/empty`."""
    return {"/".join(filter(None, (stage, number.name, number.part))): number.value for number in numbers(metrics)}
