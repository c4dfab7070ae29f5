"""Parser of answers with entities and boxes: pure functions, linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from plugins.adapter.gmner_prompt import NO_BOX, Task
from plugins.adapter.pfa_parse import ParseDiagnostics, collapse_whitespace, parse_summary, text_after
from plugins.adapter.pfa_prompt import EXTRACTION_MARK, SUMMARY_MARK
from runner.records import Answer, Box, GroundedEntity, Prediction, nfc

_SEPARATOR = re.compile("([;\n])")
"""Ends an entity, or is a part of its text."""
_MARK = re.compile(r"<[^<>]*>")
"""A mark of a model family around boxes, such as `<box>`."""
_REGION = re.compile(r"[\[\]()\d.,\s+-]+")
"""The characters of one or several boxes."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
MAX_DIGITS = 9
"""Maximum length of a number; a longer one is no position in an image."""
_NO_BOX_TEXTS = frozenset({NO_BOX.lower(), "n/a", "null"})


def parse_answer(output: str, tasks: Sequence[Task], labels: AbstractSet[str]) -> Prediction:
    """Parse an answer; never raises.

    Args:
        output: The model's output.
        tasks: The tasks of the prompt.
        labels: The known labels. An entity with another label is kept, and counts as wrong.
    """
    diagnostics = ParseDiagnostics()
    summary = parse_summary(output, diagnostics) if "summary" in tasks else None
    if "gmner" not in tasks:
        return Prediction(Answer(summary, None, None), diagnostics.ending, diagnostics.notes)
    text: str | None = output
    if "summary" in tasks:
        if output.partition(SUMMARY_MARK)[0].strip():
            diagnostics.add_repair(f"text before {SUMMARY_MARK!r} ignored")
        text = text_after(output, EXTRACTION_MARK)
    entities = parse_entities(text, labels, diagnostics)
    pairs = frozenset((entity.label, entity.text) for entity in entities)
    return Prediction(Answer(summary, pairs, None, entities), diagnostics.ending, diagnostics.notes)


def parse_entities(
    text: str | None, labels: AbstractSet[str], diagnostics: ParseDiagnostics
) -> tuple[GroundedEntity, ...]:
    """Parse a list of `entity|label|box`, separated by line breaks or semicolons.

    Label and box are the last two parts of a piece, so that an entity can contain bars. A piece without them belongs to
    the entity of the next piece if a semicolon follows, so that an entity can contain semicolons.

    Args:
        text: The list; None if the answer has no such part.
        labels: The known labels.
        diagnostics: Receives what was repaired or lost.
    """
    if text is None:
        diagnostics.add_loss(f"no {EXTRACTION_MARK!r}")
        return ()
    if text.strip().rstrip(".").lower() == NO_BOX.lower():
        return ()
    entities = []
    for mention, label, boxes in _entries(text, labels, diagnostics):
        entity = GroundedEntity(collapse_whitespace(label), collapse_whitespace(mention), boxes)
        if not entity.text:
            diagnostics.add_repair("label and box without entity dropped")
            continue
        if nfc(entity.label) not in labels:
            diagnostics.add_repair("unknown labels accepted")
        if boxes is None:
            diagnostics.add_loss(f"the box of {entity.text!r} cannot be read")
        entities.append(entity)
    if not entities:
        diagnostics.add_loss("no entity with label and box can be parsed")
    return tuple(entities)


def _entries(
    text: str, labels: AbstractSet[str], diagnostics: ParseDiagnostics
) -> Iterator[tuple[str, str, tuple[Box, ...] | None]]:
    """Yield entity, label and boxes of each entry; the boxes are None if they cannot be read."""
    parts = [*_SEPARATOR.split(text), "\n"]
    begun: list[str] = []  # parts of an entity that contains semicolons
    for piece, separator in zip(parts[::2], parts[1::2], strict=True):
        entry = _split_entry(piece, labels)
        if entry is not None:
            mention, label, boxes = entry
            yield "".join((*begun, mention)), label, boxes
            begun.clear()
        elif separator == ";":
            begun += [piece, separator]
        else:
            begun.append(piece)
            if "".join(begun).strip("; \t\r"):
                diagnostics.add_repair("text without label and box ignored")
            begun.clear()


def _split_entry(piece: str, labels: AbstractSet[str]) -> tuple[str, str, tuple[Box, ...] | None] | None:
    """Split a piece into entity, label and boxes; None if it does not end with a box, or a known label and any box."""
    match piece.rsplit("|", 2):
        case [mention, label, region]:
            boxes = parse_boxes(region)
            if boxes is not None or nfc(collapse_whitespace(label)) in labels:
                return mention, label, boxes
    return None


def parse_boxes(text: str) -> tuple[Box, ...] | None:
    """Parse the boxes of one entity, with or without the marks of a model family.

    Returns:
        The boxes; empty for `None`; None if the text cannot be read.
    """
    plain = _MARK.sub("", text).strip()
    if plain.lower() in _NO_BOX_TEXTS:
        return ()
    numbers = _NUMBER.findall(plain) if _REGION.fullmatch(plain) else []
    if not numbers or len(numbers) % 4 or max(map(len, numbers)) > MAX_DIGITS:
        return None
    sides = [float(number) for number in numbers]
    return tuple(
        (left, top, right, bottom)
        for left, top, right, bottom in zip(sides[::4], sides[1::4], sides[2::4], sides[3::4], strict=True)
    )
