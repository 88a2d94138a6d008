"""Serves the page until it is stopped, and continues the waiting run when enough labels are in (`--resume`).

The run is continued by a child process, `loop resume RUN`, and not by a run that waits, which would hold Ray and its GPUs for hours.
When the child waits for the next round's labels, the page asks for those. Must never import torch or Ray.
"""

import asyncio
import signal
import sys
import time

from aiohttp import web

from configs.errors import Stopped, UserError, WaitingForLabels
from loop.executors.executor import child_environment
from loop.labeling.desk import OVER, Desk
from loop.labeling.door import Door
from loop.labeling.page import Page
from loop.labeling.rounds import state_of
from loop.printing import say
from loop.store.layout import RunFolder

GRACE_SECONDS = 5.0
"""How long the last label can still be taken back before the run is continued."""
GOODBYE_SECONDS = 5.0
"""How long the pages that are open have to see that the run has ended."""
TICK_SECONDS = 0.25


def serve(folder: RunFolder, address: tuple[str, int], double: float, resume: bool) -> int:
    """Serve the page of a run; returns the exit code. address: host and port. Raises UserError."""
    desk = Desk(folder, double)
    try:
        desk.look()
        return asyncio.run(_serve(desk, address, resume))
    finally:
        desk.close()


async def _serve(desk: Desk, address: tuple[str, int], resume: bool) -> int:
    host, door = address[0], Door(desk.folder.labeling / "raters.json")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def on_enter(rater: str) -> None:
        say(f"{rater} is here; for another rater or another window: {_url(host, port, door)}")

    runner = web.AppRunner(Page(desk, door, host, on_enter).app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *address)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:  # UnicodeError: for a part of a host's name that is empty or too long
            why = error.strerror if isinstance(error, OSError) else "this cannot be the name of a machine"
            to_do = "choose another one with --port, or an address of this machine with --host"
            raise UserError(f"the page cannot listen there: {why}", f"{host}, port {address[1]}", to_do) from None
        port = runner.addresses[0][1]
        for line in _first_lines(desk, resume):
            say(line)
        say(f"open in a browser: {_url(host, port, door)}")
        sys.stdout.flush()
        return await _watch(desk, stop) if resume else await _wait(desk, stop)
    finally:
        await runner.cleanup()


async def _wait(desk: Desk, stop: asyncio.Event) -> int:
    """Serve until somebody stops the page. It looks once more after that, so that no label of the last moment goes unsaid."""
    was_enough = stopped = False
    while not stopped:
        stopped = await _stopped(stop, TICK_SECONDS)
        desk.look()
        if desk.state == OVER and not stopped:
            return await _run_has_ended(desk)
        if desk.is_enough and not was_enough:
            say(f"there are enough labels: `loop resume {desk.folder.name}` continues the run")
        was_enough = desk.is_enough
    _say_goodbye(desk)
    return 0


async def _watch(desk: Desk, stop: asyncio.Event) -> int:
    """Continue the run whenever enough labels are in. Returns its exit code when it has come to an end."""
    tried = -1  # how many labels were there when the run was last continued, and then waited for the same round again
    since, count = 0.0, -1
    while not await _stopped(stop, TICK_SECONDS):
        desk.look()
        if desk.state == OVER:
            return await _run_has_ended(desk)
        labeled = desk.queue.labeled if desk.queue else -1
        if labeled != count:
            since, count = time.monotonic(), labeled
        if not desk.is_enough or labeled <= tried or time.monotonic() - since < GRACE_SECONDS:
            continue
        number = desk.queue.asked.number if desk.queue else -1
        code = await _resume(desk, stop)
        if code != WaitingForLabels.exit_code:
            await asyncio.sleep(0 if stop.is_set() else GOODBYE_SECONDS)
            return code
        desk.look()
        again = desk.queue is not None and desk.queue.asked.number == number
        tried = labeled if again else -1
        if again:
            say("the run wants more labels for this round: it tries again when more pairs are labeled")
    _say_goodbye(desk)
    return 0


async def _resume(desk: Desk, stop: asyncio.Event) -> int:
    """Run `loop resume` in a child process; returns its exit code. Where the page is stopped, the run stops too, and can be continued."""
    name = desk.folder.name
    say(f"there are enough labels: continuing {name}")
    sys.stdout.flush()
    command = (sys.executable, "-P", "-m", "loop", "resume", name, "--runs", str(desk.folder.path.parent))
    child = await asyncio.create_subprocess_exec(
        *command,
        env=child_environment(),
        start_new_session=True,  # so that Ctrl-C reaches it once, from here
    )
    ended, stopped = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        child.send_signal(signal.SIGTERM)
    code = await ended
    return code if code >= 0 else Stopped.exit_code


async def _run_has_ended(desk: Desk) -> int:
    """Another process has brought the run to an end."""
    say(f"{desk.folder.name} is {state_of(desk.folder)}: nobody has to label")
    await asyncio.sleep(GOODBYE_SECONDS)
    return 0


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for a while. True if somebody stops the page meanwhile."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _url(host: str, port: int, door: Door) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/#{door.token}"


def _first_lines(desk: Desk, resume: bool) -> list[str]:
    if desk.queue is None:
        return [f"{desk.folder.name}: a process works on the run; pairs appear when it waits for labels"]
    asked, then = (
        desk.queue.asked,
        "and then the run continues" if resume else f"and then `loop resume {desk.folder.name}` continues the run",
    )
    return [
        f"{asked.run}, round {asked.number}: {desk.queue.labeled} of {desk.queue.wanted} pairs are labeled, {then}",
        f"{len(asked.pairs)} pairs are on offer; labels go to {asked.label_file}",
    ]


def _say_goodbye(desk: Desk) -> None:
    """What the raters have done, for the terminal."""
    if (queue := desk.queue) is None:
        return
    agreement = queue.agreement()
    say(f"{queue.labeled} of {queue.wanted} pairs are labeled: {queue.asked.label_file}")
    for rater, count in queue.by_rater().items():
        say(f"  {rater or 'nameless'}: {count}")
    if agreement.pairs:
        alpha = "" if agreement.alpha is None else f", alpha {agreement.alpha:.2f}"
        say(f"  agreement on {agreement.agree} of {agreement.pairs} pairs that several raters have labeled{alpha}")
