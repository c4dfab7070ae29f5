"""What several steps render alike: the texts of training, and the questions of the test split."""

from __future__ import annotations

from collections.abc import Sequence

from runner.records import Rendered, Sample
from runner.steps.context import TrialContext
from runner.steps.few_shot import with_examples


def training_texts(rendered: list[Rendered]) -> list[str]:
    """Prompts and targets, for a model whose tokenizer is made from its training texts."""
    return [text for each in rendered for text in (each.prompt, each.target or "")]


def groups_of(samples: Sequence[Sample]) -> list[str]:
    """For each sample the key of what must not be divided by a validation split: its image, where it has one."""
    return [str(sample.image or sample.id) for sample in samples]


def prompts_of(context: TrialContext, questions: Sequence[Sample], *, of_test: bool = True) -> list[Rendered]:
    """Render questions with as many solved samples before them as the generator's options say.

    Args:
        context: The trial.
        questions: The test split, or samples of the training split.
        of_test: Which of the two.

    Raises:
        SpecError: The training split has not so many.
        DataError: A sample lacks what a task asks about.
    """
    number, seed = context.spec.generator_options.examples, context.spec.seed
    solved = context.samples("train") if number else ()
    test = None if of_test or not number else context.samples("test")
    return with_examples(context.adapter, questions, solved, number, seed, test)
