"""Greedy answers from weights on this machine, with transformers' own classes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from plugins.generator.decoding.greedy import GenerationOutput, GreedyDecoder
from plugins.generator.generator_options import TransformersOptions
from runner.records import Completion, Rendered
from runner.stages import Reporter, StopRequestedError, VisionLanguageModel, Weights


class TransformersGenerator:
    """The plugin `transformers` of the stage `generator`."""

    def __init__(self, options: TransformersOptions) -> None:
        """Take the section's options."""
        self._options = options

    def generate(
        self,
        weights: Weights | None,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield the missing answers, longest prompts first; see `Generator.generate`.

        So a batch that does not fit into memory fails at once.

        Raises:
            StopRequestedError: The user asked to stop; it is checked before each batch, or before each token with
                continuous batching.
            DataError: A prompt leaves no room for an answer.
        """
        num_done = len(done)
        reporter.progress(num_done, len(prompts))
        if num_done == len(prompts):
            return
        assert weights is not None
        model = weights.load()
        decoder = GreedyDecoder(model, lambda prompt, length: self._options.max_new_tokens)
        started = time.perf_counter()
        outputs = self._generate_missing(decoder, _longest_first(model, prompts), done, reporter)
        for num_new, output in enumerate(outputs, 1):
            yield Completion(output.prompt.id, model.decode(output.tokens), output.finished)
            speed = num_new / (time.perf_counter() - started)
            reporter.progress(num_done + num_new, len(prompts), samples_per_second=speed)

    def _generate_missing(
        self, decoder: GreedyDecoder, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[GenerationOutput]:
        missing = [prompt for prompt in prompts if prompt.id not in done]
        if self._options.continuous_batching and self._options.batch_size > 1:
            from plugins.generator.decoding.continuous_batching import (
                generate_continuously,
                supports_continuous_batching,
            )

            if supports_continuous_batching(decoder, [missing[0], missing[-1]]):
                yield from generate_continuously(decoder, missing, self._options.batch_size, reporter.stop_requested)
                return
            reporter.warn(
                f"{type(decoder.module).__name__} does not support continuous batching; answers are generated in "
                "batches of prompts of similar length"
            )
        yield from self._generate_batches(decoder, prompts, done, reporter)

    def _generate_batches(
        self, decoder: GreedyDecoder, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[GenerationOutput]:
        """Answer batch by batch.

        Batches are formed from all prompts, including those that are done, so that an answer does not depend on
        whether the run was interrupted.
        """
        size = self._options.batch_size
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            if all(prompt.id in done for prompt in batch):
                continue
            if reporter.stop_requested():
                raise StopRequestedError
            yield from (output for output in decoder.generate_batch(batch) if output.prompt.id not in done)


def _longest_first(model: VisionLanguageModel, prompts: Sequence[Rendered]) -> list[Rendered]:
    counts = [model.count(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (-counts[index].text - counts[index].image, index))
    return [prompts[index] for index in order]
