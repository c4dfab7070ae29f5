"""Compares batched and continuous-batching generation with transformers' `generate`, one prompt at a time.

    python bench/generation.py                     both models, about ten minutes on one core
    python bench/generation.py --samples 24 --repeats 1 --models balanced

Prints a JSON document. For each model it has the CPU seconds per sample of each method, the ratios to one prompt at a
time (medians over repeats, in which the methods alternate), and the number of answers that differ. As weights are
random, every answer is made to end at a length drawn like those of M-MRE. An answer may differ from the one generated
alone only at a token where the two best logits are nearly equal: the logits are computed again there, and a larger gap
is an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from models import END, PAD, SHAPES, Features, Lengths, collate_samples, mmre_lengths, random_model, random_sample

from plugins.generator.decoding.continuous_batching import generate_continuously, supports_continuous_batching
from plugins.generator.decoding.encoded_prompts import EncodedPrompts
from plugins.generator.decoding.greedy import GenerationBatch, GenerationOutput, GreedyDecoder
from runner.records import Rendered

TIE = 1e-4
"""Difference of the two best logits below which they count as equal; logits range over several units."""

BLOCKED_LOGIT = -30.0
"""The logit of the tokens that would end an answer before its length."""

ONE, BATCHES, REFILLING = "one at a time", "batches of like length", "refilling"


@dataclass
class RandomModel:
    """A model with random weights and prepared samples, as the generator sees a model."""

    module: Any
    samples: dict[str, Features]
    stop_token_ids: Sequence[int] = (END,)
    context_length: int | None = None

    def encode(self, prompt: Rendered, target_suffix: str = "") -> Features:
        """Return the prepared sample."""
        return self.samples[prompt.id]

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack."""
        return collate_samples(batch, padding_side)


@dataclass(frozen=True)
class Bench:
    """One model with its prompts, longest first, and the methods to answer them."""

    decoder: GreedyDecoder
    prompts: list[Rendered]
    lengths: dict[str, Lengths]
    batch_size: int

    @classmethod
    def create(cls, name: str, num_samples: int, batch_size: int, seed: int) -> Bench:
        """Create a model and its prompts."""
        generator = torch.Generator().manual_seed(seed)
        lengths = {str(index): length for index, length in enumerate(mmre_lengths(num_samples, seed))}
        samples = {
            key: random_sample(length, SHAPES[name].words, generator, with_answer=False)
            for key, length in lengths.items()
        }
        module = random_model(name, seed)
        blocked = torch.tensor([END, PAD])
        module.lm_head.register_forward_hook(
            lambda module, inputs, logits: logits.index_fill_(-1, blocked, BLOCKED_LOGIT)
        )
        decoder = GreedyDecoder(RandomModel(module, samples), lambda prompt, _: lengths[prompt.id].answer)  # type: ignore[arg-type]
        order = sorted(samples, key=lambda key: -len(samples[key]["input_ids"]))
        return cls(decoder, [Rendered(key, ()) for key in order], lengths, batch_size)

    def methods(self) -> dict[str, Callable[[], Iterable[GenerationOutput]]]:
        """Return the methods by name."""
        return {
            ONE: lambda: self._generate_in_batches(1),
            BATCHES: lambda: self._generate_in_batches(self.batch_size),
            REFILLING: self._generate_continuously,
        }

    def _generate_in_batches(self, size: int) -> Iterable[GenerationOutput]:
        for start in range(0, len(self.prompts), size):
            yield from self.decoder.generate_batch(self._make_batch(self.prompts[start : start + size]))

    def _make_batch(self, prompts: Sequence[Rendered]) -> GenerationBatch:
        return self.decoder.make_batch([(prompt, self.decoder.model.encode(prompt)) for prompt in prompts])

    def _generate_continuously(self) -> Iterable[GenerationOutput]:
        with EncodedPrompts(self.decoder.model, self.prompts, self.batch_size) as encoded:
            yield from generate_continuously(self.decoder, encoded, self.batch_size, lambda: False)

    def gap_of_best_two(self, prompt: Rendered, answer: Sequence[int]) -> float:
        """Compute the gap between the two best logits after an answer, in one forward pass of a single prompt."""
        batch = self._make_batch([prompt])
        tokens = torch.tensor([answer], dtype=torch.long)
        inputs = dict(batch.inputs)
        for name, added in {"input_ids": tokens, "mm_token_type_ids": torch.zeros_like(tokens)}.items():
            inputs[name] = torch.cat([inputs[name], added], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            best = self.decoder.module(**inputs, logits_to_keep=1).logits[0, -1].topk(2).values
        return float(best[0] - best[1])


def count_ties(bench: Bench, expected: dict[str, list[int]], answers: dict[str, list[int]]) -> int:
    """Count the answers that differ because of a tie.

    Raises:
        SystemExit: An answer differs otherwise, or has another length.
    """
    ties = 0
    for prompt in bench.prompts:
        ours, theirs = answers[prompt.id], expected[prompt.id]
        if len(ours) != bench.lengths[prompt.id].answer or len(theirs) != len(ours):
            sys.exit(
                f"sample {prompt.id}: the answer has {len(ours)} tokens instead of {bench.lengths[prompt.id].answer}"
            )
        if ours == theirs:
            continue
        index = next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        gap = bench.gap_of_best_two(prompt, theirs[:index])
        if gap > TIE:
            sys.exit(f"sample {prompt.id}: token {index} differs, and its two best logits are {gap:.2g} apart")
        ties += 1
    return ties


def measure(bench: Bench, repeats: int) -> dict[str, Any]:
    """Time the methods in turn, and compare their answers."""
    if not supports_continuous_batching(bench.decoder, [bench.prompts[0], bench.prompts[-1]]):
        sys.exit("the model does not support continuous batching")
    seconds: dict[str, list[float]] = {method: [] for method in bench.methods()}
    answers: dict[str, dict[str, list[int]]] = {}
    for repeat in range(repeats):
        for method, generate in bench.methods().items():
            started = time.process_time()
            answers[method] = {output.prompt.id: output.tokens for output in generate()}
            seconds[method].append(time.process_time() - started)
            print(f"repeat {repeat + 1}/{repeats}, {method}: {seconds[method][-1]:.1f} CPU s", file=sys.stderr)
    return {
        "cpu_seconds_a_sample": {
            method: statistics.median(times) / len(bench.prompts) for method, times in seconds.items()
        },
        "times_faster": {method: statistics.median(_ratios(seconds, method)) for method in (BATCHES, REFILLING)},
        "answers_that_differ_by_a_tie": {
            method: count_ties(bench, answers[ONE], answers[method]) for method in (BATCHES, REFILLING)
        },
    }


def _ratios(seconds: dict[str, list[float]], method: str) -> list[float]:
    """Return the speed-up over one prompt at a time within each repeat, under the same load of the machine."""
    return [reference / time for reference, time in zip(seconds[ONE], seconds[method], strict=True)]


def main() -> None:
    """Measure all models and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # Threads that wait for each other would count as CPU time.
    lengths = [length.answer for length in mmre_lengths(arguments.samples, arguments.seed)]
    results: dict[str, Any] = {
        "samples": arguments.samples,
        "batch_size": arguments.batch_size,
        "repeats": arguments.repeats,
        "answer_tokens": {"mean": statistics.mean(lengths), "least": min(lengths), "most": max(lengths)},
    }
    for name in arguments.models:
        print(name, file=sys.stderr)
        bench = Bench.create(name, arguments.samples, arguments.batch_size, arguments.seed)
        results[name] = measure(bench, arguments.repeats)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
