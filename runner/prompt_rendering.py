"""Renders samples as prompts and training texts, with few-shot examples drawn from the training split."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from runner.errors import SpecError
from runner.records import Rendered, Sample
from runner.stages import Adapter


def render_few_shot(
    adapter: Adapter,
    questions: Sequence[Sample],
    training: Sequence[Sample],
    number: int,
    seed: int,
    test: Sequence[Sample] | None = None,
) -> list[Rendered]:
    """Render prompts, each with the same few-shot examples.

    A training sample that shares a text or an image with any question is never used as an example, even if the data
    set's own splits overlap.

    Args:
        adapter: Renders questions and examples.
        questions: The samples to render: the test split or validation samples.
        training: The training split, from which the examples are drawn.
        number: Number of examples.
        seed: Random seed of the draw. With the same seed, a larger number keeps the examples of a smaller one.
        test: The test split, if the questions are validation samples. They get the examples of the test split, except
            those that share something with a question; these are replaced by the next ones of the draw.

    Raises:
        SpecError: There are not enough samples to draw from.
        DataError: A sample lacks a field that a task needs.
    """
    prompts = [adapter.render_prompt(question) for question in questions]
    if not number:
        return prompts
    candidates = _without_overlap(training, questions if test is None else test)
    shuffled = random.Random(f"examples {seed}").sample(candidates, len(candidates))
    usable = _without_overlap(shuffled, questions)
    if len(usable) < number:
        others = "the test split" if test is None else "the test split or the validation samples"
        raise SpecError(
            f"{number} examples are required, but only {len(usable)} samples of the training split share neither text "
            f"nor image with {others}",
            path=("generator", "num_few_shot"),
        )
    examples = tuple(adapter.render_training(sample) for sample in usable[:number])
    return [replace(prompt, examples=examples) for prompt in prompts]


def _without_overlap(samples: Sequence[Sample], questions: Sequence[Sample]) -> list[Sample]:
    excluded = {part for question in questions for part in _identifying_parts(question)}
    return [sample for sample in samples if excluded.isdisjoint(_identifying_parts(sample))]


def _identifying_parts(sample: Sample) -> set[object]:
    """Return what must not occur in two splits: id, text and images; an id never equals a text."""
    images = {segment.image for segment in sample.segments} | {sample.image}
    return {("id", sample.id), ("text", sample.text), *(image for image in images if image)}


def training_texts(rendered: list[Rendered]) -> list[str]:
    """Return prompts and targets, from which a missing tokenizer is trained."""
    return [text for sample in rendered for text in (sample.prompt, sample.target or "")]


def split_groups(samples: Sequence[Sample]) -> list[str]:
    """Return a key for each sample, its image or id; samples with the same key stay in the same split."""
    return [str(sample.image or sample.id) for sample in samples]
