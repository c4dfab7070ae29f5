"""Stage `adapter`: a sample to a prompt and a target, and an answer back to its content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from runner.records import Answer, Prediction, Rendered, Sample


class Adapter(Protocol):
    """Stage `adapter`: a sample to a prompt and a target, and an answer back to its content."""

    parse_modes: Sequence[str]
    """How answers can be read: first the mode that the options chose, then those reported beside it."""

    def __init__(self, options: Any, labels: Sequence[str]) -> None:
        """Take the section's options and the data set's labels.

        Raises:
            SpecError: The options name other labels than the data set has.
        """

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """List the tasks that samples' own fields, or written targets, answer: a value of the option `tasks`."""

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render what the model is shown; `target` is None."""

    def render_training(self, sample: Sample) -> Rendered:
        """Render what the model is shown and the answer it is to learn.

        Raises:
            DataError: The sample lacks what a task needs.
        """

    def parse(self, output: str, mode: str) -> Prediction:
        """Read an answer; never raises, whatever the text."""

    def reference(self, sample: Sample) -> Answer:
        """The right answer to a sample, from its own fields; None for the parts not asked for."""
