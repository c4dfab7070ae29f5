"""Solved samples of the training split, shown before each question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from runner.errors import SpecError
from runner.records import Rendered, Sample
from runner.stages import Adapter


def with_examples(
    adapter: Adapter, questions: Sequence[Sample], solved: Sequence[Sample], number: int, seed: int
) -> list[Rendered]:
    """Render questions, each after the same solved samples.

    What shares a text or an image with any question is never drawn, whatever the data set's own splits say.

    Args:
        adapter: Renders both.
        questions: The test split.
        solved: The training split.
        number: How many examples.
        seed: Of the draw; with the same seed, more examples begin with those of fewer.

    Raises:
        SpecError: There are not so many samples to draw.
        DataError: A sample lacks what a task asks about.
    """
    prompts = [adapter.render_prompt(question) for question in questions]
    if not number:
        return prompts
    asked = {part for question in questions for part in _parts(question)}
    apart = [sample for sample in solved if asked.isdisjoint(_parts(sample))]
    if len(apart) < number:
        raise SpecError(
            f"{number} examples are asked for, and the training split has {len(apart)} samples that share neither "
            "text nor image with the test split",
            path=("generator", "examples"),
        )
    order = random.Random(f"examples {seed}").sample(range(len(apart)), len(apart))
    examples = tuple(adapter.render_training(apart[place]) for place in order[:number])
    return [replace(prompt, examples=examples) for prompt in prompts]


def _parts(sample: Sample) -> set[object]:
    """What must not stand in both splits: the id, the text and every picture; ids and texts are kept apart."""
    pictures = {segment.image for segment in sample.segments} | {sample.image}
    return {("id", sample.id), ("text", sample.text), *(picture for picture in pictures if picture)}
