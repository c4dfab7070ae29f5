"""Parses answers in the published format: pure functions, linear in the length of the text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from plugins.adapter.pfa_prompt import FINE_MARK, MATCH_MARK, NER_MARK, SUMMARY_MARK, Task
from runner.records import Answer, Ending, Prediction


def collapse(text: str) -> str:
    """Make every run of white space one space, and strip the ends."""
    return " ".join(text.split())


class ParseDiagnostics:
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


def read_lossless(text: str, findings: ParseDiagnostics) -> dict[str, str]:
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


def read_published(text: str, findings: ParseDiagnostics) -> dict[str, str]:
    """Read the literal that reaches from the first `{` to the last `}`, else nothing."""
    start, end = text.find("{"), text.rfind("}") + 1
    literal = read_literal(text, start, end) if 0 <= start < end else None
    if literal is None:
        findings.lose("no image-entity mapping can be read")
        return {}
    _note_surroundings(text[:start], text[literal.end :], findings)
    return _cleaned(literal, findings)


def _cleaned(literal: Literal, findings: ParseDiagnostics) -> dict[str, str]:
    mapping = {collapse(letter): collapse(entity) for letter, entity in literal.mapping.items()}
    if len(mapping) < literal.num_items:
        findings.repair("a letter stands twice in the image-entity mapping; its last entity counts")
    return mapping


def _note_surroundings(before: str, after: str, findings: ParseDiagnostics) -> None:
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


Pairs = frozenset[tuple[str, str]]

# No label holds a colon or a semicolon (pfa_options.Label), so what may be one ends at either: each character is looked
# at once, however many labels are known.
_ANCHOR = re.compile(r":([^:;]++);")


def parse_lossless(output: str, tasks: Sequence[Task], labels: AbstractSet[str]) -> Prediction:
    """Read an answer so that entities and summaries may hold the format's own delimiters.

    Args:
        output: What the model wrote.
        tasks: What was asked.
        labels: The known labels; only these open a pair.
    """
    findings = _check_frame(output, tasks)
    fine = _after(output, FINE_MARK)
    fine = output if fine is None else fine
    summary = _summary(output, findings) if "summary" in tasks else None
    pairs = _lossless_pairs(_ner_text(fine), labels, findings) if "ner" in tasks else None
    mapping = None
    if "match" in tasks:
        text = _after(fine, MATCH_MARK)
        mapping = _no_mapping(findings) if text is None else read_lossless(text, findings)
    return Prediction(Answer(summary, pairs, mapping), findings.ending, findings.notes)


def parse_published(output: str, tasks: Sequence[Task], labels: AbstractSet[str]) -> Prediction:
    """Read an answer by the paper's Algorithm 1, to the letter.

    Args:
        output: What the model wrote.
        tasks: What was asked.
        labels: The known labels; others are taken too, with a note.
    """
    findings = _check_frame(output, tasks)
    summary = _summary(output, findings) if "summary" in tasks else None
    pairs = _published_pairs(_ner_text(output), labels, findings) if "ner" in tasks else None
    mapping = None
    if "match" in tasks:
        text = _after(output, MATCH_MARK)
        mapping = _no_mapping(findings) if text is None else read_published(text, findings)
    return Prediction(Answer(summary, pairs, mapping), findings.ending, findings.notes)


def _after(text: str, mark: str) -> str | None:
    _, found, rest = text.partition(mark)
    return rest if found else None


def _summary(output: str, findings: ParseDiagnostics) -> str:
    text = _after(output, SUMMARY_MARK)
    if text is None:
        findings.lose(f"no {SUMMARY_MARK!r}")
        return ""
    summary = text.partition(FINE_MARK)[0].strip()
    if not summary:
        findings.lose("the summary is empty")
    return summary


def _ner_text(text: str) -> str | None:
    ner = _after(text, NER_MARK)
    return None if ner is None else ner.partition(MATCH_MARK)[0]


def _no_mapping(findings: ParseDiagnostics) -> dict[str, str]:
    findings.lose(f"no {MATCH_MARK!r}")
    return {}


def _lossless_pairs(text: str | None, labels: AbstractSet[str], findings: ParseDiagnostics) -> Pairs:
    if text is None:
        findings.lose(f"no {NER_MARK!r}")
        return frozenset()
    anchors = [anchor for anchor in _ANCHOR.finditer(text) if anchor[1] in labels]
    starts = [*(anchor.start() for anchor in anchors), len(text)]
    entities = [collapse(text[anchor.end() : end]) for anchor, end in zip(anchors, starts[1:], strict=True)]
    if text[: starts[0]].strip():
        if anchors:
            findings.repair("text before the first label-entity pair passed over")
        else:
            findings.lose("no label-entity pair can be read")
    if not all(entities):
        findings.repair(f"{entities.count('')} label(s) without entity dropped")
    return frozenset((anchor[1], entity) for anchor, entity in zip(anchors, entities, strict=True) if entity)


def _published_pairs(text: str | None, labels: AbstractSet[str], findings: ParseDiagnostics) -> Pairs:
    if text is None:
        findings.lose(f"no {NER_MARK!r}")
        return frozenset()
    pieces = [piece.partition(";") for piece in text.split(":")]
    pairs = [(collapse(label), collapse(entity)) for label, _, entity in pieces]
    whole = frozenset(pair for pair in pairs if all(pair))
    # Nothing is expected before the first colon, so only something there is worth a note.
    num_dropped = sum(not all(pair) for pair in pairs[0 if any(pairs[0]) else 1 :])
    if text.strip() and not whole:
        findings.lose("no label-entity pair can be read")
    elif num_dropped:
        findings.repair(f"{num_dropped} piece(s) without label or entity dropped")
    if any(label not in labels for label, _ in whole):
        findings.repair("labels taken that were not asked for")
    return whole


def _check_frame(output: str, tasks: Sequence[Task]) -> ParseDiagnostics:
    """Note what is odd about the markers and the text between them; their absence is the readers' affair."""
    findings = ParseDiagnostics()
    end, holds_answer = 0, False
    for mark in _expected_marks(tasks):
        start = output.find(mark, end)
        if start < 0:
            if mark in output:
                findings.repair(f"{mark!r} stands out of order")
            elif mark == FINE_MARK:
                findings.repair(f"no {FINE_MARK!r}")
            continue
        if not holds_answer and output[end:start].strip():
            findings.repair(f"text before {mark!r} passed over")
        end, holds_answer = start + len(mark), mark != FINE_MARK
    last = {"summary": FINE_MARK, "ner": MATCH_MARK}.get(tasks[-1])
    if last is not None and last in output[end:]:
        findings.repair(f"{last!r} was not asked for; what follows it passed over")
    return findings


def _expected_marks(tasks: Sequence[Task]) -> list[str]:
    marks = [SUMMARY_MARK] if "summary" in tasks else []
    if "ner" in tasks or "match" in tasks:
        marks.append(FINE_MARK)
    marks += [NER_MARK] if "ner" in tasks else []
    return marks + ([MATCH_MARK] if "match" in tasks else [])
