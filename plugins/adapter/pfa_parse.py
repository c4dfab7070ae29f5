"""Reads an answer, in the two ways that contract.md defines; never raises, in time linear in the text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Sequence

from plugins.adapter.pfa_wording import FINE_MARKER, MAPPING_MARKER, NER_MARKER, SUMMARY_MARKER
from runner.records import Answer, Ending, Prediction

_QUOTES = "\"'“”‘’`"
_OPENING = re.compile(rf"(?:^|(?<=[{{,\s]))[{_QUOTES}]?([a-z]{{1,3}})[{_QUOTES}]?\s?:\s?[{_QUOTES}]")
"""Where an item of a mapping begins, whatever its quotes: `'a': '`."""
_CLOSING = re.compile(rf"[{_QUOTES}]\s?(?:,|\}}|$)")
"""Where its entity ends."""


class _Notes:
    """Collects what was repaired and what is lost."""

    def __init__(self) -> None:
        self.repaired: list[str] = []
        self.lost: list[str] = []

    @property
    def ending(self) -> Ending:
        if self.lost:
            return "malformed"
        return "repaired" if self.repaired else "clean"


def parse(output: str, tasks: Collection[str], labels: Sequence[str], mode: str) -> Prediction:
    """Read an answer.

    An ending is `clean` where the answer is as asked for, `repaired` where every part could be read although
    something is not as it should be, `malformed` where a part that was asked for is missing or unreadable.

    Args:
        output: The text, whatever it is.
        tasks: The parts that were asked for; the others are None in the answer.
        labels: Known labels, for `lossless`.
        mode: `published` (Algorithm 1 of the paper, taken literally) or `lossless`.
    """
    notes = _Notes()
    lossless = mode == "lossless"
    summary = _summary(output, notes) if "summary" in tasks else None
    fine = _fine_answer(output, notes, required="summary" in tasks) if lossless else output
    pairs = mapping = None
    if "ner" in tasks:
        found = _after(fine, NER_MARKER, notes)
        text = _collapsed(found.partition(MAPPING_MARKER)[0])
        pairs = _anchored_pairs(text, labels, notes) if lossless else _split_pairs(text, notes)
    if "match" in tasks:
        text = _collapsed(_after(fine, MAPPING_MARKER, notes))
        mapping = _tolerant_mapping(text, notes) if lossless else _literal_mapping(text, notes)
    answer = Answer(summary, frozenset(pairs) if pairs is not None else None, mapping)
    return Prediction(answer, notes.ending, tuple(notes.lost + notes.repaired))


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _after(text: str, marker: str, notes: _Notes) -> str:
    before, found, after = text.partition(marker)
    if not found:
        notes.lost.append(f"no {marker!r}")
    return after


def _summary(output: str, notes: _Notes) -> str:
    before, found, after = output.partition(SUMMARY_MARKER)
    if not found:
        notes.lost.append(f"no {SUMMARY_MARKER!r}")
        return ""
    if before.strip():
        notes.repaired.append(f"text before {SUMMARY_MARKER!r}")
    return after.partition(FINE_MARKER)[0].strip()


def _fine_answer(output: str, notes: _Notes, *, required: bool) -> str:
    """A summary may hold `WINNER:`, so the fine answer is looked for behind its own marker, where there is one."""
    before, found, after = output.partition(FINE_MARKER)
    if found:
        if before.strip() and not required:
            notes.repaired.append(f"text before {FINE_MARKER!r}")
        return after
    if NER_MARKER in output or MAPPING_MARKER in output:
        notes.repaired.append(f"no {FINE_MARKER!r}")
    return output


def _split_pairs(text: str, notes: _Notes) -> list[tuple[str, str]]:
    pairs = []
    for piece in text.split(":"):
        label, _, entity = (part.strip() for part in piece.partition(";"))
        if label and entity:
            pairs.append((label, entity))
        elif piece.strip():
            notes.repaired.append(f"dropped {_short(piece)}, which is no label;entity")
    return pairs


def _anchored_pairs(text: str, labels: Sequence[str], notes: _Notes) -> list[tuple[str, str]]:
    # The longest label first, so that of two with the same beginning the whole one is found.
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    parts = re.split(f":({names});", text) if names else [text]
    if parts[0].strip():
        notes.repaired.append(f"dropped {_short(parts[0])}, which stands before any known label")
    pairs = []
    for label, entity in zip(parts[1::2], parts[2::2], strict=True):
        if entity.strip():
            pairs.append((label, entity.strip()))
        else:
            notes.repaired.append(f"dropped an empty {label}")
    return pairs


def _literal_mapping(text: str, notes: _Notes) -> dict[str, str]:
    start, end = text.find("{"), text.rfind("}")
    mapping = _literal(text[start : end + 1]) if 0 <= start < end else None
    if mapping is None:
        notes.lost.append("the mapping is no Python dictionary of strings")
        return {}
    if text[:start].strip() or text[end + 1 :].strip():
        notes.repaired.append("text around the mapping")
    return mapping


def _tolerant_mapping(text: str, notes: _Notes) -> dict[str, str]:
    start = text.find("{")
    end = _closing_brace(text, start) if start >= 0 else -1
    mapping = _literal(text[start : end + 1]) if end > 0 else None
    if mapping is not None:
        if text[:start].strip() or text[end + 1 :].strip():
            notes.repaired.append("text around the mapping")
        return mapping
    items = _scanned_items(text[max(start, 0) :])
    if items:
        notes.repaired.append("the mapping is no Python dictionary; its items were read one by one")
    elif text.strip():
        notes.lost.append("the mapping cannot be read")
    return items


def _scanned_items(text: str) -> dict[str, str]:
    """Read items one by one: each runs to its closing quote, or to where the next one begins."""
    openings = list(_OPENING.finditer(text))
    ends = [opening.start() for opening in openings[1:]] + [len(text)] * bool(openings)
    items = {}
    for opening, end in zip(openings, ends, strict=True):
        value = text[opening.end() : end]
        closing = _CLOSING.search(value)
        items[opening[1]] = _collapsed(value[: closing.start()] if closing else value.rstrip(" ,}"))
    return items


def _closing_brace(text: str, start: int) -> int:
    """Find the first `}` outside a string literal; -1 where there is none.

    A dictionary of strings holds no other brace outside its strings, so this is the only place where the shortest
    such literal can end: one pass is enough, where trying each `}` in turn would be quadratic.
    """
    position = start + 1
    while position < len(text):
        sign = text[position]
        if sign == "}":
            return position
        if sign in "{#":
            return -1
        position = _after_string(text, position) if sign in "'\"" else position + 1
    return -1


def _after_string(text: str, start: int) -> int:
    """The position behind the string literal that begins here; the end of the text where it never closes."""
    quote = text[start] * 3 if text.startswith(text[start] * 3, start) else text[start]
    position = start + len(quote)
    while position < len(text):
        if text[position] == "\\":
            position += 2
        elif text.startswith(quote, position):
            return position + len(quote)
        else:
            position += 1
    return len(text)


def _literal(text: str) -> dict[str, str] | None:
    """Evaluate a Python literal; None where it is no dictionary of strings to strings."""
    try:
        with warnings.catch_warnings():
            # A backslash that begins no escape is a model's, not ours, to be warned of.
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        return None
    return {_collapsed(letter): _collapsed(entity) for letter, entity in value.items()}


def _short(text: str) -> str:
    return repr(text.strip() if len(text) <= 40 else text.strip()[:37] + "…")
