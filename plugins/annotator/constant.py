"""Annotator `constant`: the same summary for every image, for smoke runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import field_validator

from runner.records import Sample, is_blank
from runner.stages import Annotation, AnnotationEstimate, Options, Reporter, TokenUsage


class ConstantOptions(Options):
    """The same summary for every image, without a server."""

    former_types: ClassVar[Sequence[str]] = ("fixed",)

    summary: str = "This picture stands in a smoke run, and nobody has looked at what it shows."
    """Text of the summary. Default: a text that says it is from a smoke run."""

    @field_validator("summary")
    @classmethod
    def _shows_something(cls, summary: str) -> str:
        if is_blank(summary):
            raise ValueError("the summary is empty or holds only white space; write a text")
        return summary


class ConstantAnnotator:
    """The plugin `constant` of the stage `annotator`."""

    def __init__(self, options: ConstantOptions) -> None:
        """Take the section's options."""
        self._options = options

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """Return the summary; see `Annotator.request`."""
        return {"summary": self._options.summary}

    def estimate(self, num_samples: int, used: TokenUsage, num_answers: int) -> AnnotationEstimate:
        """Return an estimate of zero; see `Annotator.estimate`."""
        return AnnotationEstimate(TokenUsage(), None, None)

    def annotate(self, samples: Iterator[Sample], used: TokenUsage, reporter: Reporter) -> Iterator[Annotation]:
        """Yield the summary for each sample; see `Annotator.annotate`."""
        for sample in samples:
            yield Annotation(sample.id, self._options.summary, "", None, TokenUsage(), {}, {})

    def summary(self, annotation: Annotation) -> str | None:
        """Return the summary."""
        return annotation.answer

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """Return no flags."""
        return ()
