"""Prints texts of others, from specs, data, runs and servers, so that a terminal shows them and does not obey them."""

from __future__ import annotations

import json
import re
import sys
from typing import IO, Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys instead of showing them: control characters, marks that change the direction of
writing, line separators, and halves of surrogate pairs, which cannot be printed. Tab and newline are allowed."""


def printable(text: str) -> str:
    r"""Replace control characters by their escapes, such as `\x1b`; a Windows line end becomes a newline."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text.replace("\r\n", "\n"))


def print_text(text: object = "", *, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print a text without control characters, by default on standard output."""
    print(printable(str(text)), end=end, file=file or sys.stdout, flush=flush)


def print_json(document: Any, *, flush: bool = False) -> None:
    """Print a JSON document in one line, with control characters as JSON escapes."""
    text = json.dumps(document, ensure_ascii=False)
    print(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text), flush=flush)
