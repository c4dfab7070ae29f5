"""Answers from a server with OpenAI's chat completions API, with concurrent requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plugins.servers.answer_prompts import answer_prompts
from plugins.servers.chat import ChatServer
from plugins.servers.openai_generator_and_annotator_options import OpenAIGeneratorOptions
from runner.records import Completion, Rendered
from runner.stages import Reporter, Weights


class OpenAICompatibleGenerator:
    """The plugin `openai_compatible` of the stage `generator`."""

    def __init__(self, options: OpenAIGeneratorOptions) -> None:
        """Take the section's options, and the key from the environment.

        Raises:
            RequirementError: The environment has no key.
        """
        parameters = {"temperature": 0.0, "max_tokens": options.max_new_tokens}
        self._options = options
        self._server = ChatServer(options, "generator", parameters, expected=options.max_new_tokens)

    def generate(
        self,
        weights: Weights | None,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield the missing answers as they arrive; see `Generator.generate` and `answer_prompts`.

        Raises:
            StopRequestedError: The user asked to stop; pending requests are cancelled.
            RequirementError: The server refuses the key.
            StepError: The server failed in spite of all retries, or its answer cannot be read; answers before that are
                saved.
            DataError: An image cannot be read.
        """
        yield from answer_prompts(self._server, prompts, done, reporter, self._options.thinking)
