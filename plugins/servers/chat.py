"""Client of servers with OpenAI's chat completions API: messages, concurrent requests and retries."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx2
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    OpenAIError,
    PermissionDeniedError,
    RateLimitError,
)
from PIL import Image, ImageOps

from plugins.servers.answers import REFUSAL_CODES, AnswerNotes, Reply, read_reply
from plugins.servers.bounded_client import BoundedClient, RateLimiter, UnreadableResponseError
from plugins.servers.openai_generator_and_annotator_options import ChatServerOptions
from runner.errors import DataError, RequirementError, RunnerError, StepError
from runner.images import ORIENTATION, open_image, read_image_file
from runner.records import ImagePart, Rendered
from runner.redaction import redact_passwords
from runner.stages import Reporter, StopRequestedError

Message = dict[str, Any]

SUPPORTED_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Image formats that servers accept; other files are sent as PNG."""


def chat_messages(rendered: Rendered) -> list[Message]:
    """Convert a prompt to chat messages, with its solved examples as earlier turns.

    Raises:
        DataError: An image cannot be read.
    """
    messages: list[Message] = []
    for example in rendered.examples:
        messages += [_user_message(example), {"role": "assistant", "content": example.target}]
    return [*messages, _user_message(rendered)]


def _user_message(rendered: Rendered) -> Message:
    return {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": _data_url(part.path, rendered.id)}}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in rendered.content
        ],
    }


# Examples are the same in every prompt.
@lru_cache(maxsize=64)
def _data_url(path: Path, sample: str) -> str:
    """Encode an image file as a data URL: unchanged if its format is supported and it is upright, else as PNG."""
    try:
        content = read_image_file(path)
        with open_image(content) as image:
            media_type = SUPPORTED_FORMATS.get(image.format or "")
            if media_type is None or image.getexif().get(ORIENTATION, 1) != 1:
                content, media_type = _upright_png(image), "image/png"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {sample}: image {path} cannot be used: {error}") from error
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _upright_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


