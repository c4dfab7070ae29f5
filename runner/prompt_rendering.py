"""Renders samples as prompts and training texts, with few-shot examples drawn from the training split."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runner.dataset.leaks import group_by_content, without_shared_content
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
    *,
    max_hash_distance: int | None = None,
) -> list[Rendered]:
    """Render prompts, each with the same few-shot examples.

    A training sample that shares a text or an image with any question is never used as an example, even if the data
    set's own splits overlap. `runner.dataset.leaks` defines when texts and images are the same.

    Args:
        adapter: Renders questions and examples.
        questions: The samples to render: the test split or validation samples.
        training: The training split, from which the examples are drawn.
        number: Number of examples.
        seed: Random seed of the draw. With the same seed, a larger number keeps the examples of a smaller one.
        test: The test split, if the questions are validation samples. They get the examples of the test split, except
            those that share something with a question; these are replaced by the next ones of the draw.
        max_hash_distance: The largest Hamming distance, of 64 bits, between the perceptual hashes of two images that
            count as the same. None compares exact copies only.

    Raises:
        SpecError: There are not enough samples to draw from.
        DataError: A sample lacks a field that a task needs.
    """
    prompts = [adapter.render_prompt(question) for question in questions]
    if not number:
        return prompts
    candidates = without_shared_content(training, questions if test is None else test, max_hash_distance)
    shuffled = random.Random(f"examples {seed}").sample(candidates, len(candidates))
    usable = without_shared_content(shuffled, questions, max_hash_distance)
    if len(usable) < number:
        others = "the test split" if test is None else "the test split or the validation samples"
        raise SpecError(
            f"{number} examples are required, but only {len(usable)} samples of the training split share neither text "
            f"nor image with {others}",
            path=("generator", "num_few_shot"),
        )
    examples = tuple(adapter.render_training(sample) for sample in usable[:number])
    return [replace(prompt, examples=examples) for prompt in prompts]


def training_texts(rendered: list[Rendered]) -> list[str]:
    """Return prompts and targets, from which a missing tokenizer is trained."""
    return [text for sample in rendered for text in (sample.prompt, sample.target or "")]


def split_groups(samples: Sequence[Sample], max_hash_distance: int | None) -> list[str]:
    """Return a key for each sample; samples with the same key share content and stay in the same split."""
    return [str(group) for group in group_by_content(samples, max_hash_distance)]


def repeats_images(rendered: Sequence[Rendered]) -> list[bool]:
    """Return for each example whether an earlier one has the same images, in the same order."""
    first: dict[tuple[Path, ...], int] = {}
    return [first.setdefault(example.images, index) != index for index, example in enumerate(rendered)]
