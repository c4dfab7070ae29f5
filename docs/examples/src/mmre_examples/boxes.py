"""An example source: one CSV file of tweets and boxes, one row per box."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

from runner.errors import DataError, data_line_error
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import FilePath, Options, OutsideFingerprint, SkippedEntry, SourceTweet

COLUMNS = ("id", "text", "image", "label", "entity", "left", "top", "right", "bottom")


class BoxesOptions(Options):
    """A CSV file with the columns id, text, image, label, entity, left, top, right and bottom."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Path of the file. The rows of a tweet are consecutive, and image paths are relative to the file's folder."""


class BoxesSource:
    """The plugin `boxes` of the stage `source`."""

    name = "boxes"
    labels: Sequence[str] = ("person", "location", "organization", "other")

    def __init__(self, options: BoxesOptions) -> None:
        """Store the options of the section."""
        self._path = options.path

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each tweet, or an entry for a skipped tweet that has a box with an unknown label.

        Raises:
            DataError: The file or a column is missing, or a corner is not a number.
        """
        if not self._path.is_file():
            raise DataError(f"{self._path}: no such file; set source.path to a CSV file")
        with self._path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise data_line_error(self._path, 1, f"the column {', '.join(missing)} is missing")
            numbered = ((reader.line_num, row) for row in reader)
            for name, rows in groupby(numbered, key=lambda item: item[1]["id"]):
                yield self._tweet(name, list(rows))

    def _tweet(self, name: str, rows: Sequence[tuple[int, Mapping[str, str]]]) -> SourceTweet | SkippedEntry:
        unknown = [row["label"] for _, row in rows if row["label"] not in self.labels]
        if unknown:
            return SkippedEntry(name, f"unknown label: {unknown[0]}")
        first = rows[0][1]
        entities = dict.fromkeys(Entity(row["label"], row["entity"]) for _, row in rows)
        segments = [
            Segment(letter, None, row["entity"], _box(self._path, line, row))
            for letter, (line, row) in zip(segment_letters(), rows, strict=False)
        ]
        image = self._path.parent / first["image"]
        sample = Sample(name, first["text"], image, None, tuple(entities), tuple(segments))
        return SourceTweet(sample, split="train", size=None)


def _box(path: Path, line: int, row: Mapping[str, str]) -> tuple[int, int, int, int]:
    try:
        return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])
    except ValueError as error:
        raise data_line_error(path, line, f"a corner of the box is not an integer: {error}") from error
