"""The decisions about a data set, read while pages and other processes add to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from runner.dataset.review import Decision, Verdict, decide, now, read_line
from runner.errors import DataError

UNDO: Verdict = "undo"


class OvertakenError(Exception):
    """Somebody else decided about the sample after it was shown."""


class ReviewLog:
    """What was decided, and by whom; see `runner.dataset.review` for the file.

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
