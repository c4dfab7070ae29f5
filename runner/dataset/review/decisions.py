"""Review decisions: an append-only log written by the review page and read by a build."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from runner.dataset.build.work_folder import WorkFolder
from runner.errors import DataError, data_line_error
from runner.files import iter_jsonl
from runner.records import is_blank

Verdict = Literal["accept", "edit", "reject", "undo"]
"""`edit` accepts the reviewer's summary in place of the annotator's; `undo` revokes the sample's last decision."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the decision log.

    Attributes:
        sample: The id of the sample.
        decision: The verdict.
        annotation: The key of the summary (`annotation` in the sample's row); another summary needs a new decision.
        summary: The reviewer's summary for `edit`; else None.
        who: The name of the reviewer.
        when: The time in ISO 8601, in UTC.
    """

    sample: str
    decision: Verdict
    annotation: str
    summary: str | None
    who: str
    when: str

    def __post_init__(self) -> None:
        """Raise a ValueError for values that the page never writes."""
        if self.decision not in get_args(Verdict):
            raise ValueError(f"the decision {self.decision!r} is unknown. Known: {', '.join(get_args(Verdict))}")
        if (self.decision == "edit") != bool(self.summary and not is_blank(self.summary)):
            raise ValueError("an edit needs a non-empty summary, and no other decision has one")


def utc_now() -> str:
    """Return the current time in UTC, in ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def append_decision(file: Path, decision: Decision) -> None:
    """Append a decision to the log; it is on disk on return. Several processes may write at once."""
    append_line(file, asdict(decision))


def append_line(file: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a file of JSON lines; it is on disk on return. Several processes may write at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        # One writer at a time: a line that another process is still writing looks like one truncated by a kill.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A truncated line is terminated first, so that it does not absorb the new line.
        size = os.fstat(descriptor).st_size
        is_truncated = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = b"\n" + line if is_truncated else line
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_decisions(file: Path) -> dict[str, Sequence[Decision]]:
    """Read the valid decisions of each sample, oldest first, without undone ones; a missing file has none.

    Raises:
        DataError: A line is complete but invalid. Lines truncated by a kill are skipped.
    """
    decisions: dict[str, list[Decision]] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n") if file.exists() else [], start=1):
        decision = parse_decision(file, number, line)
        if decision is None:
            continue
        stack = decisions.setdefault(decision.sample, [])
        if decision.decision != "undo":
            stack.append(decision)
        elif stack:
            stack.pop()
    return {sample: stack for sample, stack in decisions.items() if stack}


def parse_decision(file: Path, number: int, line: bytes) -> Decision | None:
    """Parse a line of the log; return None if it is empty or truncated.

    Args:
        file: The log, for the error message.
        number: The number of the line, counted from 1.
        line: The line.

    Raises:
        DataError: The line is complete but not a decision.
    """
    try:
        row = json.loads(line)
    except ValueError:
        return None
    except RecursionError as error:
        raise data_line_error(file, number, f"is not a decision: {error}") from error
    try:
        return Decision(**row)
    except (TypeError, ValueError) as error:
        raise data_line_error(file, number, f"is not a decision: {error}") from error


@dataclass(frozen=True, slots=True)
class ReviewedSample:
    """An annotated sample with its current decision.

    Attributes:
        row: A line of `WorkFolder.annotated_samples`.
        decision: The current decision about this summary; None if there is none.
    """

    row: Mapping[str, Any]
    decision: Decision | None

    @property
    def summary(self) -> str | None:
        """The reviewer's summary after an edit, else the annotator's."""
        if self.decision is not None and self.decision.decision == "edit":
            return self.decision.summary
        return self.row["summary"]  # type: ignore[no-any-return]

    @property
    def is_rejected(self) -> bool:
        """Whether the sample must not be published."""
        return self.decision is not None and self.decision.decision == "reject"


def reviewed_samples(work: WorkFolder) -> Iterator[ReviewedSample]:
    """Yield the annotated samples of a build, in order, each with its current decision.

    Raises:
        DataError: Nothing is annotated yet, or a line of the log is invalid.
    """
    if not work.annotated_samples.is_file():
        raise DataError(f"{work.path}: no annotated samples here. `runner build DATASET_SPEC` creates them")
    decisions = read_decisions(work.decisions)
    for row in iter_jsonl(work.annotated_samples):
        stack = decisions.get(row["id"], ())
        about_summary = [decision for decision in stack if decision.annotation == row["annotation"]]
        yield ReviewedSample(row, about_summary[-1] if about_summary else None)


UNDO: Verdict = "undo"


class DecisionConflictError(Exception):
    """Another reviewer decided about the sample after it was displayed."""


class FollowedLog(ABC):
    """An append-only log of several processes, held in memory and kept up to date with the file.

    Attributes:
        path: The file; the first line creates it.
        num_lines: Number of lines read so far; it grows with every line of any process.
        torn_lines: Numbers of the lines that a kill truncated, counted from 1. What they said is lost.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            DataError: A line is complete but invalid.
        """
        self.path, self.num_lines = path, 0
        self.torn_lines: list[int] = []
        self._offset = 0
        self._revisions: Counter[str] = Counter()
        self.catch_up()

    def catch_up(self) -> None:
        """Read the lines appended since the last call; an incomplete last line is left for the next call.

        Raises:
            DataError: A line is complete but invalid.
        """
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self.num_lines += 1
                self._apply_line(line)

    def revision(self, sample: str) -> int:
        """Return the number of lines about a sample, which is compared to detect conflicts."""
        return self._revisions[sample]

    @abstractmethod
    def _apply_line(self, line: bytes) -> None:
        """Take over a complete line, or count it as torn."""


class ReviewLog(FollowedLog):
    """The decision log."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            DataError: A line is complete but not a decision.
        """
        self._stacks: dict[str, list[tuple[int, Decision]]] = defaultdict(list)
        super().__init__(path)

    @property
    def ends_with_partial_line(self) -> bool:
        """Whether the last line is incomplete: a kill truncated it, or a process is writing it now."""
        return self.path.is_file() and self.path.stat().st_size > self._offset

    def current_decision(self, sample: str, annotation: str) -> Decision | None:
        """Return the current decision about a sample with this summary."""
        stack = self._stacks.get(sample, ())
        return next((decision for _, decision in reversed(stack) if decision.annotation == annotation), None)

    def last_decision_by(self, who: str) -> Decision | None:
        """Return the last decision of a reviewer that no other decision has replaced, which `undo` revokes."""
        last_decisions = (stack[-1] for stack in self._stacks.values() if stack)
        own = [(number, decision) for number, decision in last_decisions if decision.who == who]
        return max(own, key=lambda entry: entry[0])[1] if own else None

    def add(self, decision: Decision, *, expected_revision: int) -> None:
        """Append a decision to the log; it is on disk on return.

        Args:
            decision: The decision.
            expected_revision: The sample's `revision` when it was displayed.

        Raises:
            DecisionConflictError: There is a newer decision; nothing was written.
            DataError: The file cannot be written.
        """
        self.catch_up()
        if self.revision(decision.sample) != expected_revision:
            raise DecisionConflictError
        try:
            append_decision(self.path, decision)
        except OSError as error:
            raise DataError(f"{self.path}: the decision cannot be written: {error.strerror}") from error
        self.catch_up()

    def undo(self, who: str) -> Decision | None:
        """Revoke a reviewer's last decision, which restores the one before it.

        Returns:
            The revoked decision; None if the reviewer has none.

        Raises:
            DataError: The file cannot be written.
        """
        self.catch_up()
        last = self.last_decision_by(who)
        if last is not None:
            undo = Decision(last.sample, UNDO, last.annotation, None, who, utc_now())
            self.add(undo, expected_revision=self.revision(last.sample))
        return last

    def _apply_line(self, line: bytes) -> None:
        decision = parse_decision(self.path, self.num_lines, line)
        if decision is None:
            self.torn_lines += [self.num_lines] if line.strip() else []
            return
        self._revisions[decision.sample] += 1
        stack = self._stacks[decision.sample]
        if decision.decision != UNDO:
            stack.append((self.num_lines, decision))
        elif stack:
            stack.pop()


def torn_lines_message(path: Path, lines: Sequence[int]) -> str:
    """Format the warning about truncated lines."""
    numbers = ", ".join(str(line) for line in lines)
    return f"{path}: truncated, as by a kill: line {numbers}. Decisions in these lines are lost; all others are valid"
