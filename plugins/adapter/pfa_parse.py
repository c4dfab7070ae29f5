"""Parsers of answers in the published format: pure functions, linear in the length of the text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from plugins.adapter.pfa_prompt import EXTRACTION_MARK, MATCH_MARK, NER_MARK, SUMMARY_MARK, Task
from runner.records import Answer, Ending, Prediction, is_blank, nfc
from runner.stages import TargetProblems


def collapse_whitespace(text: str) -> str:
    """Replace every run of white space by one space, and strip the ends."""
    return " ".join(text.split())


class ParseDiagnostics:
    """Notes on one answer, and the outcome that follows from them."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._is_malformed = False

    def add_repair(self, note: str) -> None:
        """Note a deviation from the format that did not prevent parsing."""
        self._notes.append(note)

    def add_loss(self, note: str) -> None:
        """Note that a requested part is missing or cannot be parsed."""
        self._notes.append(note)
        self._is_malformed = True

    @property
    def ending(self) -> Ending:
        """`clean` without notes, `malformed` if a part is missing, else `repaired`."""
        if self._is_malformed:
            return "malformed"
        return "repaired" if self._notes else "clean"

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes, in the order in which they were added."""
        return tuple(self._notes)


# The tokens of a dictionary literal. Possessive quantifiers (`*+`) are applied to single characters only: possessive
# groups match wrongly in Python before 3.11.5 (CPython issue 106052). A string that is not closed ends the search, so
# it is scanned forward and back only once.
_TOKEN = re.compile(
    r"(?P<space>[ \t\f\r\n]++|\\(?:\r\n?|\n)|\#[^\r\n]*+)"
    r"|(?P<string>[rRuU]?(?:"
    r"'''[^'\\]*+(?:(?:\\[\s\S]|'(?!''))[^'\\]*+)*'''"
    r'|"""[^"\\]*+(?:(?:\\[\s\S]|"(?!""))[^"\\]*+)*"""'
    r"|'(?!'')[^'\\\r\n]*+(?:\\(?:\r\n|[\s\S])[^'\\\r\n]*+)*'"
    r'|"(?!"")[^"\\\r\n]*+(?:\\(?:\r\n|[\s\S])[^"\\\r\n]*+)*"'
    r"))|(?P<mark>[{}():,])"
)

# The grammar of the tokens, with an `s` for each string. Python's own parser is not safe on arbitrary text, so it gets
# only text of this form; it checks that parentheses are balanced.
_VALUE = r"\(*s+\)*"
_DICT_GRAMMAR = re.compile(rf"\{{(?:{_VALUE}:{_VALUE}(?:,{_VALUE}:{_VALUE})*,?)?\}}")


class DictLiteral(NamedTuple):
    """A dictionary literal that was found in a text.

    Attributes:
        mapping: Its value.
        num_items: Number of items in the text; a key may occur twice.
        end: Index of the first character after it.
    """

    mapping: dict[str, str]
    num_items: int
    end: int


def parse_literal(text: str, start: int, end: int | None = None) -> DictLiteral | None:
    """Parse the dictionary of strings to strings that begins at `start`; it can end at one index only.

    Args:
        text: Any text.
        start: Index of the opening brace.
        end: Index where the dictionary must end, followed only by text that Python ignores; None if any text may
            follow.

    Returns:
        None if there is no such dictionary.
    """
    close = _find_close(text, start)
    if close is None or (end is not None and not _is_blank(text, close, end)):
        return None
    end = close if end is None else end
    try:
        with warnings.catch_warnings():
            # Python warns about an unknown escape such as "\d", and keeps it unchanged.
            warnings.simplefilter("ignore")
            node = ast.parse(text[start:end], mode="eval").body
            mapping = ast.literal_eval(node)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    assert isinstance(node, ast.Dict)
    return DictLiteral(mapping, len(node.keys), end)


def _is_blank(text: str, start: int, end: int) -> bool:
    """Whether Python ignores the text between two indices: white space and comments."""
    while start < end:
        token = _TOKEN.match(text, start, end)
        if token is None or token.lastgroup != "space":
            return False
        start = token.end()
    return True


def _find_close(text: str, start: int) -> int | None:
    """Find the first closing brace, and return the index after it if the text is a dictionary of strings."""
    tokens = []
    while (token := _TOKEN.match(text, start)) is not None:
        start = token.end()
        if token.lastgroup == "string":
            tokens.append("s")
        elif token.lastgroup == "mark":
            tokens.append(token[0])
            if token[0] == "}":
                return start if _DICT_GRAMMAR.fullmatch("".join(tokens)) else None
    return None


