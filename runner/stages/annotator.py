"""Stage `annotator`: writes the image summaries of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runner.records import Sample
from runner.stages.plugin import Reporter


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token usage of requests and answers, as the server counts it."""

    input: int = 0
    output: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """Add up two usages."""
        return TokenUsage(self.input + other.input, self.output + other.output)

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Annotation:
    """The answer of an annotator about one sample.

    Attributes:
        id: The sample's id.
        answer: The unmodified text.
        finish_reason: Why generation ended, as the server says: `stop`, `length`, or a refusal code. Empty if the
            server does not say.
        refusal: The server's refusal, if there is no answer.
        tokens: Token usage; an estimate if the server does not report it.
        origin: Details that stay the same when the request is repeated, such as the server's exact model name.
        transient: Details that differ each time, such as the server's id of the answer; stored only in the log.
    """

    id: str
    answer: str
    finish_reason: str
    refusal: str | None
    tokens: TokenUsage
    origin: Mapping[str, Any]
    transient: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnnotationEstimate:
    """The expected cost of annotating.

    Attributes:
        tokens: Upper estimate of the token usage.
        cost: In the currency of the options' prices; None if the options have no prices.
        budget: Maximum number of tokens for the whole data set; None if there is no limit.
    """

    tokens: TokenUsage
    cost: float | None
    budget: int | None


class Annotator(Protocol):
    """Stage `annotator`: writes summaries of the images that have none."""

    def __init__(self, options: Any) -> None:
        """Create the annotator from the section's options; no request is sent yet, and no API key is needed."""

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """Return everything that determines an answer except the image's content: model, prompt, parameters.

        The result is plain data. Samples with the same request and the same image share one answer.
        """

    def estimate(self, num_samples: int, used: TokenUsage, num_answers: int) -> AnnotationEstimate:
        """Estimate the token usage and the cost of annotating.

        Args:
            num_samples: Number of samples to annotate.
            used: Token usage of the existing answers.
            num_answers: Number of existing answers.
        """

    def annotate(self, samples: Iterator[Sample], used: TokenUsage, reporter: Reporter) -> Iterator[Annotation]:
        """Yield annotations as they are finished, in any order.

        A sample is taken from the iterator only when its request is sent. No request is sent while the caller
        processes an annotation.

        Args:
            samples: The samples to annotate.
            used: Token usage of the existing answers, which counts against the budget.
            reporter: Says whether the user asked to stop.

        Raises:
            StepError: The budget is used up, or the server failed despite all retries.
            RequirementError: There is no API key, or the server rejects it.
        """

    def summary(self, annotation: Annotation) -> str | None:
        """Extract the summary from an annotation; None if it contains none."""

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """Return the reasons for a review, such as `refused`, as short words without details."""
