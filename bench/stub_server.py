"""A local server with a chat-completions API that counts its requests; other benchmarks import it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHAPES = ("crowd", "stage", "street", "stadium", "portrait", "skyline", "poster", "table")


@dataclass
class StubServer:
    """The state of a running server.

    Attributes:
        url: Base URL of the API.
        delay: Seconds before a response.
        request_counts: Number of requests by SHA-256 of the request body.
    """

    delay: float
    url: str = ""
    request_counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return a response with a sentence that depends only on the request."""
        key = hashlib.sha256(body).hexdigest()
        with self._lock:
            self.request_counts[key] += 1
        time.sleep(self.delay)
        shape = SHAPES[int(key[:2], 16) % len(SHAPES)]
        text = f"This image shows a {shape} with several people in front of it, under a sign that reads {key[:6]}."
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 790, "completion_tokens": 24, "total_tokens": 814}
        return {
            "id": key,
            "object": "chat.completion",
            "created": 0,
            "model": "stub",
            "choices": [choice],
            "usage": usage,
        }


@contextmanager
def serving(delay: float = 0.0) -> Iterator[StubServer]:
    """Serve on a free port of the loopback interface until the end of the block."""
    state = StubServer(delay)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Answer a request."""
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # The build was killed while it sent the request, so the request does not count.
            content = json.dumps(state.answer(body)).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                return  # The build was killed.

        def handle(self) -> None:
            """Ignore connections that a killed build left open."""
            with suppress(ConnectionResetError):
                super().handle()

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