# Includes the quotes that word processors and chat models write. An entity ends at the first quote of its opening kind
# that is followed by a comma, a closing brace or the end of the text.
_QUOTES = ("'", '"', "\u2018\u2019\u201a", "\u201c\u201d\u201e", "`\u00b4")
_ANY_QUOTE = f"[{''.join(_QUOTES)}]"
_ITEM_END = r"(?=\s*+(?:[,}]|\Z))"
_LOOSE_KEY = re.compile(rf"{_ANY_QUOTE}([a-z]++){_ANY_QUOTE}\s*+:\s*+({_ANY_QUOTE})")
_LOOSE_VALUE = {
    quote: re.compile(rf"([^\\{kind}]*+(?:(?:\\[\s\S]|[{kind}](?!{_ITEM_END}))[^\\{kind}]*+)*)[{kind}]{_ITEM_END}")
    for kind in _QUOTES
    for quote in kind
}


def parse_mapping_lossless(text: str, diagnostics: ParseDiagnostics) -> dict[str, str]:
    """Parse the shortest literal from the first `{`; otherwise collect items of the form `'letter': 'entity'`."""
    start = text.find("{")
    literal = parse_literal(text, start) if start >= 0 else None
    if literal is not None:
        _note_surroundings(text[:start], text[literal.end :], diagnostics)
        return _collapse_items(literal, diagnostics)
    mapping, num_unfinished = _scan_items(text)
    if not mapping:
        diagnostics.add_loss("no image-entity mapping can be parsed")
    else:
        diagnostics.add_repair("the image-entity mapping is not a dictionary; its items were parsed one by one")
    if num_unfinished:
        diagnostics.add_repair(f"{num_unfinished} unfinished item(s) of the image-entity mapping dropped")
    return mapping


def parse_mapping_published(text: str, diagnostics: ParseDiagnostics) -> dict[str, str]:
    """Parse the literal from the first `{` to the last `}`; otherwise return an empty mapping."""
    start, end = text.find("{"), text.rfind("}") + 1
    literal = parse_literal(text, start, end) if 0 <= start < end else None
    if literal is None:
        diagnostics.add_loss("no image-entity mapping can be parsed")
        return {}
    _note_surroundings(text[:start], text[literal.end :], diagnostics)
    return _collapse_items(literal, diagnostics)


def _collapse_items(literal: DictLiteral, diagnostics: ParseDiagnostics) -> dict[str, str]:
    mapping = {collapse_whitespace(letter): collapse_whitespace(entity) for letter, entity in literal.mapping.items()}
    if len(mapping) < literal.num_items:
        diagnostics.add_repair("a letter occurs twice in the image-entity mapping; its last entity counts")
    return mapping


def _note_surroundings(before: str, after: str, diagnostics: ParseDiagnostics) -> None:
    if before.strip():
        diagnostics.add_repair("text before the image-entity mapping ignored")
    if after.strip():
        diagnostics.add_repair("text after the image-entity mapping ignored")


def _scan_items(text: str) -> tuple[dict[str, str], int]:
    """Scan for quoted items; return the first entity of each letter and the number of unfinished items."""
    keys = list(_LOOSE_KEY.finditer(text))
    ends = [*(key.start() for key in keys), len(text)][1:]
    mapping: dict[str, str] = {}
    num_unfinished = 0
    for key, end in zip(keys, ends, strict=True):
        value = _LOOSE_VALUE[key[2]].match(text[key.end() : end])
        if value is None:
            num_unfinished += 1
        else:
            mapping.setdefault(key[1], collapse_whitespace(_unescape(value[1])))
    return mapping, num_unfinished


def _unescape(value: str) -> str:
    return re.sub(r"\\(['\"\\])", r"\1", value)


LabelEntityPairs = frozenset[tuple[str, str]]

# No label contains a colon or a semicolon (`Label`), so a candidate ends at either. Each character is scanned once,
# independent of the number of labels.
_ANCHOR = re.compile(r":([^:;]++);")


TEXT_BEFORE_PAIRS = "text before the first label-entity pair ignored"
"""Note on an answer; in a reference, an unknown label stands there."""


