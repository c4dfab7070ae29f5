"""Greedy answers from weights on this machine, with transformers' own classes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import psutil
import torch

from plugins.generator.decoding.encoded_prompts import EncodedPrompts
from plugins.generator.decoding.greedy import GenerationOutput, GreedyDecoder
from plugins.generator.generator_options import MAX_ROWS, TransformersOptions
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
        ordered = _longest_first(model, prompts)
        batch_size = self._batch_size(decoder, model, ordered, reporter)
        started = time.perf_counter()
        outputs = self._generate_missing(decoder, ordered, done, batch_size, reporter)
        for num_new, (output, text) in enumerate(outputs, 1):
            yield Completion(output.prompt.id, text, output.finished)
            speed = num_new / (time.perf_counter() - started)
            reporter.progress(num_done + num_new, len(prompts), samples_per_second=speed)

    def _batch_size(
        self, decoder: GreedyDecoder, model: VisionLanguageModel, ordered: Sequence[Rendered], reporter: Reporter
    ) -> int:
        """Return the number of answers to generate at once; `auto` depends on the longest prompt and the memory."""
        if self._options.batch_size != "auto":
            return self._options.batch_size
        longest = model.count(ordered[0])
        num_tokens = longest.text + longest.image + self._options.max_new_tokens
        batch_size = rows_in_memory(decoder.module, num_tokens, free_bytes(decoder.device))
        reporter.metrics(0, {"generate/batch_size": batch_size})
        return batch_size

    def _generate_missing(
        self,
        decoder: GreedyDecoder,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        batch_size: int,
        reporter: Reporter,
    ) -> Iterator[tuple[GenerationOutput, str]]:
        """Yield missing answers with their text."""
        missing = [prompt for prompt in prompts if prompt.id not in done]
        if self._options.continuous_batching and batch_size > 1:
            from plugins.generator.decoding.continuous_batching import (
                generate_continuously,
                supports_continuous_batching,
            )

            if supports_continuous_batching(decoder, [missing[0], missing[-1]]):
                with EncodedPrompts(decoder.model, missing, batch_size) as encoded:
                    yield from _decode(
                        decoder,
                        encoded,
                        generate_continuously(
                            decoder, encoded, batch_size, reporter.stop_requested, compiled=self._options.compile
                        ),
                    )
                return
            reporter.warn(
                f"{type(decoder.module).__name__} does not support continuous batching; answers are generated in "
                "batches of prompts of similar length"
            )
        # Batches are formed from all prompts, including those that are done, so that an answer does not depend on
        # whether the run was interrupted.
        batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
        unfinished = [batch for batch in batches if any(prompt.id not in done for prompt in batch)]
        with EncodedPrompts(decoder.model, list(chain.from_iterable(unfinished)), 2 * batch_size) as encoded:
            for batch in unfinished:
                if reporter.stop_requested():
                    raise StopRequestedError
                outputs = decoder.generate_batch(decoder.make_batch(encoded.take(len(batch))))
                yield from _decode(decoder, encoded, (output for output in outputs if output.prompt.id not in done))


def _decode(
    decoder: GreedyDecoder, encoded: EncodedPrompts, outputs: Iterable[GenerationOutput]
) -> Iterator[tuple[GenerationOutput, str]]:
    for output in outputs:
        with encoded.paused():
            text = decoder.model.decode(output.tokens)
        yield output, text


MEMORY_SHARE = 0.6
"""Share of the free memory that the rows of `batch_size: auto` may take; images and fragmentation take the rest."""

ACTIVATIONS = 3
"""Tensors as wide as the widest layer that exist for each token of a prompt at one time."""


def rows_in_memory(module: Any, num_tokens: int, num_bytes: int) -> int:
    """Compute how many answers can be generated at once.

    A row takes the keys and values of all its tokens, and while its prompt is computed the activations of the widest
    layer. For Qwen2.5-VL-7B in bf16, keys and values take 57 kB for each token: 6 GB for 64 rows of 1,600 tokens.

    Args:
        module: The model, a module of transformers.
        num_tokens: Tokens of the longest prompt and its answer.
        num_bytes: Free memory of the device.

    Returns:
        Between 1 and `MAX_ROWS`.
    """
    config = module.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_value_size = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    value_bytes = next(module.parameters()).element_size()
    row_bytes = num_tokens * value_bytes * (key_value_size + ACTIVATIONS * config.intermediate_size)
    return max(1, min(MAX_ROWS, int(MEMORY_SHARE * num_bytes / row_bytes)))


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device; on a CPU, that of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _longest_first(model: VisionLanguageModel, prompts: Sequence[Rendered]) -> list[Rendered]:
    counts = [model.count(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (-counts[index].text - counts[index].image, index))
    return [prompts[index] for index in order]
