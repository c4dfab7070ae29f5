"""Client of a server with OpenAI's chat completions API: messages, concurrent requests, rate limits and retries."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    DefaultAsyncHttpxClient,
    OpenAIError,
    PermissionDeniedError,
    RateLimitError,
)
from PIL import Image, ImageOps

from plugins.servers.openai_generator_and_annotator_options import ChatServerOptions
from runner.errors import DataError, RequirementError, RunnerError, StepError
from runner.images import open_image, read_image_file
from runner.records import ImagePart, Rendered
from runner.stages import Reporter, StopRequestedError

Message = dict[str, Any]

SUPPORTED_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Image formats that servers accept; other files are sent as PNG."""

EXIF_ORIENTATION = 0x0112
"""The EXIF tag with the rotation of a photo."""


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
            if media_type is None or image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                content, media_type = _upright_png(image), "image/png"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {sample}: image {path} cannot be used: {error}") from error
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _upright_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


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


POLL_SECONDS = 0.2
"""Maximum delay until a stop request is noticed."""

REFUSAL_CODES = {"content_filter", "content_policy_violation"}
"""Codes with which a server refuses a prompt, so that a retry would not help."""


@dataclass(frozen=True)
class Reply:
    """A server's reply to one prompt.

    Attributes:
        id: The prompt's id.
        text: The answer; empty if there is none.
        finish_reason: The server's reason for the end of the answer, such as `stop` or `length`; one of `REFUSAL_CODES`
            for a refusal.
        refusal: The server's explanation in place of an answer.
        model: The model that answered, as the server names it.
        response_id: The server's id of this response, which differs each time.
        input_tokens: Tokens of the prompt; None if the server does not report them.
        output_tokens: Tokens of the answer; None if the server does not report them.
    """

    id: str
    text: str
    finish_reason: str
    refusal: str | None = None
    model: str | None = None
    response_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class ChatServer:
    """A server, its key, and the parameters of every request."""

    def __init__(self, options: ChatServerOptions, stage: str, parameters: Mapping[str, Any], expected: float) -> None:
        """Take the options, and the key from the environment.

        Args:
            options: The server and its limits.
            stage: The section of the spec with these options, for errors.
            parameters: Parameters of every request, as the API names them.
            expected: Expected tokens of a request until one is completed.

        Raises:
            RequirementError: The environment has no key.
        """
        self._options, self._stage, self._parameters = options, stage, dict(parameters)
        self._num_requests, self._num_tokens = 1, expected
        # The package requires a key; a server without keys ignores it.
        self._key = options.key(stage) or "none"

    def complete(self, prompts: Iterable[Rendered], reporter: Reporter) -> Iterator[Reply]:
        """Request answers and yield them as they arrive.

        No request is sent while the caller processes an answer, and a prompt is taken only when its request is sent. So
        at most `concurrency` requests are sent whose answers have not been yielded.

        Raises:
            StopRequestedError: The user asked to stop; pending requests are cancelled.
            RequirementError: The server refuses the key.
            StepError: The server failed in spite of all retries.
            DataError: An image cannot be read.
        """
        remaining = iter(prompts)
        pending: set[asyncio.Task[Reply]] = set()
        with asyncio.Runner() as loop:
            client = loop.run(self._make_client())
            try:
                while True:
                    if reporter.stop_requested():
                        raise StopRequestedError
                    done, pending = loop.run(self._send_and_wait(client, remaining, pending))
                    if not done and not pending:
                        return
                    replies = [task.result() for task in done if task.exception() is None]
                    self._count_tokens(replies)
                    yield from replies
                    for error in (task.exception() for task in done):
                        if error is not None:
                            raise error
            finally:
                loop.run(_cancel(client, pending))

    async def _make_client(self) -> AsyncOpenAI:
        options = self._options
        limiter = RateLimiter(
            options.requests_per_minute, options.tokens_per_minute, lambda: self._num_tokens / self._num_requests
        )

        async def limit_rate(_: Any) -> None:
            """Wait before every request, the package's retries included."""
            await limiter.wait()

        return AsyncOpenAI(
            base_url=options.base_url,
            api_key=self._key,
            max_retries=options.max_retries,
            timeout=options.timeout,
            http_client=DefaultAsyncHttpxClient(event_hooks={"request": [limit_rate]}),
        )

    async def _send_and_wait(
        self, client: AsyncOpenAI, remaining: Iterator[Rendered], pending: set[asyncio.Task[Reply]]
    ) -> tuple[set[asyncio.Task[Reply]], set[asyncio.Task[Reply]]]:
        """Send requests up to `concurrency`, and wait up to `POLL_SECONDS` for one to complete.

        Returns:
            The completed and the pending requests.
        """
        while len(pending) < self._options.concurrency and (prompt := next(remaining, None)) is not None:
            pending.add(asyncio.create_task(self._request(client, prompt)))
        if not pending:
            return set(), pending
        return await asyncio.wait(pending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _request(self, client: AsyncOpenAI, prompt: Rendered) -> Reply:
        try:
            response: Any = await client.chat.completions.create(
                model=self._options.model,
                messages=chat_messages(prompt),  # type: ignore[arg-type]  # plain dictionaries, as the API has it
                **self._parameters,
            )
        except APIStatusError as error:
            if error.code not in REFUSAL_CODES:
                raise self._convert_error(prompt, error) from error
            return Reply(prompt.id, "", error.code)
        except OpenAIError as error:
            raise self._convert_error(prompt, error) from error
        if not getattr(response, "choices", None):
            raise StepError(
                f"sample {prompt.id}: {self._options.base_url} answered without a completion; check that this is the "
                "URL of a chat completions server, `/v1` included"
            )
        choice, usage = response.choices[0], response.usage
        return Reply(
            id=prompt.id,
            text=choice.message.content or "",
            finish_reason=choice.finish_reason or "",
            refusal=choice.message.refusal,
            model=response.model,
            response_id=response.id,
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
        )

    def _count_tokens(self, replies: Iterable[Reply]) -> None:
        """Update the expected tokens of a request; the initial estimate counts as one request."""
        for reply in replies:
            if reply.input_tokens is not None:
                self._num_requests += 1
                self._num_tokens += reply.input_tokens + (reply.output_tokens or 0)

    def _convert_error(self, prompt: Rendered, error: OpenAIError) -> RunnerError:
        """Describe a server's failure, without the key, which some servers repeat."""
        options = self._options
        detail = " ".join(str(error).replace(self._key, "***").split())[:400]
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return RequirementError(
                f"{self._stage}: {options.base_url} refused the key in {options.api_key_env}: {detail}"
            )
        if isinstance(error, RateLimitError):
            reason = f"still limits the rate after {options.max_retries} retries: {detail}; lower the concurrency"
        elif isinstance(error, APITimeoutError):
            reason = f"did not answer within {options.timeout:g} seconds in any of {options.max_retries + 1} attempts"
        elif isinstance(error, APIConnectionError):
            reason = f"cannot be reached ({detail})"
        else:
            reason = f"failed: {detail}"
        return StepError(
            f"sample {prompt.id}: {options.base_url} {reason}. Completed answers are saved: run the same command again "
            "for the others"
        )


async def _cancel(client: AsyncOpenAI, pending: set[asyncio.Task[Reply]]) -> None:
    """Cancel pending requests; their errors are ignored, as one failure was reported already."""
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await client.close()
