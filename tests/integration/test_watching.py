"""What can be seen of a run on Ray while it runs: names, titles, logs of stages, metrics for Prometheus. Its pipe has our lines only."""

import json
import re
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from docs.dashboard_picture import CHROMIUM, logged_in, rows, show_worker
from loop.commands.main import main
from loop.store.lock import is_locked
from loop.store.measures import name_on_ray
from tests.benchmarks.chaos import ACTOR_TITLES, Run
from tests.integration.conftest import SMALL, said_by, wait_for
from tests.unit.test_grafana import CHARTS

pytestmark = pytest.mark.slow
NOT_IN_THIS_RUN = ("Labels waited for",)
"""Charts of the Grafana dashboard that a labeler of the program fills for less time than passes between two reads."""


@dataclass
class Watched:
    """A run of one round on Ray, and what was seen of it while it ran."""

    run: Run
    metrics: dict[tuple[str, str, str, str], float] = field(default_factory=dict)
    """(name, round, stage, part) -> the newest value."""
    titles: set[str] = field(default_factory=set)
    tasks: dict[str, dict] = field(default_factory=dict)
    actors: list[dict] = field(default_factory=list)
    log: str = ""
    """What the dashboard shows as the log of the stage `sft`."""
    page: str = ""
    """The text of the worker's page in a browser."""
    picture: bytes = b""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Look -> the newest error that it met."""


def see_metrics(watched: Watched, start: dict) -> None:
    with urllib.request.urlopen(start["prometheus"], timeout=20) as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_loop_"):
                assert sample.labels["run"] == "chaos"
                place = sample.labels["round"], sample.labels["stage"], sample.labels.get("part", "")
                watched.metrics[sample.name, *place] = sample.value


def see_tasks(watched: Watched, start: dict) -> None:
    """Also the log of a stage that ends early, because Ray may be seconds late: the part of the worker's log that Ray keeps for it."""
    watched.tasks |= {row["name"]: row for row in rows(start["dashboard"], "tasks")}
    of_sft = watched.tasks.get("setup/sft", {}).get("task_log_info") or {}
    if "stdout_end" in of_sft and not watched.log:
        written = Path(of_sft["stdout_file"]).read_bytes()
        watched.log = written[of_sft["stdout_start"] : of_sft["stdout_end"]].decode()


def see_actors(watched: Watched, start: dict) -> None:
    watched.actors = rows(start["dashboard"], "actors") or watched.actors


def see_titles(watched: Watched, start: dict) -> None:
    watched.titles |= {psutil.Process(pid).cmdline()[0] for pid in watched.run.marked(*ACTOR_TITLES)}


def see_page(watched: Watched, start: dict) -> None:
    """The page of the worker, for somebody who has typed the token. It is read once, when it shows that PPO has begun."""
    if CHROMIUM is None or watched.page or not rows(start["dashboard"], "actors"):
        return
    with logged_in(start["dashboard"]) as page:
        show_worker(page, start["dashboard"], "chaos-worker-0")
        page.get_by_text("round-000/policy").first.wait_for()
        watched.page, watched.picture = page.inner_text("body"), page.screenshot()


def watch(look: Callable[[Watched, dict], None], watched: Watched, start: dict) -> None:
    """Look again and again until the run has ended."""
    while watched.run.process.poll() is None:
        try:
            look(watched, start)
        except (OSError, psutil.Error) as error:
            watched.unanswered[look.__name__] = repr(error)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Ray reports its metrics every second here, not every ten."""
    folder = tmp_path_factory.mktemp("watched")
    run = Run(folder, [*SMALL, "ppo.num_updates=48"], {"RAY_metrics_report_interval_ms": "1000"})
    found = Watched(run)
    run.start(rounds=1)
    start = wait_for(lambda: next((event for event in run.events() if event.get("prometheus")), None))
    looks = (see_metrics, see_tasks, see_actors, see_titles, see_page)
    with ThreadPoolExecutor(len(looks)) as pool:  # each by itself: what Ray answers late delays nothing else
        for watching in [pool.submit(watch, look, found, start) for look in looks]:
            watching.result()
    assert run.process.wait(timeout=240) == 0, said_by(run)
    return found


def test_the_endpoint_serves_our_gauges_with_round_and_stage(watched):
    """What the stages measured is what was served: the run's own journal is the reference."""
    served = {place: value for place, value in watched.metrics.items() if place[1:3] == ("0", "retrain")}
    (retrain,) = [event for event in watched.run.events() if event.get("stage") == "retrain" and event["event"] == "stage_committed"]
    assert served["ray_loop_pairs", "0", "retrain", ""] == retrain["metrics"]["pairs"]
    assert served["ray_loop_accuracy_fresh", "0", "retrain", ""] == pytest.approx(retrain["metrics"]["accuracy_fresh"]["accuracy"])
    assert served["ray_loop_mixture", "0", "retrain", "original"] == retrain["metrics"]["mixture"]["original"]
    assert ("ray_loop_loss", "setup", "sft", "") in watched.metrics
    (policy,) = [event for event in watched.run.events() if event.get("stage") == "policy" and event["event"] == "stage_committed"]
    assert watched.metrics["ray_loop_memory", "0", "policy", "base"] == policy["metrics"]["memory"]["base"]


