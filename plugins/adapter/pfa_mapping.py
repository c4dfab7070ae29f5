"""Reads the image-entity mapping of an answer, a Python dictionary of strings, in time linear in length."""

from __future__ import annotations

import re

from plugins.adapter.pfa_findings import Findings, collapse
from plugins.adapter.pfa_literal import Literal, read_literal

# Quotes as word processors and chat models write them, too. An entity ends at the first quote of the kind it began with
# that a comma, a closing brace or the end follows.
_QUOTES = ("'", '"', "\u2018\u2019\u201a", "\u201c\u201d\u201e", "`\u00b4")
_ANY_QUOTE = f"[{''.join(_QUOTES)}]"
_ITEM_END = r"(?=\s*+(?:[,}]|\Z))"
_LOOSE_KEY = re.compile(rf"{_ANY_QUOTE}([a-z]++){_ANY_QUOTE}\s*+:\s*+({_ANY_QUOTE})")
_LOOSE_VALUE = {
    quote: re.compile(rf"([^\\{kind}]*+(?:(?:\\[\s\S]|[{kind}](?!{_ITEM_END}))[^\\{kind}]*+)*)[{kind}]{_ITEM_END}")
    for kind in _QUOTES
    for quote in kind
}


def read_lossless(text: str, findings: Findings) -> dict[str, str]:
    """Read the shortest literal from the first `{`, else what looks like `'letter': 'entity'`."""
    start = text.find("{")
    literal = read_literal(text, start) if start >= 0 else None
    if literal is not None:
        _note_surroundings(text[:start], text[literal.end :], findings)
        return _cleaned(literal, findings)
    mapping, unfinished = _loose_items(text)
    if not mapping:
        findings.lose("no image-entity mapping can be read")
    else:
        findings.repair("the image-entity mapping is no dictionary; its items were read one by one")
    if unfinished:
        findings.repair(f"{unfinished} unfinished item(s) of the image-entity mapping dropped")
    return mapping


def read_published(text: str, findings: Findings) -> dict[str, str]:
    """Read the literal that reaches from the first `{` to the last `}`, else nothing."""
    start, end = text.find("{"), text.rfind("}") + 1
    literal = read_literal(text, start, end) if 0 <= start < end else None
    if literal is None:
        findings.lose("no image-entity mapping can be read")
        return {}
    _note_surroundings(text[:start], text[literal.end :], findings)
    return _cleaned(literal, findings)


def _cleaned(literal: Literal, findings: Findings) -> dict[str, str]:
    mapping = {collapse(letter): collapse(entity) for letter, entity in literal.mapping.items()}
    if len(mapping) < literal.num_items:
        findings.repair("a letter stands twice in the image-entity mapping; its last entity counts")
    return mapping


def _note_surroundings(before: str, after: str, findings: Findings) -> None:
    if before.strip():
        findings.repair("text before the image-entity mapping passed over")
    if after.strip():
        findings.repair("text after the image-entity mapping passed over")


def _loose_items(text: str) -> tuple[dict[str, str], int]:
    """Scan for items between quotes; return the first entity of each letter and the number of open items."""
    keys = list(_LOOSE_KEY.finditer(text))
    ends = [*(key.start() for key in keys), len(text)][1:]
    mapping: dict[str, str] = {}
    unfinished = 0
    for key, end in zip(keys, ends, strict=True):
        value = _LOOSE_VALUE[key[2]].match(text[key.end() : end])
        if value is None:
            unfinished += 1
        else:
            mapping.setdefault(key[1], collapse(_unescaped(value[1])))
    return mapping, unfinished


def _unescaped(value: str) -> str:
    return re.sub(r"\\(['\"\\])", r"\1", value)
