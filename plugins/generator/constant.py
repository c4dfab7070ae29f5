"""Generator `constant`: the same answer to every prompt, as a baseline and for smoke runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from runner.records import Completion, Rendered
from runner.stages import GeneratorOptions, Reporter, Weights


class ConstantOptions(GeneratorOptions):
    """The same answer to every prompt, without a model."""

    former_types: ClassVar[Sequence[str]] = ("fixed",)

    needs_model: ClassVar[bool] = False
    can_generate_during_training: ClassVar[bool] = False

    answer: str = ""
    """Text of the answer. Default: empty."""


class ConstantGenerator:
    """The plugin `constant` of the stage `generator`."""

    def __init__(self, options: ConstantOptions) -> None:
        """Take the section's options."""
        self._options = options

    def generate(
        self, weights: Weights | None, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[Completion]:
        """Yield the answer for each prompt that has none; see `Generator.generate`."""
        yield from (Completion(prompt.id, self._options.answer) for prompt in prompts if prompt.id not in done)
        reporter.progress(len(prompts), len(prompts))