def parse_lossless(output: str, tasks: Sequence[Task], labels: AbstractSet[str]) -> Prediction:
    """Parse an answer whose entities and summary may contain the delimiters of the format.

    Args:
        output: The model's output.
        tasks: The tasks of the prompt.
        labels: The known labels; only these start a pair.
    """
    diagnostics = _check_frame(output, tasks)
    extraction = text_after(output, EXTRACTION_MARK)
    extraction = output if extraction is None else extraction
    summary = parse_summary(output, diagnostics) if "summary" in tasks else None
    pairs = _lossless_pairs(_ner_text(extraction), labels, diagnostics) if "ner" in tasks else None
    mapping = None
    if "match" in tasks:
        text = text_after(extraction, MATCH_MARK)
        mapping = _no_mapping(diagnostics) if text is None else parse_mapping_lossless(text, diagnostics)
    return Prediction(Answer(summary, pairs, mapping), diagnostics.ending, diagnostics.notes)


def parse_published(output: str, tasks: Sequence[Task], labels: AbstractSet[str]) -> Prediction:
    """Parse an answer exactly by the paper's Algorithm 1.

    Args:
        output: The model's output.
        tasks: The tasks of the prompt.
        labels: The known labels; other labels are accepted, with a note.
    """
    diagnostics = _check_frame(output, tasks)
    summary = parse_summary(output, diagnostics) if "summary" in tasks else None
    pairs = _published_pairs(_ner_text(output), labels, diagnostics) if "ner" in tasks else None
    mapping = None
    if "match" in tasks:
        text = text_after(output, MATCH_MARK)
        mapping = _no_mapping(diagnostics) if text is None else parse_mapping_published(text, diagnostics)
    return Prediction(Answer(summary, pairs, mapping), diagnostics.ending, diagnostics.notes)


def text_after(text: str, mark: str) -> str | None:
    """Return the text after the first occurrence of a mark; None if there is none."""
    _, separator, rest = text.partition(mark)
    return rest if separator else None


def parse_summary(output: str, diagnostics: ParseDiagnostics) -> str:
    """Parse the summary: the text between the marks of the first and the second task."""
    text = text_after(output, SUMMARY_MARK)
    if text is None:
        diagnostics.add_loss(f"no {SUMMARY_MARK!r}")
        return ""
    summary = text.partition(EXTRACTION_MARK)[0].strip()
    if not summary:
        diagnostics.add_loss("the summary is empty")
    return summary


def _ner_text(text: str) -> str | None:
    ner = text_after(text, NER_MARK)
    return None if ner is None else ner.partition(MATCH_MARK)[0]


def _no_mapping(diagnostics: ParseDiagnostics) -> dict[str, str]:
    diagnostics.add_loss(f"no {MATCH_MARK!r}")
    return {}


def _lossless_pairs(text: str | None, labels: AbstractSet[str], diagnostics: ParseDiagnostics) -> LabelEntityPairs:
    if text is None:
        diagnostics.add_loss(f"no {NER_MARK!r}")
        return frozenset()
    anchors = [anchor for anchor in _ANCHOR.finditer(text) if nfc(anchor[1]) in labels]
    starts = [*(anchor.start() for anchor in anchors), len(text)]
    entities = [collapse_whitespace(text[anchor.end() : end]) for anchor, end in zip(anchors, starts[1:], strict=True)]
    if text[: starts[0]].strip():
        if anchors:
            diagnostics.add_repair(TEXT_BEFORE_PAIRS)
        else:
            diagnostics.add_loss("no label-entity pair can be parsed")
    if not all(entities):
        diagnostics.add_repair(f"{entities.count('')} label(s) without entity dropped")
    return frozenset((anchor[1], entity) for anchor, entity in zip(anchors, entities, strict=True) if entity)


def _published_pairs(text: str | None, labels: AbstractSet[str], diagnostics: ParseDiagnostics) -> LabelEntityPairs:
    if text is None:
        diagnostics.add_loss(f"no {NER_MARK!r}")
        return frozenset()
    pieces = [piece.partition(";") for piece in text.split(":")]
    pairs = [(collapse_whitespace(label), collapse_whitespace(entity)) for label, _, entity in pieces]
    complete = frozenset(pair for pair in pairs if all(pair))
    # The text before the first colon should be empty, so an empty first piece is not counted as dropped.
    num_dropped = sum(not all(pair) for pair in pairs[0 if any(pairs[0]) else 1 :])
    if text.strip() and not complete:
        diagnostics.add_loss("no label-entity pair can be parsed")
    elif num_dropped:
        diagnostics.add_repair(f"{num_dropped} piece(s) without label or entity dropped")
    if any(nfc(label) not in labels for label, _ in complete):
        diagnostics.add_repair("unknown labels accepted")
    return complete


