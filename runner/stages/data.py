"""Stages `data` and `source`: data sets for experiments, and published corpora."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from runner.records import Sample
from runner.stages.plugin import Reporter


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
    """Optional for a `data` plugin that generates samples: lets the command line announce it."""

    def pending_generation(self) -> str | None:
        """Say in one line what `prepare` will generate and where; None if nothing is to be generated."""


@dataclass(frozen=True)
class SourceTweet:
    """One entry of a published corpus, before cropping.

    Attributes:
        sample: Its text, entities, image file (which may not exist) and boxes; segment images are None.
        split: The corpus's own split.
        size: Width and height in pixels of the image that the boxes were drawn on; None if the corpus does not say.
    """

    sample: Sample
    split: str
    size: tuple[int, int] | None


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
            DataError: A file is missing or broken; with file and line.
        """
