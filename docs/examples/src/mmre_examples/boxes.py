"""A source: one CSV file of tweets and boxes, a row a box."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

from runner.errors import DataError, read_error
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import FilePath, LeftOut, Options, OutsideFingerprint, SourceTweet

COLUMNS = ("id", "text", "image", "label", "entity", "left", "top", "right", "bottom")


class BoxesOptions(Options):
    """A CSV file with the columns id, text, image, label, entity, left, top, right and bottom."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The file; the rows of a tweet follow one another, and its picture's path starts at the file's folder."""


class BoxesSource:
    """The plugin `boxes` of the stage `source`."""

    name = "boxes"
    labels: Sequence[str] = ("person", "location", "organization", "other")

    def __init__(self, options: BoxesOptions) -> None:
        """Take the section's options."""
        self._path = options.path

    def read(self) -> Iterator[SourceTweet | LeftOut]:
        """Yield each tweet; one whose box has a label that is not known is left out, and listed.

        Raises:
            DataError: The file is missing, lacks a column, or has a corner that is no number.
        """
        if not self._path.is_file():
            raise DataError(f"{self._path}: no such file; source.path names a CSV file")
        with self._path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if lacking:
                raise read_error(self._path, 1, f"lacks the column {', '.join(lacking)}")
            numbered = ((reader.line_num, row) for row in reader)
            for name, rows in groupby(numbered, key=lambda each: each[1]["id"]):
                yield self._tweet(name, list(rows))

    def _tweet(self, name: str, rows: Sequence[tuple[int, Mapping[str, str]]]) -> SourceTweet | LeftOut:
        unknown = [row["label"] for _, row in rows if row["label"] not in self.labels]
        if unknown:
            return LeftOut(name, f"unknown label: {unknown[0]}")
        first = rows[0][1]
        entities = dict.fromkeys(Entity(row["label"], row["entity"]) for _, row in rows)
        segments = [
            Segment(letter, None, row["entity"], _box(self._path, line, row))
            for letter, (line, row) in zip(segment_letters(), rows, strict=False)
        ]
        picture = self._path.parent / first["image"]
        sample = Sample(name, first["text"], picture, None, tuple(entities), tuple(segments))
        return SourceTweet(sample, split="train", size=None)


def _box(path: Path, line: int, row: Mapping[str, str]) -> tuple[int, int, int, int]:
    try:
        return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])
    except ValueError as error:
        raise read_error(path, line, f"a corner of the box is no whole number: {error}") from error
