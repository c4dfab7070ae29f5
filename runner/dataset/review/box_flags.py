"""Boxes that reviewers flagged as wrong: an append-only log, beside the decisions about summaries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import sample_from_row
from runner.dataset.review.decisions import DecisionConflictError, FollowedLog, append_line
from runner.errors import DataError, data_line_error
from runner.files import iter_jsonl
from runner.records import Sample, Segment

WRONG_BOX = "wrong box"
"""The flag of samples with a box that a reviewer flagged."""


@dataclass(frozen=True, slots=True)
class BoxFlag:
    """A line of the log: what a reviewer says of a box.

    Attributes:
        sample: The id of the sample.
        letter: The letter of the segment.
        box: Left, top, right and bottom in pixels; another box under this letter is not flagged.
        wrong: True if the box is wrong; False takes an earlier flag back.
        who: The name of the reviewer.
        when: The time in ISO 8601, in UTC.
    """

    sample: str
    letter: str
    box: Sequence[int]
    wrong: bool
    who: str
    when: str

    def __post_init__(self) -> None:
        """Raise a ValueError for values that the page never writes."""
        if not isinstance(self.wrong, bool):
            raise ValueError(f"`wrong` is {self.wrong!r}; it must be true or false")
        if not isinstance(self.box, list | tuple) or len(self.box) != 4:
            raise ValueError(f"`box` is {self.box!r}; it must be [left, top, right, bottom] in pixels")


class BoxFlagLog(FollowedLog):
    """The log of flags. The last line about a box counts."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            DataError: A line is complete but no flag of a box.
        """
        self._flags: dict[tuple[str, str, tuple[int, ...]], BoxFlag] = {}
        super().__init__(path)

    def flag_of(self, sample: str, segment: Segment) -> BoxFlag | None:
        """Return the flag of a box; None if the box is not flagged."""
        flag = self._flags.get((sample, segment.letter, tuple(segment.box)))
        return flag if flag is not None and flag.wrong else None

    def wrong_boxes(self, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Segment, BoxFlag]]:
        """Yield the flagged boxes, in the order of the samples."""
        for sample in samples:
            for segment in sample.segments:
                if flag := self.flag_of(sample.id, segment):
                    yield sample, segment, flag

    def toggle(self, sample: str, segment: Segment, who: str, when: str, *, expected_revision: int) -> None:
        """Flag a box as wrong, or take the flag back; the line is on disk on return.

        Raises:
            DecisionConflictError: Another reviewer has changed a flag of the sample; nothing was written.
            DataError: The file cannot be written.
        """
        self.catch_up()
        if self.revision(sample) != expected_revision:
            raise DecisionConflictError
        wrong = self.flag_of(sample, segment) is None
        flag = BoxFlag(sample, segment.letter, list(segment.box), wrong, who, when)
        try:
            append_line(self.path, asdict(flag))
        except OSError as error:
            raise DataError(f"{self.path}: the flag cannot be written: {error.strerror}") from error
        self.catch_up()

    def _apply_line(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            self.torn_lines += [self.num_lines] if line.strip() else []
            return
        try:
            flag = BoxFlag(**row)
        except (TypeError, ValueError) as error:
            raise data_line_error(self.path, self.num_lines, f"is not a flag of a box: {error}") from error
        self._revisions[flag.sample] += 1
        self._flags[flag.sample, flag.letter, tuple(flag.box)] = flag


def count_wrong_boxes(work: WorkFolder) -> int:
    """Count the flagged boxes of the annotated samples of a build.

    Raises:
        DataError: A line of the log is invalid.
    """
    if not work.box_flags.is_file():
        return 0
    samples = (sample_from_row(row, work.image_root) for row in iter_jsonl(work.annotated_samples))
    return sum(1 for _ in BoxFlagLog(work.box_flags).wrong_boxes(samples))
