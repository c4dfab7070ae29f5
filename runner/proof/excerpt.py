"""Compares texts, and shows where two of them part, in one line."""

from __future__ import annotations

from unicodedata import normalize

BEFORE, AFTER = 20, 40
"""Characters shown before and after the place where two texts part."""


def difference(expected: str, found: str) -> str:
    """Say where two texts part: `at character 12 expected '…' and found '…'`."""
    pairs = zip(expected, found, strict=False)
    place = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))
    return f"at character {place} expected {excerpt(expected, place)} and found {excerpt(found, place)}"


def excerpt(text: str, place: int) -> str:
    """Quote a text around a place, on one line."""
    first, end = max(0, place - BEFORE), place + AFTER
    return f"{'…' if first else ''}{text[first:end]!r}{'…' if end < len(text) else ''}"


def composed(text: str) -> str:
    """A text as tokenizers that compose characters write it (Unicode's NFC), so that spellings can be compared."""
    return normalize("NFC", text)


def squeezed(text: str) -> str:
    """A text composed and without white space."""
    return "".join(composed(text).split())
