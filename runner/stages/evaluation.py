"""Stages `generator` and `metric`: how answers are got, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from runner.records import Answer, Completion, Rendered
from runner.stages.model import VisionLanguageModel
from runner.stages.reporter import Reporter


class Generator(Protocol):
    """Stage `generator`: gets answers from a model."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def generate(
        self,
        model: VisionLanguageModel,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield an answer to each prompt whose id is not in `done`, as they are finished, in any order."""


class Metric(Protocol):
    """Stage `metric`: a scorer of one answer, and a reduction over many."""

    names: Sequence[str]
    """The figures that `reduce` gives."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count one sample; None where the reference was not asked for what this metric is about."""

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Turn the counts of many samples into figures; of none, each figure is None."""