def test_the_figures_of_ppo_and_its_counters(watched):
    """48 updates of 16 responses each. The last update is in the log of the stage, and every figure of it that is known is served."""
    log = watched.run.journal.parent / "round-000" / "policy" / "metrics.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    for name in ("objective/scores", "objective/kl", "policy/entropy_avg", "val/response_length"):
        assert watched.metrics[f"ray_{name_on_ray(name)}", "0", "policy", ""] == pytest.approx(last[name]), name
    assert watched.metrics["ray_loop_steps_done", "0", "policy", ""] == 48
    assert watched.metrics["ray_loop_steps_made_total", "0", "policy", ""] == 48
    assert watched.metrics["ray_loop_samples_made_total", "0", "policy", ""] == 768


def test_every_chart_of_the_grafana_dashboard_finds_something(watched):
    """But gold over the last round and the like, which one round does not have, and the last stages, which may end before they are read."""
    names = {name for name, *_ in watched.metrics}
    asked = {chart["title"]: re.findall(r"ray_loop_\w+", chart["targets"][0]["expr"])[0] for chart in CHARTS}
    late = {
        f"ray_{name_on_ray(name)}"
        for name in ("judged", "gold_over_sft", "win_rate", "proxy_gain", "kl", "defects", "reward_accuracy", "retrained_accuracy", "gold")
    }
    empty = {title for title, name in asked.items() if name not in names and name not in late and title not in NOT_IN_THIS_RUN}
    assert not empty


def test_actors_tasks_and_processes_have_names(watched):
    (actor,) = watched.actors
    assert (actor["name"], actor["repr_name"]) == ("chaos-worker-0", "worker-0 of chaos")
    assert {"setup/sft", "round-000/policy", "round-000/label"} <= watched.tasks.keys()
    assert any(re.fullmatch(r"ray::round-000/policy \d+/48 · worker-0 of chaos", title) for title in watched.titles), watched.titles


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium, or nothing that drives it")
def test_a_person_who_has_typed_the_token_sees_the_names_on_the_page(watched):
    """The page that docs/watching.md shows. A picture of a window with nothing in it has 5 kilobytes."""
    for text in ("chaos-worker-0", "worker-0 of chaos", "setup/sft", "round-000/policy"):
        assert text in watched.page, text
    assert len(watched.picture) > 40_000


def test_a_stage_has_its_own_log(watched):
    """Its lines, and no other stage's."""
    assert "setup/sft  worker-0  begins" in watched.log and "is done" in watched.log
    assert "setup/filter" not in watched.log and "setup/baseline" not in watched.log


OURS = (
    r"machine: .*",
    r"base: .*",
    r"memory: .*",
    r"  warning: .*",
    r"Ray dashboard http://127\.0\.0\.1:\d+ \(its token: `ray get-auth-token`\)",
    r"(setup|round-000)/\w+ +\d+\.\d s( .*)?",
)


def test_the_output_on_a_pipe_holds_no_line_that_is_not_ours(watched):
    """Standard output and standard error of the whole run, Ray's start and end included."""
    strange = [line for line in said_by(watched.run).splitlines() if not any(re.fullmatch(form, line) for form in OURS)]
    assert not strange


def test_no_dashboard_after_the_end(watched, capsys):
    run = watched.run.journal.parent
    assert not is_locked(run)
    assert main(["dashboard", "--runs", str(run.parent)]) == 2
    assert "no run is running" in capsys.readouterr().err
