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

from plugins.servers.chat_options import ChatServerOptions
from runner.errors import DataError, RequirementError, RunnerError, StepError
from runner.records import ImagePart, Rendered
from runner.stages import Reporter, StopRequestedError

Message = dict[str, Any]

KNOWN_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that servers take; other files are sent as PNG."""

ORIENTATION = 0x0112
"""The tag in which a camera says that the picture is turned."""


def chat_messages(rendered: Rendered) -> list[Message]:
    """Write the solved examples as earlier turns, and the question as the last one.

    Raises:
        DataError: An image cannot be read.
    """
    messages: list[Message] = []
    for example in rendered.examples:
        messages += [_user(example), {"role": "assistant", "content": example.target}]
    return [*messages, _user(rendered)]


def _user(rendered: Rendered) -> Message:
    return {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": _data_url(part.path, rendered.id)}}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in rendered.content
        ],
    }


# Examples are the same for every question.
@lru_cache(maxsize=64)
def _data_url(path: Path, sample: str) -> str:
    """Inline a file as it is, where every server reads it as a person sees it; else as an upright PNG."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind = KNOWN_FORMATS.get(image.format or "")
            if kind is None or image.getexif().get(ORIENTATION, 1) != 1:
                content, kind = _upright_png(image), "image/png"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {sample}: image {path} cannot be used: {error}") from error
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _upright_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


MINUTE = 60.0


