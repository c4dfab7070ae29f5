"""Checks the ids of samples, which become part of file names."""

from __future__ import annotations

MAX_LENGTH = 100


def id_problem(name: str) -> str | None:
    """Say why an id cannot be used in file names; None if it can."""
    if not name or len(name) > MAX_LENGTH or name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
        return f"{name!r} cannot be used in file names; use printable characters, no slash and no leading dot"
    return None


class SampleIds:
    """The ids of a corpus, each of which may occur once."""

    def __init__(self) -> None:
        """Start without an id."""
        self._first: dict[str, str] = {}

    def problems(self, name: str, location: str) -> list[str]:
        """Add an id, and return what is wrong with it."""
        problem = id_problem(name)
        first = self._first.setdefault(name, location)
        repeated = f"the id {name!r} is already used at {first}" if first != location else None
        return [each for each in (problem, repeated) if each]
