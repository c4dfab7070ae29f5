"""Answers from a server that speaks OpenAI's chat completions, several requests at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from plugins.generator.generator_options import OpenAICompatibleOptions
from plugins.servers.chat import REFUSALS, ChatServer
from runner.records import Completion, Rendered
from runner.stages import Reporter, Weights


class OpenAICompatibleGenerator:
    """The plugin `openai_compatible` of the stage `generator`."""

    def __init__(self, options: OpenAICompatibleOptions) -> None:
        """Take the section's options, and the key from the environment.

        Raises:
            UnmetError: The environment has no key.
        """
        parameters = {"temperature": 0.0, "max_tokens": options.max_new_tokens}
        self._server = ChatServer(options, "generator", parameters, expected=options.max_new_tokens)

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
        missing = (prompt for prompt in prompts if prompt.id not in done)
        for asked, reply in enumerate(self._server.ask(missing, reporter), 1):
            if reply.ending in REFUSALS and not reply.text:
                reporter.warn(
                    f"sample {reply.id}: the server refused to answer ({reply.ending}); kept as an empty answer"
                )
            yield Completion(reply.id, reply.text, finished=reply.ending != "length")
            speed = asked / (time.perf_counter() - began)
            reporter.progress(len(done) + asked, len(prompts), samples_per_second=speed)
