"""A local server with the parts of the chat-completions API that the generator uses; it can fail on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]
"""Status, body and headers. The body is JSON, bytes that are sent as they are, or pieces that are sent one by one."""


def completion(
    text: Any, finish_reason: str = "stop", refusal: str | None = None, tokens: tuple[int, int] | None = None
) -> Reply:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    body: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return 200, body, {}


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    # The client waits as long as the server asks for, so that the tests avoid its own longer delays.
    reply_headers = {"retry-after-ms": "5"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message, "code": code, "type": "t", "param": None}}, reply_headers


@dataclass
class ChatServer:
    """A running server with its requests.

    Attributes:
        answer: Returns the reply to a request body, given the number of earlier equal requests.
        requests: Request bodies in order of arrival.
        authorizations: The `Authorization` header of each request.
        max_concurrent: Largest number of concurrent requests.
    """

    answer: Callable[[dict[str, Any], int], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    max_concurrent: int = 0
    url: str = ""
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, authorization: str | None, body: dict[str, Any]) -> Reply:
        with self._lock:
            num_earlier = sum(request == body for request in self.requests)
            self.requests.append(body)
            self.authorizations.append(authorization)
            self._running += 1
            self.max_concurrent = max(self.max_concurrent, self._running)
        try:
            return self.answer(body, num_earlier) if path == "/v1/chat/completions" else failure(404)
        finally:
            with self._lock:
                self._running -= 1


def question(body: dict[str, Any]) -> str:
    """Return the text of the last message of a request."""
    return "".join(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[ChatServer]:
    """Serve on a free port of the loopback interface until the end of the block."""
    server = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply, headers = server.reply(self.path, self.headers["Authorization"], body)
            pieces = [json.dumps(reply).encode()] if isinstance(reply, dict | list) else reply
            pieces = [pieces] if isinstance(pieces, bytes) else pieces
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                return  # The client timed out, as the test intends.

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

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


def drip(seconds: float, reply: Reply) -> Reply:
    """Return the reply in pieces of one byte, with a delay in seconds after each."""
    status, body, headers = reply

    def pieces() -> Iterator[bytes]:
        for byte in json.dumps(body).encode():
            yield bytes([byte])
            time.sleep(seconds)

    return status, pieces(), headers


def stall(seconds: float, reply: Reply) -> Reply:
    """Return the reply after a delay in seconds."""
    time.sleep(seconds)
    return reply
