"""Greedy answers by vLLM, an optional package. Written against its documentation; never run by the project's tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from plugins.generator.generator_options import VllmOptions
from plugins.servers.answers import AnswerNotes, final_answer
from plugins.servers.chat import chat_messages
from runner.records import Completion, Rendered
from runner.stages import Reporter, StopRequestedError, Weights

CHUNK_SIZE = 256
"""Prompts per call: vLLM batches them itself, and the answers of a completed call survive a kill of the next."""


class VllmGenerator:
    """The plugin `vllm` of the stage `generator`."""

    def __init__(self, options: VllmOptions) -> None:
        """Take the section's options.

        Raises:
            RequirementError: vLLM is not installed.
        """
        options.check_requirements()
        self._options = options

    def generate(
        self, weights: Weights | None, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[Completion]:
        """Yield the missing answers in chunks; see `Generator.generate`.

        Raises:
            StopRequestedError: The user asked to stop; it is checked before each chunk.
            DataError: An image cannot be read.
        """
        missing = [prompt for prompt in prompts if prompt.id not in done]
        reporter.progress(len(done), len(prompts))
        if not missing:
            return
        assert weights is not None
        # Importing vLLM takes hold of the GPU, so only the process that generates does it.
        vllm: Any = importlib.import_module("vllm")
        engine = vllm.LLM(
            model=str(weights.folder()),
            tensor_parallel_size=self._options.tensor_parallel_size,
            gpu_memory_utilization=self._options.gpu_memory_utilization,
            limit_mm_per_prompt={"image": max(len(prompt.images) for prompt in missing)},
        )
        sampling = vllm.SamplingParams(temperature=0.0, max_tokens=self._options.max_new_tokens)
        notes = AnswerNotes("vLLM")
        try:
            for start in range(0, len(missing), CHUNK_SIZE):
                if reporter.stop_requested():
                    raise StopRequestedError
                chunk = missing[start : start + CHUNK_SIZE]
                outputs = engine.chat([chat_messages(prompt) for prompt in chunk], sampling, use_tqdm=False)
                for prompt, output in zip(chunk, outputs, strict=True):
                    completion = output.outputs[0]
                    finish_reason = completion.finish_reason or ""
                    answer, answer_notes = final_answer(completion.text, finish_reason, self._options.thinking)
                    notes.add(prompt.id, answer_notes)
                    yield Completion(prompt.id, answer, finished=finish_reason != "length")
                reporter.progress(len(done) + start + len(chunk), len(prompts))
        finally:
            notes.warn(reporter)
