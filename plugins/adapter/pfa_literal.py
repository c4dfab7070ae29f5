"""Finds a Python dictionary of strings in any text, in time linear in its length."""

from __future__ import annotations

import ast
import re
import warnings
from typing import NamedTuple

# The tokens of such a dictionary. Only single characters repeat without a way back (`*+`): repeated groups of that kind
# read wrongly in Python before 3.11.5 (CPython issue 106052). A string that is not closed ends the search, so it costs
# one way there and back.
_TOKEN = re.compile(
    r"(?P<space>[ \t\f\r\n]++|\\(?:\r\n?|\n)|\#[^\r\n]*+)"
    r"|(?P<string>[rRuU]?(?:"
    r"'''[^'\\]*+(?:(?:\\[\s\S]|'(?!''))[^'\\]*+)*'''"
    r'|"""[^"\\]*+(?:(?:\\[\s\S]|"(?!""))[^"\\]*+)*"""'
    r"|'(?!'')[^'\\\r\n]*+(?:\\(?:\r\n|[\s\S])[^'\\\r\n]*+)*'"
    r'|"(?!"")[^"\\\r\n]*+(?:\\(?:\r\n|[\s\S])[^"\\\r\n]*+)*"'
    r"))|(?P<mark>[{}():,])"
)

# What they may form, an `s` for each string. Python's own parser, which is not safe on any text, sees only what has
# this form; it counts the parentheses.
_VALUE = r"\(*s+\)*"
_FORM = re.compile(rf"\{{(?:{_VALUE}:{_VALUE}(?:,{_VALUE}:{_VALUE})*,?)?\}}")


class Literal(NamedTuple):
    """A dictionary as it stands in a text.

    Attributes:
        mapping: What it says.
        num_items: How many items it is written with; a key may stand twice.
        end: Where the text goes on.
    """

    mapping: dict[str, str]
    num_items: int
    end: int


def read_literal(text: str, start: int, end: int | None = None) -> Literal | None:
    """Read the dictionary of strings to strings that begins at `start`; it can end in one place only.

    Args:
        text: Any text.
        start: Where its brace opens.
        end: Where the whole of it must end, with what Python passes over; None: anything may follow.
    """
    close = _close(text, start)
    if close is None or (end is not None and not _only_space(text, close, end)):
        return None
    end = close if end is None else end
    try:
        with warnings.catch_warnings():
            # Python warns of an unknown escape such as "\d", and reads it as it stands.
            warnings.simplefilter("ignore")
            node = ast.parse(text[start:end], mode="eval").body
            mapping = ast.literal_eval(node)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    assert isinstance(node, ast.Dict)
    return Literal(mapping, len(node.keys), end)


def _only_space(text: str, start: int, end: int) -> bool:
    """Whether Python passes over what stands between two places."""
    while start < end:
        token = _TOKEN.match(text, start, end)
        if token is None or token.lastgroup != "space":
            return False
        start = token.end()
    return True


def _close(text: str, start: int) -> int | None:
    """Find the first brace that closes, where all up to it has the form of a dictionary of strings."""
    form = []
    while (token := _TOKEN.match(text, start)) is not None:
        start = token.end()
        if token.lastgroup == "string":
            form.append("s")
        elif token.lastgroup == "mark":
            form.append(token[0])
            if token[0] == "}":
                return start if _FORM.fullmatch("".join(form)) else None
    return None
