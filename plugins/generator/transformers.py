"""Greedy answers from weights on this machine, with transformers' own classes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from plugins.generator.continuous_batching import generate_continuously, supports_continuous_batching
from plugins.generator.generator_options import TransformersOptions
from plugins.generator.greedy import GenerationOutput, GreedyDecoder
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

        What does not fit into memory shows at once then.

        Raises:
            StopRequestedError: The user asked to stop: between two batches, or two tokens where rows are refilled.
            DataError: A prompt leaves no room for an answer.
        """
        num_done = len(done)
        reporter.progress(num_done, len(prompts))
        if num_done == len(prompts):
            return
        assert weights is not None
        model = weights.load()
        decoder = GreedyDecoder(model, lambda prompt, length: self._options.max_new_tokens)
        began = time.perf_counter()
        for asked, written in enumerate(self._written(decoder, _longest_first(model, prompts), done, reporter), 1):
            yield Completion(written.prompt.id, model.decode(written.tokens), written.finished)
            speed = asked / (time.perf_counter() - began)
            reporter.progress(num_done + asked, len(prompts), samples_per_second=speed)

    def _written(
        self, decoder: GreedyDecoder, ordered: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[GenerationOutput]:
        missing = [prompt for prompt in ordered if prompt.id not in done]
        if self._options.continuous_batching and self._options.batch_size > 1:
            if supports_continuous_batching(decoder, [missing[0], missing[-1]]):
                yield from generate_continuously(decoder, missing, self._options.batch_size, reporter.stop_requested)
                return
            reporter.warn(
                f"{type(decoder.module).__name__} cannot be decoded with a row given away before the others end; "
                "answers are written in batches of like length"
            )
        yield from self._in_batches(decoder, ordered, done, reporter)

    def _in_batches(
        self, decoder: GreedyDecoder, ordered: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[GenerationOutput]:
        """Answer batch by batch.

        They are made of all prompts, also of those that are done, so that an answer is the same whether or not the
        run was interrupted.
        """
        size = self._options.batch_size
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            if all(prompt.id in done for prompt in batch):
                continue
            if reporter.stop_requested():
                raise StopRequestedError
            yield from (written for written in decoder.write(batch) if written.prompt.id not in done)


def _longest_first(model: VisionLanguageModel, prompts: Sequence[Rendered]) -> list[Rendered]:
    counts = [model.count(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda place: (-counts[place].text - counts[place].image, place))
    return [prompts[place] for place in order]
