"""Reads the image-entity mapping of an answer, a Python dictionary of strings, in time linear in length."""

from __future__ import annotations

import ast
import re
import warnings
from typing import NamedTuple

from plugins.adapter.pfa_findings import Findings, collapse

# What Python's grammar allows in a dictionary of plain strings. All repetition is possessive (`*+`): nothing
# is tried twice, so a hostile answer costs no more than a long one. Python's own parser, which is not safe on
# any text, sees only what passed here; it counts the parentheses.
_SPACE = r"(?:[ \t\f\r\n]|\\\r?\n|\#[^\r\n]*+(?=[\r\n]))*+"
_STRING = (
    r"[rRuU]?(?:"
    r"'''(?:[^'\\]|\\[\s\S]|'(?!''))*+'''"
    r'|"""(?:[^"\\]|\\[\s\S]|"(?!""))*+"""'
    r"|'(?!'')(?:[^'\\\r\n]|\\(?:\r\n|[\s\S]))*+'"
    r'|"(?!"")(?:[^"\\\r\n]|\\(?:\r\n|[\s\S]))*+"'
    r")"
)
_VALUE = rf"(?:\({_SPACE})*+(?:{_STRING}{_SPACE})++(?:\){_SPACE})*+"
_ITEM = rf"{_VALUE}:{_SPACE}{_VALUE}"
_DICTIONARY = re.compile(rf"\{{{_SPACE}(?:{_ITEM}(?:,{_SPACE}{_ITEM})*+(?:,{_SPACE})?+)?+\}}")
_TRAILER = re.compile(rf"{_SPACE}(?:\#[^\r\n]*+)?+")

_LOOSE_KEY = re.compile(r"""(['"])([a-z]++)\1\s*+:\s*+(['"])""")
_LOOSE_END = {quote: re.compile(rf"(?<!\\){quote}\s*+(?:[,}}]|\Z)") for quote in "'\""}


class _Literal(NamedTuple):
    mapping: dict[str, str]
    num_items: int
    end: int


def read_lossless(text: str, findings: Findings) -> dict[str, str]:
    """Read the shortest literal from the first `{`, else what looks like `'letter': 'entity'`."""
    start = text.find("{")
    literal = _literal(text, start) if start >= 0 else None
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
    literal = _literal(text, start) if 0 <= start < end else None
    if literal is None or not _TRAILER.fullmatch(text, literal.end, end):
        findings.lose("no image-entity mapping can be read")
        return {}
    _note_surroundings(text[:start], text[literal.end :], findings)
    return _cleaned(literal, findings)


def _literal(text: str, start: int) -> _Literal | None:
    """Read the dictionary that begins at `start`; it can end in one place only."""
    found = _DICTIONARY.match(text, start)
    if found is None:
        return None
    try:
        with warnings.catch_warnings():
            # Python warns of an unknown escape such as "\d", and reads it as it stands.
            warnings.simplefilter("ignore")
            node = ast.parse(found[0], mode="eval").body
            mapping = ast.literal_eval(node)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return _Literal(mapping, len(node.keys) if isinstance(node, ast.Dict) else 0, found.end())


def _cleaned(literal: _Literal, findings: Findings) -> dict[str, str]:
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
        piece = text[key.end() : end]
        close = _LOOSE_END[key[3]].search(piece)
        if close is None:
            unfinished += 1
        else:
            mapping.setdefault(key[2], collapse(_unescaped(piece[: close.start()])))
    return mapping, unfinished


def _unescaped(value: str) -> str:
    return re.sub(r"\\(['\"\\])", r"\1", value)
