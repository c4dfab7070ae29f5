"""Stage `adapter`: renders samples as prompts and targets, and parses answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from runner.records import Answer, Prediction, Rendered, Sample


class Adapter(Protocol):
    """Stage `adapter`: renders samples as prompts and targets, and parses answers."""

    parse_modes: Sequence[str]
    """The available parse modes: first the mode that the options select, then those reported in addition."""

    def __init__(self, options: Any, labels: Sequence[str]) -> None:
        """Create the adapter from the section's options and the data set's labels.

        Raises:
            SpecError: The options name labels that differ from those of the data set.
        """

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """List the tasks that samples, or rendered targets, contain answers for, as a value of the option `tasks`."""

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render the prompt of a sample; `target` is None."""

    def render_training(self, sample: Sample) -> Rendered:
        """Render the prompt of a sample and the answer that the model is trained on.

        Raises:
            DataError: The sample lacks a field that a task needs.
        """

    def parse(self, output: str, mode: str) -> Prediction:
        """Parse an answer; never raises, whatever the text is."""

    def reference(self, sample: Sample) -> Answer:
        """Return the correct answer to a sample, from its fields; parts whose task is not asked for are None."""
