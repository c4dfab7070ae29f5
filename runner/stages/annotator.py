"""Stage `annotator`: who writes what a data set's images show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runner.records import Sample
from runner.stages.plugin import Reporter


@dataclass(frozen=True, slots=True)
class Tokens:
    """What questions and answers took, as the server counts."""

    input: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        """Both together."""
        return Tokens(self.input + other.input, self.output + other.output)

    @property
    def total(self) -> int:
        """Questions and answers."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an annotator wrote about one sample.

    Attributes:
        id: The sample's id.
        answer: The text as it came.
        ending: Why it ended, in the server's word: `stop`, `length`, or a code of refusal; empty where none is told.
        refusal: What came in place of an answer.
        tokens: What it took; an estimate where the server does not say.
        origin: What is the same when it is asked again, such as the model's exact name as the server tells it.
        passing: What is another each time, such as the server's own name for the answer; kept in the log alone.
    """

    id: str
    answer: str
    ending: str
    refusal: str | None
    tokens: Tokens
    origin: Mapping[str, Any]
    passing: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What annotating will take.

    Attributes:
        tokens: At most, as far as can be known before.
        cost: In the currency of the options' prices; None where they give none.
        budget: The most tokens that the data set may take in all; None where there is no limit.
    """

    tokens: Tokens
    cost: float | None
    budget: int | None


class Annotator(Protocol):
    """Stage `annotator`: writes summaries of the images that have none."""

    def __init__(self, options: Any) -> None:
        """Take the section's options; nothing is asked yet, and no key is needed."""

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """All that decides an answer but for the image's content, as plain data: model, prompt, parameters.

        Samples with the same request and the same image get the same answer, which is asked for once.
        """

    def estimate(self, number: int, taken: Tokens, answers: int) -> Estimate:
        """Work out what it takes to ask.

        Args:
            number: Of samples to ask about.
            taken: What answers that are there took.
            answers: How many those are.
        """

    def annotate(self, samples: Iterator[Sample], taken: Tokens, reporter: Reporter) -> Iterator[Annotation]:
        """Yield annotations as they come, in any order.

        A sample is drawn only when it is asked about, and nothing is asked while the caller holds an annotation.

        Args:
            samples: Those to ask about.
            taken: What answers that are there took: they count against a budget.
            reporter: Asked whether to stop.

        Raises:
            StepError: The budget is spent, or the server failed in spite of all retries.
            UnmetError: There is no key, or the server refuses it.
        """

    def summary(self, annotation: Annotation) -> str | None:
        """What of the answer is the summary; None where it holds none."""

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """What a reviewer should look at, such as `refused`, in words without particulars."""
