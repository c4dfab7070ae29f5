"""How much faster are answers written in batches, and with refilling, than one at a time by transformers' `generate`?

    python bench/generation.py                     both models, about ten minutes on one core
    python bench/generation.py --samples 24 --repeats 1 --models balanced

Prints a JSON document: for each model CPU seconds a sample of each way, the ratios to one at a time (medians over
repeats, in which the ways take turns), and how many answers differ. Every answer is made to end at a length drawn like
those of M-MRE, since weights are random. An answer may differ from the one written alone only where two words were as
good as equal in its logits: each such place is computed again, alone, and one that is no tie is an error.
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
from models import END, PAD, SHAPES, Features, Lengths, collated, mmre_lengths, random_model, random_sample

from plugins.generator.continuous_batching import generate_continuously, supports_continuous_batching
from plugins.generator.greedy import GenerationOutput, GreedyDecoder
from runner.records import Rendered

TIE = 1e-4
"""Difference of the two best logits below which they count as equal; logits spread over several units."""

BARRED = -30.0
"""The logit of the words that would end an answer before its length."""

ONE, BATCHES, REFILLING = "one at a time", "batches of like length", "refilling"


@dataclass
class RandomModel:
    """A model with random weights and prepared samples, as the generator sees a model."""

    module: Any
    samples: dict[str, Features]
    stop_token_ids: Sequence[int] = (END,)
    context_length: int | None = None

    def encode(self, prompt: Rendered, target_suffix: str = "") -> Features:
        """Look a sample up."""
        return self.samples[prompt.id]

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack."""
        return collated(batch, padding_side)


@dataclass(frozen=True)
class Bench:
    """One model with its questions, longest first, and the ways to answer them."""

    decoder: GreedyDecoder
    prompts: list[Rendered]
    lengths: dict[str, Lengths]
    batch_size: int

    @classmethod
    def of(cls, name: str, num_samples: int, batch_size: int, seed: int) -> Bench:
        """Make a model and its questions."""
        drawn = torch.Generator().manual_seed(seed)
        lengths = {str(place): each for place, each in enumerate(mmre_lengths(num_samples, seed))}
        samples = {
            key: random_sample(each, SHAPES[name].words, drawn, with_answer=False) for key, each in lengths.items()
        }
        module = random_model(name, seed)
        barred = torch.tensor([END, PAD])
        module.lm_head.register_forward_hook(lambda head, given, logits: logits.index_fill_(-1, barred, BARRED))
        decoder = GreedyDecoder(RandomModel(module, samples), lambda prompt, _: lengths[prompt.id].answer)  # type: ignore[arg-type]
        order = sorted(samples, key=lambda key: -len(samples[key]["input_ids"]))
        return cls(decoder, [Rendered(key, ()) for key in order], lengths, batch_size)

    def ways(self) -> dict[str, Callable[[], Iterable[GenerationOutput]]]:
        """The ways to answer, by name."""
        return {ONE: lambda: self._batches(1), BATCHES: lambda: self._batches(self.batch_size), REFILLING: self._refill}

    def _batches(self, size: int) -> Iterable[GenerationOutput]:
        for start in range(0, len(self.prompts), size):
            yield from self.decoder.write(self.prompts[start : start + size])

    def _refill(self) -> Iterable[GenerationOutput]:
        return generate_continuously(self.decoder, self.prompts, self.batch_size, lambda: False)

    def gap_of_best_two(self, prompt: Rendered, answer: Sequence[int]) -> float:
        """Compute, alone and in one pass, how far apart the two best words are that may follow an answer."""
        asked = self.decoder.ask([prompt])
        tokens = torch.tensor([answer], dtype=torch.long)
        inputs = dict(asked.inputs)
        for name, more in {"input_ids": tokens, "mm_token_type_ids": torch.zeros_like(tokens)}.items():
            inputs[name] = torch.cat([inputs[name], more], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            best = self.decoder.module(**inputs, logits_to_keep=1).logits[0, -1].topk(2).values
        return float(best[0] - best[1])


def differences(bench: Bench, alone: dict[str, list[int]], told: dict[str, list[int]]) -> int:
    """Count the answers that differ by a tie.

    Raises:
        SystemExit: One differs by more, or has another length.
    """
    ties = 0
    for prompt in bench.prompts:
        ours, theirs = told[prompt.id], alone[prompt.id]
        if len(ours) != bench.lengths[prompt.id].answer or len(theirs) != len(ours):
            sys.exit(f"sample {prompt.id}: an answer of {len(ours)} tokens, not {bench.lengths[prompt.id].answer}")
        if ours == theirs:
            continue
        place = next(place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        gap = bench.gap_of_best_two(prompt, theirs[:place])
        if gap > TIE:
            sys.exit(f"sample {prompt.id}: token {place} differs, and its two best logits are {gap:.2g} apart")
        ties += 1
    return ties


def measured(bench: Bench, repeats: int) -> dict[str, Any]:
    """Time the ways in turns, and compare their answers."""
    if not supports_continuous_batching(bench.decoder, [bench.prompts[0], bench.prompts[-1]]):
        sys.exit("the model cannot be refilled")
    seconds: dict[str, list[float]] = {way: [] for way in bench.ways()}
    answers: dict[str, dict[str, list[int]]] = {}
    for repeat in range(repeats):
        for way, write in bench.ways().items():
            began = time.process_time()
            answers[way] = {written.prompt.id: written.tokens for written in write()}
            seconds[way].append(time.process_time() - began)
            print(f"repeat {repeat + 1}/{repeats}, {way}: {seconds[way][-1]:.1f} CPU s", file=sys.stderr)
    return {
        "cpu_seconds_a_sample": {way: statistics.median(took) / len(bench.prompts) for way, took in seconds.items()},
        "times_faster": {way: statistics.median(_ratios(seconds, way)) for way in (BATCHES, REFILLING)},
        "answers_that_differ_by_a_tie": {
            way: differences(bench, answers[ONE], answers[way]) for way in (BATCHES, REFILLING)
        },
    }


def _ratios(seconds: dict[str, list[float]], way: str) -> list[float]:
    """One at a time over this way, repeat by repeat, so that both met the same machine."""
    return [alone / took for alone, took in zip(seconds[ONE], seconds[way], strict=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # Threads that wait for each other would count as work.
    lengths = [each.answer for each in mmre_lengths(given.samples, given.seed)]
    told: dict[str, Any] = {
        "samples": given.samples,
        "batch_size": given.batch_size,
        "repeats": given.repeats,
        "answer_tokens": {"mean": statistics.mean(lengths), "least": min(lengths), "most": max(lengths)},
    }
    for name in given.models:
        print(name, file=sys.stderr)
        told[name] = measured(Bench.of(name, given.samples, given.batch_size, given.seed), given.repeats)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
