"""Stages `data`, `source` and `annotator`: where samples come from, and who describes their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field, field_validator

from runner.records import Sample
from runner.stages.options_and_reporter import Name, Options, Reporter

RESERVED_NAMES = frozenset({"left_out", "annotations"})
"""Names of other files in a data set folder, which a split cannot use."""


class Ratios(Options):
    """A random division of all samples into new splits, which replace the splits of the corpus or data set."""

    ratios: dict[Name, Annotated[float, Field(gt=0)]] = Field(default={"train": 0.7, "test": 0.3})
    """Relative size of each split (the paper uses 7/3). `train` and `test` are required."""
    seed: int = 42
    """Random seed of the division."""
    group_by: Literal["content", "none"] = "content"
    """`content`: all samples that share an image or a text are in the same split. `none`: samples are divided
    independently."""
    stratify: list[Literal["segments", "labels"]] = Field(default=[])
    """Properties whose distribution is kept as equal as possible across splits. `segments`: the number of segments of a
    sample. `labels`: the labels of its entities."""

    @field_validator("ratios")
    @classmethod
    def _check_split_names(cls, ratios: dict[str, float]) -> dict[str, float]:
        if not {"train", "test"} <= set(ratios):
            raise ValueError("train and test are required, such as {train: 0.7, test: 0.3}")
        for reserved in RESERVED_NAMES & set(ratios):
            raise ValueError(f"{reserved!r} is reserved for the file {reserved}.jsonl; choose another split name")
        return ratios


NearDuplicateBits = Annotated[int, Field(ge=0, le=16)] | None
"""Maximum number of bits, of 64, in which the perceptual hashes of two near-duplicate images differ."""


class DataOptions(Options):
    """The base class of the options of data plugins that also compare images by their perceptual hashes."""

    @property
    def max_hash_distance(self) -> int | None:
        """The largest Hamming distance, of 64 bits, between the hashes of two images that count as the same.

        It applies to the validation split and to few-shot examples. None compares exact copies only.
        """
        return None


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a data set, which the engine needs before it reads samples.

    Attributes:
        name: The name that the tracker shows.
        location: Its folder or URI.
        fingerprint: SHA-256 over the content of all files that are read, in hexadecimal.
        labels: The entity labels, in order.
        num_samples: Number of samples by split; at least `train` and `test`.
    """

    name: str
    location: str
    fingerprint: str
    labels: tuple[str, ...]
    num_samples: Mapping[str, int]


class Data(Protocol):
    """Stage `data`: loads the samples of an experiment."""

    def __init__(self, options: Any) -> None:
        """Create the data set from the section's options; nothing is read yet."""

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Check that the data exists, or generate it, and describe it.

        Raises:
            DataError: The data is missing or broken, or its splits share samples. The message says what to do.
        """

    def load(self, split: str) -> Sequence[Sample]:
        """Load the samples of a split in a fixed order, with absolute image paths; call `prepare` first."""


@runtime_checkable
class GeneratedData(Protocol):
    """For a `data` plugin that generates samples: announces it, and reads a data set without generating it."""

    def pending_generation(self) -> str | None:
        """Say in one line what `prepare` will generate and where; None if nothing is to be generated."""

    def prepare_existing(self) -> DatasetInfo:
        """Do what `prepare` does, but generate and write nothing; for commands that only read.

        Raises:
            DataError: The data set does not exist, or is damaged.
        """


class SourceOptions(Options):
    """The base class of the options of source plugins."""

    has_boxes: ClassVar[bool] = True
    """Whether the corpus has boxes. If not, a data-set spec must say `keep: all`, as no tweet has a segment."""


@dataclass(frozen=True)
class SourceTweet:
    """One entry of a published corpus, before cropping.

    Attributes:
        sample: Its text, entities, image file (which may not exist) and boxes; segment images are None. A tweet
            without entities or boxes has none in its sample; the option `keep` of the spec decides about it.
        split: The corpus's own split.
        size: Width and height in pixels of the image that the boxes were drawn on; None if the corpus does not say.
        location: Where the tweet is in the files of the corpus, as `file:line`, for error messages. It is empty if the
            source does not say.
    """

    sample: Sample
    split: str
    size: tuple[int, int] | None
    location: str = ""


@dataclass(frozen=True)
class SkippedEntry:
    """An entry that a source or a build stage leaves out, and the reason."""

    id: str
    reason: str


class Source(Protocol):
    """Stage `source`: reads a published corpus for `runner build`."""

    name: str
    labels: Sequence[str]

    def __init__(self, options: Any) -> None:
        """Create the source from the section's options."""

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each entry of the corpus, or the reason why it is left out.

        Raises:
            DataError: A file is missing or broken; with file and line. The error should list everything that is
                broken, so that it is raised after the last entry.
        """


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
