"""The web page: what a browser may ask, and what it gets.

    GET  /               the page, without anything of the run
    POST /api/enter      a token and a name, for a key (door.py)
    GET  /api/view       the pair that this rater is asked now, and how far everything is
    POST /api/answer     a verdict on a pair: left, right or tie, and a note. The answer comes when the label is on disk.
    POST /api/skip       put a pair behind all others
    POST /api/undo       take back the last verdict or skip

All but the first two need the key. Texts of samples are hostile: they go out as JSON and are set as text (page.js), and the browser is told
to run nothing else than that one script.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from loop.labeling.answers import Conflict
from loop.labeling.desk import Desk, RunIsWorking
from loop.labeling.door import Door, check_rater, is_allowed
from loop.labeling.queue import CHOICES, Queue
from loop.printing import printable

HERE = Path(__file__).parent
MAX_NOTE = 4000
MAX_BODY = 1 << 16
KEYS = [
    ("left", "\N{LEFTWARDS ARROW}", "Left is better"),
    ("tie", "\N{DOWNWARDS ARROW}", "Equally good"),
    ("right", "\N{RIGHTWARDS ARROW}", "Right is better"),
    ("skip", "S", "Skip"),
    ("undo", "U", "Undo"),
    ("note", "N", "Note"),
]
"""The buttons: their action, their key, and what they say."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """The handlers. on_enter: called with the name of a rater who has just come in. host: the name that the page listens on."""

    def __init__(self, desk: Desk, door: Door, host: str, on_enter: Callable[[str], None]):
        self.desk, self.door, self.host, self._on_enter = desk, door, host, on_enter
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined)
        self._html = environment.get_template("page.html.jinja").render(keys=KEYS, max_note=MAX_NOTE)

    def app(self) -> web.Application:
        """The page as an application of aiohttp."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/page.css", _file("page.css", "text/css")),
                web.get("/page.js", _file("page.js", "text/javascript")),
                web.get("/favicon.ico", _nothing),
                web.post("/api/enter", self._enter),
                web.get("/api/view", self._view),
                web.post("/api/answer", self._answer),
                web.post("/api/skip", self._skip),
                web.post("/api/undo", self._undo),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what was sent to another name, and send the headers with everything."""
        try:
            if not is_allowed(request.headers.get("Host", ""), self.host):
                raise web.HTTPMisdirectedRequest(text="This page has another name: see the terminal.")
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        response.headers.update(HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html")

    async def _enter(self, request: web.Request) -> web.Response:
        body = await _json(request)
        try:
            rater = check_rater(body.get("rater"))
        except ValueError as error:
            return web.json_response({"problem": str(error)}, status=400)
        key = self.door.enter(str(body.get("token", "")), rater)
        if key is None:
            problem = "This address was used before. The terminal shows a new one."
            return web.json_response({"problem": problem}, status=401)
        self._on_enter(rater)
        return web.json_response({"key": key})

    async def _view(self, request: web.Request) -> web.Response:
        return web.json_response(self.desk.view(self._rater(request)))

    async def _answer(self, request: web.Request) -> web.Response:
        rater, body = self._rater(request), await _json(request)
        name, choice, note = (str(body.get(key, "")) for key in ("pair", "choice", "note"))
        if choice not in CHOICES or len(note) > MAX_NOTE:
            raise web.HTTPBadRequest(text="the choice is not left, right or tie, or the note is too long")
        note = printable(note).strip()
        return self._changed(rater, lambda queue: queue.answer(rater, name, choice, note))

    async def _skip(self, request: web.Request) -> web.Response:
        rater, body = self._rater(request), await _json(request)
        return self._changed(rater, lambda queue: queue.skip(rater, str(body.get("pair", ""))))

    async def _undo(self, request: web.Request) -> web.Response:
        rater, body = self._rater(request), await _json(request)
        return self._changed(rater, lambda queue: queue.undo(rater, str(body.get("undo", ""))))

    def _changed(self, rater: str, change: Callable[[Queue], Any]) -> web.Response:
        """Have a change written to disk, and answer what the rater sees next. `problem` is there if nothing was written.

        Nothing else runs meanwhile, so two changes are never made at once.
        """
        problem, status = "", 200
        try:
            self.desk.write(change)
        except RunIsWorking:
            problem, status = "This was not saved, because the run has continued without it.", 409
        except KeyError:
            problem, status = "This was not saved, because the run has other pairs now.", 409
        except Conflict:
            problem, status = "You have labeled this pair differently before, perhaps in another window. Undo takes that back.", 409
        except OSError as error:
            problem, status = f"This was not saved: {error.strerror or error}.", 507
        return web.json_response(self.desk.view(rater) | {"problem": problem}, status=status)

    def _rater(self, request: web.Request) -> str:
        """Who asks. Raises HTTPUnauthorized for an unknown key."""
        rater = self.door.rater(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if rater is None:
            raise web.HTTPUnauthorized(text="open the address that the terminal shows")
        return rater


async def _json(request: web.Request) -> dict[str, Any]:
    """The body of a request. Raises HTTPBadRequest if it is not an object."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object")
    return body


def _file(name: str, kind: str) -> Handler:
    text = (HERE / name).read_text(encoding="utf-8")

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind)

    return handler


async def _nothing(request: web.Request) -> web.Response:
    """Browsers ask for an icon."""
    return web.Response(status=204)
