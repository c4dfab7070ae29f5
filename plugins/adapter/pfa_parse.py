"""Reads an answer in the published format: pure functions that take any text, in time linear in its length.

An answer is clean when its parts stand as the target has them (white space and the kind of quotes aside),
repaired when all that was asked for could be read although it stands otherwise, and malformed when a part is
missing or unreadable; that part is then empty, not None. What no reader of this format gets back is an entity
that holds `:<known label>;` or `image entities pair`, and a summary that holds `Task 2 Answer:`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from plugins.adapter.pfa_findings import Findings, collapse
from plugins.adapter.pfa_mapping import read_lossless, read_published
from plugins.adapter.pfa_options import Task
from plugins.adapter.pfa_wording import FINE_MARK, MATCH_MARK, NER_MARK, SUMMARY_MARK
from runner.records import Answer, Prediction

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


def _summary(output: str, findings: Findings) -> str:
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


def _no_mapping(findings: Findings) -> dict[str, str]:
    findings.lose(f"no {MATCH_MARK!r}")
    return {}


def _lossless_pairs(text: str | None, labels: AbstractSet[str], findings: Findings) -> Pairs:
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


def _published_pairs(text: str | None, labels: AbstractSet[str], findings: Findings) -> Pairs:
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


def _check_frame(output: str, tasks: Sequence[Task]) -> Findings:
    """Note what is odd about the markers and the text between them; their absence is the readers' affair."""
    findings = Findings()
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
