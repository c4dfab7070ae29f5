"""Answers of a chat server to the prompts of a test split; the generators that use a server share it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from plugins.servers.answers import REFUSAL_CODES, AnswerNotes, Thinking, final_answer
from plugins.servers.chat import ChatServer
from runner.records import Completion, Rendered, is_blank
from runner.stages import Reporter


def answer_prompts(
    server: ChatServer, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter, thinking: Thinking
) -> Iterator[Completion]:
    """Yield the missing answers as they arrive; see `Generator.generate`.

    A refusal is an answer without text. An answer cut off by the token limit is not `finished`. A warning counts the
    answers without text.

    Args:
        server: Answers the prompts.
        prompts: The prompts of the whole test split.
        done: Ids of the prompts that have answers.
        reporter: Receives the progress and the warnings.
        thinking: What happens to the reasoning at the beginning of an answer.

    Raises:
        RunnerError: See `ChatServer.complete`.
        StopRequestedError: The user asked to stop; pending requests are cancelled.
    """
    reporter.progress(len(done), len(prompts))
    started = time.perf_counter()
    missing = (prompt for prompt in prompts if prompt.id not in done)
    notes = AnswerNotes(server.address)
    try:
        for num_new, reply in enumerate(server.complete(missing, reporter), 1):
            answer, answer_notes = final_answer(reply.text, reply.finish_reason, thinking)
            if reply.finish_reason in REFUSAL_CODES and is_blank(answer):
                reporter.warn(
                    f"sample {reply.id}: the server refused to answer ({reply.finish_reason}); saved as an empty answer"
                )
            notes.add(reply.id, answer_notes)
            yield Completion(reply.id, answer, finished=reply.finish_reason != "length")
            speed = num_new / (time.perf_counter() - started)
            reporter.progress(len(done) + num_new, len(prompts), samples_per_second=speed)
    finally:
        notes.warn(reporter)
