"""Stages `data` and `source`: where samples come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runner.records import Sample
from runner.stages.plugin import Reporter


@dataclass(frozen=True)
class DatasetInfo:
    """What the engine needs to know of a data set before it is read.

    Attributes:
        name: As the tracker shows it.
        location: Its folder or URI.
        fingerprint: SHA-256 over the content of all that is read from it, in hexadecimal.
        labels: The entity labels, in their order.
        num_samples: By split; `train` and `test` at least.
    """

    name: str
    location: str
    fingerprint: str
    labels: tuple[str, ...]
    num_samples: Mapping[str, int]


class Data(Protocol):
    """Stage `data`: where samples come from."""

    def __init__(self, options: Any) -> None:
        """Take the section's options; nothing is read yet."""

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Make sure that the data is there, and describe it.

        Raises:
            DataError: It is missing, broken, or its splits share samples; the message says what to do.
        """

    def load(self, split: str) -> Sequence[Sample]:
        """The samples of a split, in a fixed order, images as absolute paths; `prepare` comes first."""


@dataclass(frozen=True)
class SourceTweet:
    """One entry of a published corpus, before cropping.

    Attributes:
        sample: Its text, entities, image file (which may not exist) and boxes; segment images are None.
        split: The corpus's own split.
        size: Width and height in pixels of the image that the boxes were drawn on, where the corpus says so.
    """

    sample: Sample
    split: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class LeftOut:
    """An entry that a source or a step leaves out, and why."""

    id: str
    reason: str


class Source(Protocol):
    """Stage `source`: reads a published corpus for `runner build`."""

    name: str
    labels: Sequence[str]

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def read(self) -> Iterator[SourceTweet | LeftOut]:
        """Yield every entry of the corpus, or why it is left out.

        Raises:
            DataError: A file is missing or broken, with file and line.
        """
