"""HTTP client of a model server: limits of the rate, of the time and size of a response, and of what is sent."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient, OpenAIError

from plugins.servers.openai_generator_and_annotator_options import ChatServerOptions

SECONDS_PER_MINUTE = 60.0


class RateLimiter:
    """Spaces requests evenly, so that no minute exceeds the limits of requests and tokens."""

    def __init__(self, requests: float | None, tokens: float | None, expected_tokens: Callable[[], float]) -> None:
        """Take the limits per minute; None for no limit.

        Args:
            requests: Maximum requests per minute.
            tokens: Maximum tokens of prompts and answers per minute.
            expected_tokens: Returns the expected tokens of the next request.
        """
        self._requests, self._tokens, self._expected_tokens = requests, tokens, expected_tokens
        self._next_start = 0.0

    def interval(self) -> float:
        """Return the seconds from the start of the next request to that of the following one."""
        by_requests = SECONDS_PER_MINUTE / self._requests if self._requests else 0.0
        by_tokens = SECONDS_PER_MINUTE * self._expected_tokens() / self._tokens if self._tokens else 0.0
        return max(by_requests, by_tokens)

    async def wait(self) -> None:
        """Wait until the next request may be sent."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_start)
        self._next_start = start + self.interval()
        if start > now:
            await asyncio.sleep(start - now)


class BoundedClient(DefaultAsyncHttpxClient):
    """Sends requests to one server within the limits of its options, and reads each response within these limits.

    A response that redirects to another address is not followed: prompts and key go to the server's URL alone. Headers
    that the package takes from the environment (`OPENAI_ORG_ID`, `OPENAI_CUSTOM_HEADERS`) and cookies are not sent.
    Requests to this machine do not go through the proxy that the environment names.

    Attributes:
        sending: The tasks whose requests are sent and not answered yet.
        is_stopped: Whether a task is cancelled in place of sending another request.
    """

    def __init__(self, options: ChatServerOptions, limiter: RateLimiter) -> None:
        """Take the limits of time and size, and the limiter that every request waits for, retries included."""
        super().__init__(follow_redirects=False, mounts={f"all://{host}": None for host in LOOPBACK_HOSTS})
        self._seconds, self._max_bytes, self._limiter = options.timeout, options.max_response_bytes, limiter
        self.sending: set[asyncio.Task[Any] | None] = set()
        self.is_stopped = False

    async def send(self, request: httpx2.Request, **arguments: Any) -> httpx2.Response:
        """Send a request and read the whole response.

        Raises:
            httpx2.ReadTimeout: The response was not complete in time; the package tries again.
            UnreadableResponseError: The response is too large or cannot be unpacked; trying again would not help.
        """
        await self._limiter.wait()
        if self.is_stopped:
            raise asyncio.CancelledError
        headers = [(name, value) for name, value in request.headers.raw if name.lower() in SENT_HEADERS]
        sent = httpx2.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        task = asyncio.current_task()
        self.sending.add(task)
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(sent, **{**arguments, "stream": True, "follow_redirects": False})
                try:
                    return await self._read(response, request)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the response is not complete", request=request) from error
        finally:
            self.sending.discard(task)

    async def _read(self, response: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
        """Return the response to a request of the package: its unpacked content, and the headers that are read."""
        try:
            content = await self._read_content(response)
        except UnreadableResponseError:
            if response.is_success:
                raise
            content = b""  # The status says what failed, and whether another attempt can help.
        # A server chooses its headers: their characters, and a character set that decodes the content of an error.
        headers = [(name, value) for name, value in response.headers.raw if name.lower() in READ_HEADERS]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)

    async def _read_content(self, response: httpx2.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity", *ZLIB_ENCODINGS}:
            raise UnreadableResponseError(f"is compressed as {encoding!a}, which was not requested")
        unpacker = zlib.decompressobj(ANY_ZLIB_HEADER) if encoding in ZLIB_ENCODINGS else None
        content = bytearray()
        async for chunk in response.aiter_raw():
            try:
                # One byte more than allowed is enough to see that the response is too large.
                content += unpacker.decompress(chunk, self._max_bytes + 1 - len(content)) if unpacker else chunk
            except zlib.error as error:
                raise UnreadableResponseError(f"cannot be unpacked ({error})") from error
            if len(content) > self._max_bytes:
                raise UnreadableResponseError(f"has more than {self._max_bytes:,} bytes (max_response_bytes)")
        return bytes(content)


class UnreadableResponseError(OpenAIError):
    """A response that is too large or cannot be unpacked. The package does not repeat a request after such an error."""


ZLIB_ENCODINGS = {"gzip", "x-gzip", "deflate"}
"""Compressions that servers use although none is requested, and that can be unpacked piece by piece."""
ANY_ZLIB_HEADER = 47
"""The argument of `zlib.decompressobj` for data in the format of gzip or of zlib."""
SENT_HEADERS = {
    b"accept",
    b"accept-encoding",
    b"authorization",
    b"connection",
    b"content-length",
    b"content-type",
    b"host",
    b"user-agent",
}
"""The headers of a request."""
READ_HEADERS = {b"location", b"retry-after", b"retry-after-ms", b"x-should-retry"}
"""The headers of a response that are read once its content is unpacked."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Hosts of a URL that name this machine."""
