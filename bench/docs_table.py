"""Writes text into a page of the documentation, between two comments."""

from __future__ import annotations

from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """Return the comments before and after the text of this name."""
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"


def read_between(page: Path, name: str) -> str:
    """Return the text between the two comments of a page.

    Raises:
        ValueError: The page does not have both comments.
    """
    return _parts(page, name)[1]


def write_between(page: Path, name: str, text: str) -> None:
    """Replace the text between the two comments of a page.

    Raises:
        ValueError: The page does not have both comments.
    """
    before, _, after = _parts(page, name)
    begin, end = marks(name)
    page.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = marks(name)
    before, begins, rest = page.read_text(encoding="utf-8").partition(begin)
    text, ends, after = rest.partition(end)
    if not (begins and ends):
        raise ValueError(f"{page} lacks the comments {begin.strip()} and {end}")
    return before, text, after
