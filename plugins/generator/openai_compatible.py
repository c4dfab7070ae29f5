"""Answers from a server with OpenAI's chat completions API, with concurrent requests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from plugins.servers.answers import REFUSAL_CODES, AnswerNotes, final_answer
from plugins.servers.chat import ChatServer
from plugins.servers.openai_generator_and_annotator_options import OpenAIGeneratorOptions
from runner.records import Completion, Rendered, is_blank
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
        """Yield the missing answers as they arrive; see `Generator.generate`.

        A refusal is an answer without text. An answer cut off by the token limit is not `finished`. A warning counts
        the answers without text.

        Raises:
            StopRequestedError: The user asked to stop; pending requests are cancelled.
            RequirementError: The server refuses the key.
            StepError: The server failed in spite of all retries, or its answer cannot be read; answers before that are
                saved.
            DataError: An image cannot be read.
        """
        reporter.progress(len(done), len(prompts))
        started = time.perf_counter()
        missing = (prompt for prompt in prompts if prompt.id not in done)
        notes = AnswerNotes(self._options.base_url)
        try:
            for num_new, reply in enumerate(self._server.complete(missing, reporter), 1):
                answer, answer_notes = final_answer(reply.text, reply.finish_reason, self._options.thinking)
                if reply.finish_reason in REFUSAL_CODES and is_blank(answer):
                    reporter.warn(
                        f"sample {reply.id}: the server refused to answer ({reply.finish_reason}); saved as an empty "
                        "answer"
                    )
                notes.add(reply.id, answer_notes)
                yield Completion(reply.id, answer, finished=reply.finish_reason != "length")
                speed = num_new / (time.perf_counter() - started)
                reporter.progress(len(done) + num_new, len(prompts), samples_per_second=speed)
        finally:
            notes.warn(reporter)
