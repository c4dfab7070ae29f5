"""What a parser finds wrong with an answer, gathered while it reads."""

from __future__ import annotations

from runner.records import Ending


def collapse(text: str) -> str:
    """Make every run of white space one space, and strip the ends."""
    return " ".join(text.split())


class Findings:
    """Notes on one answer, and what they make of it."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._lost = False

    def repair(self, note: str) -> None:
        """Note that something is not as asked for, although what was asked for could be read."""
        self._notes.append(note)

    def lose(self, note: str) -> None:
        """Note that a part that was asked for is missing or cannot be read."""
        self._notes.append(note)
        self._lost = True

    @property
    def ending(self) -> Ending:
        """Clean without notes, malformed when a part is lost, repaired otherwise."""
        if self._lost:
            return "malformed"
        return "repaired" if self._notes else "clean"

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes, in the order found."""
        return tuple(self._notes)