CONNECTION_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables that decide how connections are made; those of proxies may be written in lower case."""

POLL_SECONDS = 0.2
"""Maximum delay until a stop request is noticed."""


class ChatServer:
    """A server or several equal ones, their key, and the parameters of every request."""

    def __init__(
        self,
        options: ChatServerOptions,
        stage: str,
        parameters: Mapping[str, Any],
        expected: float,
        *,
        urls: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        """Take the options, and the key from the environment unless it is given.

        Args:
            options: The server and its limits. `concurrency` holds for each server.
            stage: The section of the spec with these options, for errors.
            parameters: Parameters of every request, as the API names them.
            expected: Expected tokens of a request until one is completed.
            urls: URLs of several servers with the same model; by default that of the options alone.
            key: The key of the servers.

        Raises:
            RequirementError: The environment has no key.
        """
        self._options, self._stage, self._parameters = options, stage, dict(parameters)
        self._urls = tuple(urls) or (options.base_url,)
        self._num_requests, self._num_tokens = 1, expected
        self._key = key or options.key(stage)

    @property
    def address(self) -> str:
        """The URLs of the servers, for messages."""
        return ", ".join(self._urls)

    def complete(self, prompts: Iterable[Rendered], reporter: Reporter) -> Iterator[Reply]:
        """Request answers and yield them as they arrive.

        No request is sent while the caller processes an answer, and a prompt is taken only when its request is sent. So
        at most `concurrency` requests are sent to each server whose answers have not been yielded. The next request
        goes to the server with the fewest pending requests. After an error, no more requests are sent. The answers to
        those that are sent already are paid for and are yielded before the error is raised.

        Raises:
            StopRequestedError: The user asked to stop; pending requests are cancelled.
            RequirementError: The server refuses the key, or the environment allows no connections.
            StepError: The server failed in spite of all retries, or its answer cannot be read.
            DataError: An image cannot be read.
        """
        remaining = iter(prompts)
        pending: dict[asyncio.Task[Reply], str] = {}
        notes = AnswerNotes(self.address)
        failure: BaseException | None = None
        with asyncio.Runner() as loop:
            http_clients = self._make_http_clients()
            clients = loop.run(self._make_clients(http_clients))
            try:
                while True:
                    if reporter.stop_requested():
                        raise StopRequestedError
                    done = loop.run(self._send_and_wait(clients, remaining, pending))
                    if not done and not pending:
                        break
                    done = {task for task in done if not task.cancelled()}
                    replies = [task.result() for task in done if task.exception() is None]
                    self._count_tokens(replies)
                    for reply in replies:
                        notes.add(reply.id, reply.notes)
                    yield from replies
                    for error in (task.exception() for task in done):
                        failure = failure or error
                    if failure is not None:
                        remaining = iter(())
                        sending: set[asyncio.Task[Any] | None] = set()
                        for http_client in http_clients.values():
                            http_client.is_stopped = True
                            sending |= http_client.sending
                        for task in pending.keys() - sending:
                            task.cancel()
                if failure is not None:
                    raise failure
            finally:
                notes.warn(reporter)
                loop.run(_cancel(clients.values(), pending))

    def _make_http_clients(self) -> dict[str, BoundedClient]:
        """Return a client for each URL. The limits of requests and tokens hold for all of them together."""
        options = self._options
        limiter = RateLimiter(
            options.requests_per_minute, options.tokens_per_minute, lambda: self._num_tokens / self._num_requests
        )
        try:
            return {url: BoundedClient(options, limiter) for url in self._urls}
        except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:
            variables = [name for name in os.environ if name.upper() in CONNECTION_VARIABLES]
            reason = redact_passwords(str(error)).rstrip(".")
            raise RequirementError(
                f"{self._stage}: no connection to {self.address} can be made: {reason}. Check the environment "
                f"variables {', '.join(variables) or 'of proxies and certificates'}"
            ) from error

    async def _make_clients(self, http_clients: Mapping[str, BoundedClient]) -> dict[str, AsyncOpenAI]:
        # The package requires a key; a server without keys ignores it. It would also take values from the environment.
        key = self._key or "none"
        return {
            url: AsyncOpenAI(
                base_url=url,
                api_key=key,
                organization="",
                project="",
                max_retries=self._options.max_retries,
                timeout=self._options.timeout,
                default_headers={"Accept-Encoding": "identity", "Authorization": f"Bearer {key}"},
                http_client=http_client,
            )
            for url, http_client in http_clients.items()
        }

    async def _send_and_wait(
        self,
        clients: Mapping[str, AsyncOpenAI],
        remaining: Iterator[Rendered],
        pending: dict[asyncio.Task[Reply], str],
    ) -> set[asyncio.Task[Reply]]:
        """Send requests up to `concurrency` for each server, and wait up to `POLL_SECONDS` for one to complete.

        Args:
            clients: The client of each URL.
            remaining: The prompts whose requests have not been sent.
            pending: The URL of each pending request; it is updated.

        Returns:
            The completed requests.
        """
        num_pending = Counter(pending.values())
        while num_pending[url := min(clients, key=num_pending.__getitem__)] < self._options.concurrency:
            prompt = next(remaining, None)
            if prompt is None:
                break
            pending[asyncio.create_task(self._request(clients[url], url, prompt))] = url
            num_pending[url] += 1
        if not pending:
            return set()
        done, _ = await asyncio.wait(pending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del pending[task]
        return done

    async def _request(self, client: AsyncOpenAI, url: str, prompt: Rendered) -> Reply:
        messages = chat_messages(prompt)
        try:
            response = await client.chat.completions.with_raw_response.create(
                model=self._options.model,
                messages=messages,  # type: ignore[arg-type]  # plain dictionaries, as the API has it
                **self._parameters,
            )
        except APIStatusError as error:
            code: object = error.code
            if not isinstance(code, str) or code not in REFUSAL_CODES:
                raise self._convert_error(url, prompt, error) from error
            return Reply(prompt.id, "", code)
        except OpenAIError as error:
            raise self._convert_error(url, prompt, error) from error
        try:
            return read_reply(prompt.id, response.content)
        except ValueError as error:
            # The message shows a part of the content, which could hold a part of the key.
            has_key = self._key is not None and self._key.encode() in response.content
            reason = "it repeats the API key and is therefore not shown" if has_key else str(error)
            raise StepError(
                f"{self._stage}: sample {prompt.id}: {url} answered without a completion: {reason}. "
                "The answer is not stored. Check the server, and that `base_url` is the URL of a chat completions "
                "server, `/v1` included; then run the same command again"
            ) from error

    def _count_tokens(self, replies: Iterable[Reply]) -> None:
        """Update the expected tokens of a request; the initial estimate counts as one request."""
        for reply in replies:
            if reply.input_tokens is not None:
                self._num_requests += 1
                self._num_tokens += reply.input_tokens + (reply.output_tokens or 0)

    def _convert_error(self, url: str, prompt: Rendered, error: OpenAIError) -> RunnerError:
        """Describe a server's failure, without the key, which some servers repeat."""
        options = self._options
        detail = self._printable(_error_text(error))[:400]
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return RequirementError(f"{self._stage}: {url} refused the key in {options.api_key_env}: {detail}")
        if isinstance(error, UnreadableResponseError):
            return StepError(
                f"{self._stage}: sample {prompt.id}: the answer of {url} {detail}. The answer is not stored"
            )
        if isinstance(error, RateLimitError):
            reason = f"still limits the rate after {options.max_retries} retries: {detail}; lower the concurrency"
        elif isinstance(error, APITimeoutError):
            reason = f"did not answer within {options.timeout:g} seconds in any of {options.max_retries + 1} attempts"
        elif isinstance(error, APIConnectionError):
            reason = f"cannot be reached ({detail})"
        elif isinstance(error, APIStatusError) and error.response.has_redirect_location:
            location = self._printable(redact_passwords(error.response.headers["location"]))[:200]
            reason = f"redirects to {location}, which is not followed; write the URL of the server as base_url"
        else:
            reason = f"failed: {detail}"
        return StepError(
            f"sample {prompt.id}: {url} {reason}. Completed answers are saved: run the same command again "
            "for the others"
        )

    def _printable(self, text: str) -> str:
        """Return a server's text in one line of printable characters, without the key."""
        text = text if self._key is None else text.replace(self._key, "***")
        return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))


def _error_text(error: OpenAIError) -> str:
    """Return the message of an error, and what the package leaves out of it: its cause, or a body of another form."""
    if isinstance(error, APIStatusError) and str(error) == f"Error code: {error.status_code}":
        return f"{error} {error.response.text}"
    if isinstance(error, APIConnectionError) and error.__cause__ is not None:
        return f"{error.__cause__ or type(error.__cause__).__name__}"
    return str(error)


async def _cancel(clients: Iterable[AsyncOpenAI], pending: Collection[asyncio.Task[Reply]]) -> None:
    """Cancel pending requests; their errors are ignored, as one failure was reported already."""
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for client in clients:
        await client.close()