class RateLimiter:
    """Lets requests go one after the other, as far apart as both limits want it: evenly, so that no minute has more."""

    def __init__(self, requests: float | None, tokens: float | None, expected: Callable[[], float]) -> None:
        """Take the limits of a minute, None for no limit.

        Args:
            requests: Requests a minute.
            tokens: Tokens of question and answer a minute.
            expected: How many tokens the next request is likely to take.
        """
        self._requests, self._tokens, self._expected = requests, tokens, expected
        self._free = 0.0

    def gap(self) -> float:
        """Seconds from the start of the next request to that of the one after it."""
        by_requests = MINUTE / self._requests if self._requests else 0.0
        return max(by_requests, MINUTE * self._expected() / self._tokens if self._tokens else 0.0)

    async def turn(self) -> None:
        """Wait until a request may go."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._free)
        self._free = start + self.gap()
        if start > now:
            await asyncio.sleep(start - now)


POLL_SECONDS = 0.2
"""How long a wish to stop waits at the most."""

REFUSALS = {"content_filter", "content_policy_violation"}
"""Codes by which a server says that it will not answer a prompt, and that asking again will not help."""


@dataclass(frozen=True)
class Reply:
    """What a server answered to one prompt.

    Attributes:
        id: The prompt's id.
        text: The answer; empty where there is none.
        ending: Why it ended, in the server's word, such as `stop` or `length`; one of `REFUSALS` for a refusal.
        refusal: What the server says in place of an answer.
        model: The model that answered, as the server names it.
        name: The server's own name for this answer, another one each time.
        input_tokens: Of the prompt; None where the server does not say.
        output_tokens: Of the answer.
    """

    id: str
    text: str
    ending: str
    refusal: str | None = None
    model: str | None = None
    name: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class ChatServer:
    """A server, its key, and the parameters of every request."""

    def __init__(self, options: ChatServerOptions, stage: str, parameters: Mapping[str, Any], expected: float) -> None:
        """Take the options, and the key from the environment.

        Args:
            options: Where the server is and how it may be asked.
            stage: Which section of the spec the options are, for errors.
            parameters: Of every request, as the protocol names them.
            expected: Tokens that a request is likely to take, as long as none was answered.

        Raises:
            UnmetError: The environment has no key.
        """
        self._options, self._stage, self._parameters = options, stage, dict(parameters)
        self._requests, self._tokens = 1, expected
        # The package refuses to go without a key; a server that wants none ignores it.
        self._key = options.key(stage) or "none"

    def ask(self, prompts: Iterable[Rendered], reporter: Reporter) -> Iterator[Reply]:
        """Yield answers as they come.

        No request is sent while the caller holds an answer, and a prompt is drawn only when its request is sent: what
        was sent and not yielded is never more than `concurrency`.

        Raises:
            StopRequestedError: The user asked to stop; requests under way are given up.
            UnmetError: The server refuses the key.
            StepError: The server failed in spite of all retries.
            DataError: An image cannot be read.
        """
        waiting = iter(prompts)
        running: set[asyncio.Task[Reply]] = set()
        with asyncio.Runner() as loop:
            client = loop.run(self._client())
            try:
                while True:
                    if reporter.stop_requested():
                        raise StopRequestedError
                    ended, running = loop.run(self._some(client, waiting, running))
                    if not ended and not running:
                        return
                    replies = [task.result() for task in ended if task.exception() is None]
                    self._note(replies)
                    yield from replies
                    for error in (task.exception() for task in ended):
                        if error is not None:
                            raise error
            finally:
                loop.run(_give_up(client, running))

    async def _client(self) -> AsyncOpenAI:
        options = self._options
        pace = RateLimiter(
            options.requests_per_minute, options.tokens_per_minute, lambda: self._tokens / self._requests
        )

        async def held_back(_: Any) -> None:
            """Wait before every request, those that the package sends again included."""
            await pace.turn()

        return AsyncOpenAI(
            base_url=options.base_url,
            api_key=self._key,
            max_retries=options.max_retries,
            timeout=options.timeout,
            http_client=DefaultAsyncHttpxClient(event_hooks={"request": [held_back]}),
        )

    async def _some(
        self, client: AsyncOpenAI, waiting: Iterator[Rendered], running: set[asyncio.Task[Reply]]
    ) -> tuple[set[asyncio.Task[Reply]], set[asyncio.Task[Reply]]]:
        """Send as many requests as may be under way, and wait a little for one to end."""
        while len(running) < self._options.concurrency and (prompt := next(waiting, None)) is not None:
            running.add(asyncio.create_task(self._ask(client, prompt)))
        if not running:
            return set(), running
        return await asyncio.wait(running, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _ask(self, client: AsyncOpenAI, prompt: Rendered) -> Reply:
        try:
            told: Any = await client.chat.completions.create(
                model=self._options.model,
                messages=chat_messages(prompt),  # type: ignore[arg-type]  # plain dictionaries, as the protocol has it
                **self._parameters,
            )
        except APIStatusError as error:
            if error.code not in REFUSALS:
                raise self._told(prompt, error) from error
            return Reply(prompt.id, "", error.code)
        except OpenAIError as error:
            raise self._told(prompt, error) from error
        if not getattr(told, "choices", None):
            raise StepError(
                f"sample {prompt.id}: {self._options.base_url} answered without a completion; is it the address of "
                "a server that speaks chat completions, `/v1` included?"
            )
        return _reply(prompt.id, told)

    def _note(self, replies: Iterable[Reply]) -> None:
        """Let what answers took say what the next ones will; the first guess counts as one of them."""
        for reply in replies:
            if reply.input_tokens is not None:
                self._requests += 1
                self._tokens += reply.input_tokens + (reply.output_tokens or 0)

    def _told(self, prompt: Rendered, error: OpenAIError) -> RunnerError:
        """Say what the server did, without the key, which some repeat."""
        options = self._options
        said = " ".join(str(error).replace(self._key, "***").split())[:400]
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return RequirementError(
                f"{self._stage}: {options.base_url} refused the key in {options.api_key_env}: {said}"
            )
        if isinstance(error, RateLimitError):
            why = f"still allowed no more requests after {options.max_retries} retries: {said}; lower the concurrency"
        elif isinstance(error, APITimeoutError):
            why = f"did not answer within {options.timeout:g} seconds, {options.max_retries} retries included"
        elif isinstance(error, APIConnectionError):
            why = f"cannot be reached ({said})"
        else:
            why = f"failed: {said}"
        return StepError(
            f"sample {prompt.id}: {options.base_url} {why}. Answers that came are kept: run this again for the rest"
        )


def _reply(name: str, told: Any) -> Reply:
    choice, usage = told.choices[0], told.usage
    return Reply(
        id=name,
        text=choice.message.content or "",
        ending=choice.finish_reason or "",
        refusal=choice.message.refusal,
        model=told.model,
        name=told.id,
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
    )


async def _give_up(client: AsyncOpenAI, running: set[asyncio.Task[Reply]]) -> None:
    """End what is under way; what it still says goes unheard, as one failure was told already."""
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await client.close()
