"""A small server on the loopback that speaks chat completions as far as the generator does, and fails on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any], dict[str, str]]


def completion(
    text: str | None, finish_reason: str = "stop", refusal: str | None = None, tokens: tuple[int, int] | None = None
) -> Reply:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    told: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    if tokens is not None:
        told["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return 200, told, {}


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    # The package waits for as long as a server says, so the tests need not sit out its own delays.
    waits = {"retry-after-ms": "5"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message, "code": code, "type": "t", "param": None}}, waits


@dataclass
class ChatServer:
    """What was asked, and what is answered.

    Attributes:
        answer: From a request and how often the same was asked before, to a reply.
        asked: The requests in order of arrival.
        keys: The keys they came with.
        most: The most that were under way at once.
    """

    answer: Callable[[dict[str, Any], int], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    url: str = ""
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, key: str | None, body: dict[str, Any]) -> Reply:
        with self._lock:
            before = sum(each == body for each in self.asked)
            self.asked.append(body)
            self.keys.append(key)
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            return self.answer(body, before) if path == "/v1/chat/completions" else failure(404)
        finally:
            with self._lock:
                self._running -= 1


def question(body: dict[str, Any]) -> str:
    """The text of the last turn."""
    return "".join(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[ChatServer]:
    """Serve on a free port of the loopback until the end of the block."""
    server = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, told, headers = server.reply(self.path, self.headers["Authorization"], body)
            content = json.dumps(told).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                return  # The client gave up waiting, as the test meant it to.

        def log_message(self, *told: Any) -> None:
            """Nothing is printed."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def stall(seconds: float, reply: Reply) -> Reply:
    """Reply late."""
    time.sleep(seconds)
    return reply
