"""A server that speaks the chat-completions protocol, in a thread, over a real socket. What it replies is a function of the test's."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server sends: a text, or a status, or raw bytes instead of JSON. seconds: how long it waits before that."""

    text: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    seconds: float = 0.0


class ChatServer:
    """Counts by content what was asked, and what was replied with status 200, which a service would have charged."""

    def __init__(self, reply: Callable[[str, int], Answer]):
        """reply: from the message of the user, and how often it was asked before, to the answer."""
        self.reply = reply
        self.asked, self.paid, self.keys = Counter[str](), Counter[str](), Counter[str]()
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: set[str | None] = set()
        self.most_at_once = self._at_once = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                chat.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that goes away is part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.lock:
            before = self.asked[text]
            self.asked[text] += 1
            self.keys[request.headers["Idempotency-Key"]] += 1
            self.bodies.append(body | {"path": request.path})
            self.authorizations.add(request.headers["Authorization"])
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = self.reply(text, before)
            self.closing.wait(answer.seconds)
        finally:
            with self.lock:
                self._at_once -= 1
        said = {
            "choices": [{"message": {"role": "assistant", "content": answer.text}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 2},
        }
        if answer.status != 200:
            said = {"error": {"message": answer.text}}
        content = json.dumps(said).encode() if answer.raw is None else answer.raw
        request.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        with self.lock:
            self.paid[text] += answer.status == 200 and answer.raw is None
        request.wfile.write(content)