def _check_frame(output: str, tasks: Sequence[Task]) -> ParseDiagnostics:
    """Note problems with the order of markers and the text between them; the parsers of the parts note missing ones."""
    diagnostics = ParseDiagnostics()
    end, is_in_answer = 0, False
    for mark in _expected_marks(tasks):
        start = output.find(mark, end)
        if start < 0:
            if mark in output:
                diagnostics.add_repair(f"{mark!r} is out of order")
            elif mark == EXTRACTION_MARK:
                diagnostics.add_repair(f"no {EXTRACTION_MARK!r}")
            continue
        if not is_in_answer and output[end:start].strip():
            diagnostics.add_repair(f"text before {mark!r} ignored")
        end, is_in_answer = start + len(mark), mark != EXTRACTION_MARK
    last = {"summary": EXTRACTION_MARK, "ner": MATCH_MARK}.get(tasks[-1])
    if last is not None and last in output[end:]:
        diagnostics.add_repair(f"{last!r} was not requested; the text after it is ignored")
    return diagnostics


def _expected_marks(tasks: Sequence[Task]) -> list[str]:
    marks = [SUMMARY_MARK] if "summary" in tasks else []
    if "ner" in tasks or "match" in tasks:
        marks.append(EXTRACTION_MARK)
    marks += [NER_MARK] if "ner" in tasks else []
    return marks + ([MATCH_MARK] if "match" in tasks else [])


EMPTY_SUMMARY = "the summary is empty"
FRAME_NOTE = re.compile(r"no 'Task|.* is out of order|text before '|.* was not requested")
"""Notes on the markers of an answer, which say nothing about its parts."""
_LABEL_LIKE = re.compile(r"[^\W\d_]+(?:[ -][^\W\d_]+)*")
_SEPARATORS = ";:\uff1b\uff1a"
"""The separators of label and entity, also in the full-width form that Chinese and Japanese keyboards write."""


def find_target_problems(prediction: Prediction, target: str, labels: AbstractSet[str]) -> TargetProblems:
    """Sort the notes on a reference that is given as text, and find what the parser did not recognize.

    Args:
        prediction: The parsed target, with the tasks that it answers.
        target: The target.
        labels: The known labels.
    """
    notes = [note for note in prediction.notes if not FRAME_NOTE.match(note)]
    losses = tuple(
        note for note in notes if note == TEXT_BEFORE_PAIRS or note.endswith("can be parsed") or "unfinished" in note
    )
    unknown = list(_unknown_labels(prediction, target, labels))
    if TEXT_BEFORE_PAIRS in losses or any("label-entity" in note for note in losses):
        losses += tuple(unknown[:1])
    losses += tuple(_blank_parts(prediction.answer))
    doubts = (*(note for note in notes if note not in losses), *unknown, *_doubtful_parts(prediction.answer, labels))
    return TargetProblems(losses, doubts)


def _unknown_labels(prediction: Prediction, target: str, labels: AbstractSet[str]) -> Iterator[str]:
    accepted = {label for label, _ in prediction.answer.pairs or ()} | labels
    extraction = text_after(target, EXTRACTION_MARK) or target
    for anchor in _ANCHOR.finditer(_ner_text(extraction) or ""):
        if nfc(anchor[1]) not in accepted and _LABEL_LIKE.fullmatch(anchor[1].strip()):
            yield f"{anchor[0]!r} is not a known label ({', '.join(sorted(labels))})"


def _blank_parts(answer: Answer) -> Iterator[str]:
    """Describe the entities that show nothing; an empty answer could equal them."""
    if any(is_blank(entity) for _, entity in answer.pairs or ()):
        yield "an entity of a pair holds only invisible characters"
    if any(is_blank(entity) for entity in (answer.mapping or {}).values()):
        yield "the entity of a letter is empty in the image-entity mapping"


def _doubtful_parts(answer: Answer, labels: AbstractSet[str]) -> Iterator[str]:
    """Describe entities that contain another pair, letters that no segment has, and a summary that shows nothing."""
    if answer.summary and is_blank(answer.summary):
        yield EMPTY_SUMMARY
    names = "|".join(map(re.escape, sorted(labels)))
    pair_like = re.compile(rf"(?<!\w)(?:{names})\s*[{_SEPARATORS}]", re.IGNORECASE)
    for _, entity in sorted(answer.pairs or ()):
        if pair_like.search(entity):
            yield f"the entity {entity!r} contains a known label, which starts a pair only as ':<known label>;'"
    for letter in answer.mapping or {}:
        if not re.fullmatch("[a-z]+", letter):
            yield f"{letter!r} is not the letter of a segment (a … z, aa, ab …)"
