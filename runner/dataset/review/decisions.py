"""Review decisions: an append-only log written by the review page and read by a build."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from runner.dataset.build.work_folder import WorkFolder
from runner.errors import DataError, read_error
from runner.files import rows_of

Verdict = Literal["accept", "edit", "reject", "undo"]
"""`edit` accepts another summary than the annotator's; `undo` takes back the sample's decision before it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the file.

    Attributes:
        sample: The sample's id.
        decision: The verdict.
        annotation: Which summary it is about (`annotation` of the sample's row): another one needs another decision.
        summary: The reviewer's own, with `edit`; else None.
        who: The reviewer.
        when: In ISO 8601, in UTC.
    """

    sample: str
    decision: Verdict
    annotation: str
    summary: str | None
    who: str
    when: str

    def __post_init__(self) -> None:
        """Refuse what no page writes, with what is wrong."""
        if self.decision not in get_args(Verdict):
            raise ValueError(f"the decision {self.decision!r} is none of {', '.join(get_args(Verdict))}")
        if (self.decision == "edit") != bool(self.summary and self.summary.strip()):
            raise ValueError("an edit has a summary that is not empty, and no other decision has one")


def now() -> str:
    """The time of a decision."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def decide(file: Path, decision: Decision) -> None:
    """Write a decision; it is on the disk when this returns. Several pages may write at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(decision), ensure_ascii=False).encode() + b"\n"
    place = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # One at a time: half of a line that another process is writing looks as one that a kill tore.
        fcntl.flock(place, fcntl.LOCK_EX)
        # That one is closed off, so that it does not swallow this one.
        size = os.fstat(place).st_size
        torn = size > 0 and os.pread(place, 1, size - 1) != b"\n"
        told = b"\n" + line if torn else line
        if os.write(place, told) != len(told):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(place)
    finally:
        os.close(place)


def read_decisions(file: Path) -> dict[str, Sequence[Decision]]:
    """Read what stands of each sample, oldest first, less what was undone; no file is no decisions.

    Raises:
        DataError: A line is damaged. One that a kill tore, the last or closed off by the next, is passed over.
    """
    standing: dict[str, list[Decision]] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n") if file.exists() else [], start=1):
        decision = read_line(file, number, line)
        if decision is None:
            continue
        stack = standing.setdefault(decision.sample, [])
        if decision.decision != "undo":
            stack.append(decision)
        elif stack:
            stack.pop()
    return {sample: stack for sample, stack in standing.items() if stack}


def read_line(file: Path, number: int, line: bytes) -> Decision | None:
    """Read a line of a file, counted from 1; None where it is empty or torn.

    Raises:
        DataError: It is whole, and no decision.
    """
    try:
        told = json.loads(line)
    except ValueError:
        return None
    try:
        return Decision(**told)
    except (TypeError, ValueError) as error:
        raise read_error(file, number, f"is no decision: {error}") from error


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A sample as the review shows it, or a build publishes it.

    Attributes:
        row: A line of `WorkFolder.annotated`.
        decision: What stands of it; None while nobody has decided about this very summary.
    """

    row: Mapping[str, Any]
    decision: Decision | None

    @property
    def summary(self) -> str | None:
        """The reviewer's, or the annotator's."""
        edited = self.decision is not None and self.decision.decision == "edit"
        return self.decision.summary if edited and self.decision else self.row["summary"]

    @property
    def is_rejected(self) -> bool:
        """Whether it must not be published."""
        return self.decision is not None and self.decision.decision == "reject"


def reviewed(work: WorkFolder) -> Iterator[Reviewed]:
    """Yield the annotated samples of a build, in order, each with its decision.

    Raises:
        DataError: Nothing is annotated yet, or the decisions are damaged.
    """
    if not work.annotated.is_file():
        raise DataError(f"{work.path}: no annotated samples here; `runner build DATASET_SPEC` makes them")
    standing = read_decisions(work.decisions)
    for row in rows_of(work.annotated):
        about = [each for each in standing.get(row["id"], ()) if each.annotation == row["annotation"]]
        yield Reviewed(row, about[-1] if about else None)


UNDO: Verdict = "undo"


class OvertakenError(Exception):
    """Somebody else decided about the sample after it was shown."""


class ReviewLog:
    """What was decided, and by whom; see `runner.dataset.review.decisions` for the file.

    Attributes:
        path: The file; the first decision makes it.
        num_lines: Lines read so far; it grows with each decision, whoever makes it.
        torn: Those of them that a kill cut off, counted from 1: what they said is lost, the rest holds.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            DataError: A line is no decision, although nothing cut it off.
        """
        self.path, self.num_lines = path, 0
        self.torn: list[int] = []
        self._offset = 0
        self._standing: dict[str, list[tuple[int, Decision]]] = defaultdict(list)
        self._revisions: Counter[str] = Counter()
        self.catch_up()

    def catch_up(self) -> None:
        """Read the lines that have come since; see `__init__`. One that is being written is left for later."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self.num_lines += 1
                self._take(line)

    @property
    def ends_torn(self) -> bool:
        """Whether the file ends in the middle of a line: a kill cut it off, or somebody writes it just now."""
        return self.path.is_file() and self.path.stat().st_size > self._offset

    def standing(self, sample: str, annotation: str) -> Decision | None:
        """The decision that holds about a sample with this very summary."""
        return next(
            (each for _, each in reversed(self._standing.get(sample, ())) if each.annotation == annotation), None
        )

    def revision(self, sample: str) -> int:
        """How many lines are about a sample: what a decision about it has to have seen."""
        return self._revisions[sample]

    def last_of(self, who: str) -> Decision | None:
        """What this reviewer can take back: the last decision that nobody has replaced since."""
        tops = (stack[-1] for stack in self._standing.values() if stack)
        mine = [top for top in tops if top[1].who == who]
        return max(mine, key=lambda top: top[0])[1] if mine else None

    def add(self, decision: Decision, *, seen: int) -> None:
        """Write a decision; it is on the disk when this returns.

        Args:
            decision: What was decided.
            seen: The sample's `revision` when it was shown.

        Raises:
            OvertakenError: There is a newer decision; nothing was written.
            DataError: The file cannot be written.
        """
        self.catch_up()
        if self.revision(decision.sample) != seen:
            raise OvertakenError
        try:
            decide(self.path, decision)
        except OSError as error:
            raise DataError(f"{self.path}: the decision cannot be written: {error.strerror}") from error
        self.catch_up()

    def undo(self, who: str) -> Decision | None:
        """Take back a reviewer's last decision and return it; the one before it holds again. None: there is none.

        Raises:
            DataError: The file cannot be written.
        """
        self.catch_up()
        last = self.last_of(who)
        if last is not None:
            taken_back = Decision(last.sample, UNDO, last.annotation, None, who, now())
            self.add(taken_back, seen=self.revision(last.sample))
        return last

    def _take(self, line: bytes) -> None:
        decision = read_line(self.path, self.num_lines, line)
        if decision is None:
            self.torn += [self.num_lines] if line.strip() else []
            return
        self._revisions[decision.sample] += 1
        stack = self._standing[decision.sample]
        if decision.decision != UNDO:
            stack.append((self.num_lines, decision))
        elif stack:
            stack.pop()


def torn_message(path: Path, lines: Sequence[int]) -> str:
    """Say which lines a kill cut off."""
    named = ", ".join(str(line) for line in lines)
    return f"{path}: cut off, as by a kill: line {named}. What it said is lost, the rest holds"
