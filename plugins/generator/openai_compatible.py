"""Answers from a server that speaks OpenAI's chat completions, several requests at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

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

from plugins.generator.messages import chat_messages
from plugins.generator.openai_compatible_options import OpenAICompatibleOptions
from runner.errors import RunnerError, StepError, UnmetError
from runner.records import Completion, Rendered
from runner.stages import Reporter, StopRequestedError, Weights

POLL_SECONDS = 0.2
"""How long a wish to stop waits at the most."""

REFUSALS = {"content_filter", "content_policy_violation"}
"""Codes by which a server says that it will not answer a prompt, and that asking again will not help."""


class OpenAICompatibleGenerator:
    """The plugin `openai_compatible` of the stage `generator`."""

    def __init__(self, options: OpenAICompatibleOptions) -> None:
        """Take the section's options, and the key from the environment.

        Raises:
            UnmetError: The environment has no key.
        """
        self._options = options
        # The package refuses to go without a key; a server that wants none ignores it.
        self._key = "none"
        if options.api_key_env is not None:
            self._key = os.environ.get(options.api_key_env, "")
            if not self._key:
                raise UnmetError(
                    f"generator: the environment has no {options.api_key_env}, which should hold the key for "
                    f"{options.base_url}; set it, or say `api_key_env: null` for a server that wants none"
                )

    def generate(
        self,
        weights: Weights | None,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield the missing answers as they come; see `Generator.generate`.

        A refusal is an answer without text. One that the limit cut off is not `finished`.

        Raises:
            StopRequestedError: The user asked to stop; requests under way are given up.
            UnmetError: The server refuses the key.
            StepError: The server failed in spite of all retries; what came before it is kept.
            DataError: An image cannot be read.
        """
        reporter.progress(len(done), len(prompts))
        began = time.perf_counter()
        missing = [prompt for prompt in prompts if prompt.id not in done]
        for asked, completion in enumerate(self._answers(missing, reporter), 1):
            yield completion
            speed = asked / (time.perf_counter() - began)
            reporter.progress(len(done) + asked, len(prompts), samples_per_second=speed)

    def _answers(self, missing: Sequence[Rendered], reporter: Reporter) -> Iterator[Completion]:
        waiting = deque(missing)
        running: set[asyncio.Task[Completion]] = set()
        options = self._options
        with asyncio.Runner() as loop:
            client = AsyncOpenAI(
                base_url=options.base_url, api_key=self._key, max_retries=options.max_retries, timeout=options.timeout
            )
            try:
                while waiting or running:
                    if reporter.stop_requested():
                        raise StopRequestedError
                    ended, running = loop.run(self._some(client, waiting, running, reporter))
                    yield from (task.result() for task in ended if task.exception() is None)
                    for error in (task.exception() for task in ended):
                        if error is not None:
                            raise error
            finally:
                loop.run(_give_up(client, running))

    async def _some(
        self, client: AsyncOpenAI, waiting: deque[Rendered], running: set[asyncio.Task[Completion]], reporter: Reporter
    ) -> tuple[set[asyncio.Task[Completion]], set[asyncio.Task[Completion]]]:
        """Send as many requests as may be under way, and wait a little for one to end."""
        while waiting and len(running) < self._options.concurrency:
            running.add(asyncio.create_task(self._ask(client, waiting.popleft(), reporter)))
        return await asyncio.wait(running, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _ask(self, client: AsyncOpenAI, prompt: Rendered, reporter: Reporter) -> Completion:
        try:
            reply: Any = await client.chat.completions.create(
                model=self._options.model,
                messages=chat_messages(prompt),  # type: ignore[arg-type]  # plain dictionaries, as the protocol has it
                temperature=0.0,
                max_tokens=self._options.max_new_tokens,
            )
        except APIStatusError as error:
            if error.code not in REFUSALS:
                raise self._told(prompt, error) from error
            reporter.warn(f"sample {prompt.id}: the server refused to answer ({error.code}); kept as an empty answer")
            return Completion(prompt.id, "")
        except OpenAIError as error:
            raise self._told(prompt, error) from error
        choices = getattr(reply, "choices", None)
        if not choices:
            raise StepError(
                f"sample {prompt.id}: {self._options.base_url} answered without a completion; is it the address of "
                "a server that speaks chat completions, `/v1` included?"
            )
        return Completion(prompt.id, choices[0].message.content or "", finished=choices[0].finish_reason != "length")

    def _told(self, prompt: Rendered, error: OpenAIError) -> RunnerError:
        """Say what the server did, without the key, which some repeat."""
        options = self._options
        said = " ".join(str(error).replace(self._key, "***").split())[:400]
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return UnmetError(f"generator: {options.base_url} refused the key in {options.api_key_env}: {said}")
        if isinstance(error, RateLimitError):
            why = f"still allowed no more requests after {options.max_retries} retries: {said}; lower the concurrency"
        elif isinstance(error, APITimeoutError):
            why = f"did not answer within {options.timeout:g} seconds, {options.max_retries} retries included"
        elif isinstance(error, APIConnectionError):
            why = f"cannot be reached ({said})"
        else:
            why = f"failed: {said}"
        return StepError(
            f"sample {prompt.id}: {options.base_url} {why}. Answers that came are kept: launch again for the rest"
        )


async def _give_up(client: AsyncOpenAI, running: set[asyncio.Task[Completion]]) -> None:
    """End what is under way; what it still says goes unheard, as one failure was told already."""
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await client.close()
