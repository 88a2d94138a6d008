"""Takes the picture of Ray's dashboard that docs/watching.md shows: the page of a worker while its run is in PPO of the second round.

    python -m docs.dashboard_picture

It starts two rounds on the embedded base with less of everything, logs in with the token in a Chromium, and stops the run with Ctrl-C. That
takes about a minute, once the base is in the cache. `tests/integration/test_watching.py` looks at the same page.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loop.store.journal import fold, read_events
from loop.store.layout import RunFolder
from loop.store.progress import read_progress

if TYPE_CHECKING:
    from playwright.sync_api import Page

FILE = Path(__file__).parent / "images" / "ray-dashboard.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome") if find_spec("playwright") else ()
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
"""None where there is no Chromium, or nothing that drives it."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
SIZE = {"width": 1340, "height": 1580}
"""The whole page, because its head stays where it is while one scrolls."""
PATIENCE = 120_000
"""How long the dashboard may take to show something, in milliseconds."""
ROUND, UPDATE = 1, 5
"""From when on the picture is taken."""
SETTINGS = ("data.num_pairs=400", "ppo.num_updates=60", "sample.num_prompts=60", "evaluate.num_prompts=64")
ALL_TASKS = "100"
"""How many tasks the page shows at once; by default it shows ten, in no order that means something."""


def token() -> str:
    """What `ray get-auth-token` prints."""
    return (Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip()


def rows(address: str, what: str) -> list[dict[str, Any]]:
    """What the dashboard knows of all tasks, or of all actors."""
    request = urllib.request.Request(f"{address}/api/v0/{what}?detail=1", headers={"Authorization": f"Bearer {token()}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["data"]["result"]["result"]


@contextmanager
def logged_in(address: str) -> "Iterator[Page]":
    """The dashboard in a window, after the token has been typed into the dialog that it shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.get_by_placeholder("Enter your authentication token").fill(token())
        with page.expect_navigation():
            page.keyboard.press("Enter")
        yield page
        browser.close()


def show_worker(page: "Page", address: str, name: str) -> None:
    """Open the page of a worker, with the lines that it has written and the stages that it has made."""
    (actor,) = [row for row in rows(address, "actors") if row["name"] == name]
    page.goto(f"{address}/#/actors/{actor['actor_id']}")
    page.get_by_role("tab", name="STDOUT").click()
    page.get_by_text("Tasks History").click()
    page.get_by_label("Page Size").fill(ALL_TASKS)


def main() -> None:
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "loop", "run", "--rounds", str(ROUND + 1), "--runs", runs, "--name", "embedded", *SETTINGS]
        process = subprocess.Popen(command)
        try:
            folder = RunFolder(Path(runs) / "embedded")
            progress = folder.work("policy", ROUND).progress
            while process.poll() is None and read_progress(progress).done < UPDATE:
                time.sleep(0.5)
            address = fold(read_events(folder.journal)).dashboard
            assert address is not None
            with logged_in(address) as page:
                show_worker(page, address, "embedded-worker-0")
                page.get_by_label("Name", exact=True).fill(f"round-{ROUND:03d}/")
                page.keyboard.press("Escape")
                page.get_by_role("cell", name=f"round-{ROUND:03d}/policy").wait_for()
                page.screenshot(path=FILE)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


if __name__ == "__main__":
    main()
