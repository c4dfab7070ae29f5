"""Annotator `constant`: the same summary for every image, for smoke runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from runner.records import Sample
from runner.stages import Annotation, Estimate, Options, Reporter, Tokens


class ConstantOptions(Options):
    """The same summary for every image; nobody is asked."""

    former_types: ClassVar[Sequence[str]] = ("fixed",)

    summary: str = "This picture stands in a smoke run, and nobody has looked at what it shows."
    """The summary's text."""


class ConstantAnnotator:
    """The plugin `constant` of the stage `annotator`."""

    def __init__(self, options: ConstantOptions) -> None:
        """Take the section's options."""
        self._options = options

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """The summary; see `Annotator.request`."""
        return {"summary": self._options.summary}

    def estimate(self, number: int, taken: Tokens, answers: int) -> Estimate:
        """Nothing; see `Annotator.estimate`."""
        return Estimate(Tokens(), None, None)

    def annotate(self, samples: Iterator[Sample], taken: Tokens, reporter: Reporter) -> Iterator[Annotation]:
        """Yield the summary for each sample; see `Annotator.annotate`."""
        for sample in samples:
            yield Annotation(sample.id, self._options.summary, "", None, Tokens(), {}, {})

    def summary(self, annotation: Annotation) -> str | None:
        """The summary."""
        return annotation.answer

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """None: it is what was wanted."""
        return ()
