"""A server on the loopback that speaks chat completions and counts what it is asked; other benchmarks import it."""

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
class Stub:
    """What was asked.

    Attributes:
        url: Its address.
        delay: Seconds before it answers.
        asked: How often each question came, by a hash of the request.
    """

    delay: float
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: bytes) -> dict[str, Any]:
        """Answer with a sentence that depends on the request alone."""
        key = hashlib.sha256(body).hexdigest()
        with self._lock:
            self.asked[key] += 1
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
def serving(delay: float = 0.0) -> Iterator[Stub]:
    """Serve on a free port until the end of the block."""
    stub = Stub(delay)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Answer a question."""
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # The build was killed while it sent this: it was not asked.
            told = json.dumps(stub.answer(body)).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)
            except (BrokenPipeError, ConnectionResetError):
                return  # The build was killed.

        def handle(self) -> None:
            """Take it as an end when a build that was killed leaves its connection."""
            with suppress(ConnectionResetError):
                super().handle()

        def log_message(self, *told: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
