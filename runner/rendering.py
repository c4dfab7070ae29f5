"""Renders samples as prompts and training texts, with few-shot examples drawn from the training split."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from runner.errors import SpecError
from runner.records import Rendered, Sample
from runner.stages import Adapter


def with_examples(
    adapter: Adapter,
    questions: Sequence[Sample],
    solved: Sequence[Sample],
    number: int,
    seed: int,
    test: Sequence[Sample] | None = None,
) -> list[Rendered]:
    """Render questions, each after the same solved samples.

    What shares a text or an image with any question is never drawn, whatever the data set's own splits say.

    Args:
        adapter: Renders both.
        questions: The test split, or samples that are kept aside from training.
        solved: The training split.
        number: How many examples.
        seed: Of the draw; with the same seed, more examples begin with those of fewer.
        test: The test split where the questions are others. They are shown its examples, but for those that share
            something with a question, in whose place the next of the draw stand.

    Raises:
        SpecError: There are not so many samples to draw.
        DataError: A sample lacks what a task asks about.
    """
    prompts = [adapter.render_prompt(question) for question in questions]
    if not number:
        return prompts
    apart = _apart(solved, questions if test is None else test)
    drawn = random.Random(f"examples {seed}").sample(apart, len(apart))
    shown = _apart(drawn, questions)
    if len(shown) < number:
        others = "the test split" if test is None else "the test split or the samples kept aside for validation"
        raise SpecError(
            f"{number} examples are asked for, and the training split has {len(shown)} samples that share neither "
            f"text nor image with {others}",
            path=("generator", "num_few_shot"),
        )
    examples = tuple(adapter.render_training(sample) for sample in shown[:number])
    return [replace(prompt, examples=examples) for prompt in prompts]


def _apart(samples: Sequence[Sample], questions: Sequence[Sample]) -> list[Sample]:
    asked = {part for question in questions for part in _parts(question)}
    return [sample for sample in samples if asked.isdisjoint(_parts(sample))]


def _parts(sample: Sample) -> set[object]:
    """What must not stand in both splits: the id, the text and every picture; ids and texts are kept apart."""
    pictures = {segment.image for segment in sample.segments} | {sample.image}
    return {("id", sample.id), ("text", sample.text), *(picture for picture in pictures if picture)}


def training_texts(rendered: list[Rendered]) -> list[str]:
    """Prompts and targets, for a model whose tokenizer is made from its training texts."""
    return [text for each in rendered for text in (each.prompt, each.target or "")]


def groups_of(samples: Sequence[Sample]) -> list[str]:
    """For each sample the key of what must not be divided by a validation split: its image, where it has one."""
    return [str(sample.image or sample.id) for sample in samples]
