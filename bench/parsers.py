"""Is a hostile answer read in time linear in its length?

    python bench/parsers.py

Reads texts of 50,000 and 200,000 signs, each made of one piece over and over, at every place of an answer and in both
ways. Prints a JSON document: the readings whose CPU time grew most (4 is linear, 16 quadratic), the slowest ones, and
how many answers of a real length are read in a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions

LABELS = ("person", "location", "organization", "other")
SHORT, LONG = 50_000, 200_000
CLEAR = 6.0
"""A growth below this is not measured again; one above it may be another process's doing."""

SIGNS = [*"{}:;()'\"\\#\n\r\t\f\0,-a.é`", "\ud800", "\u2028", "\u2018", "\\\n", "\r\n", "''", '""', "'''", '"""']
PIECES = ["r'", "u'", "rb'", "f''", "'\\", "'\\d'", "'\\N{DASH}'", "\\N{", "#\n", "((", "('a')", "('a'", "'a' 'b' "]
PIECES += [
    "'a'",
    "'a",
    "'a':",
    "'a': ",
    "'a':'",
    "'a': '",
    "'a': \"b' ",
    "'a': 'b',",
    "'a': 'b', ",
    "'a': 'b'\n",
    "'a': ''",
]
PIECES += ["'a'" + " " * 50, "'" + " " * 50, "'a': 'O'x ", "{'a':", "{'a': 'b'}", "\u2018a\u2019: \u2018"]
PIECES += [":person;", ":person", ":person;x", ":x;", ": person ;", "NER:", "Task 1 Answer:", "Task 2 Answer:"]
PIECES += ["image entities pair", "image entities pair{", "NER:image entities pair"]

PLACES: dict[str, Callable[[str], str]] = {
    "alone": lambda body: body,
    "summary": lambda body: f"Task 1 Answer: {body}",
    "pairs": lambda body: f"Task 2 Answer:\nNER:\n{body}",
    "mapping": lambda body: f"image entities pair{body}",
    "open": lambda body: f"image entities pair{{{body}",
    "value": lambda body: f"image entities pair{{'a': {body}}}",
    "string": lambda body: f"image entities pair{{'a': '{body}'}}",
    "open string": lambda body: f"image entities pair{{'a': '{body}",
    "parenthesis": lambda body: f"image entities pair{{'a': ({body})}}",
    "second item": lambda body: f"image entities pair{{'a': 'x', {body}}}",
}

ANSWER = (
    "Task 1 Answer: This image shows two individuals posing for a photo together in front of a backdrop or wall "
    "with logos. Both are dressed for the evening, and one of them holds a glass. The lights are bright.\n"
    "Task 2 Answer:\nNER:\n:other;VOGUE FASHION NIGHT OUT:person;Jan Taminiau:person;Suneet Varma\n"
    "image entities pair{'a': 'Jan Taminiau', 'b': 'Suneet Varma'}"
)


def seconds(adapter: PromptFormatAdapter, text: str, mode: str) -> float:
    """The CPU time of one reading."""
    started = time.process_time()
    adapter.parse(text, mode)
    return time.process_time() - started


def growths(adapter: PromptFormatAdapter) -> Iterator[tuple[float, float, str, str, str]]:
    """Yield for each hostile text how much longer four times of it takes, the longer time, and which text it was."""
    for piece in [*SIGNS, *PIECES]:
        for place, within in PLACES.items():
            short, long = (within(piece * (length // len(piece))) for length in (SHORT, LONG))
            for mode in adapter.parse_modes:
                growth, slowest = measured(adapter, short, long, mode)
                yield growth, slowest, piece, place, mode


def measured(adapter: PromptFormatAdapter, short: str, long: str, mode: str) -> tuple[float, float]:
    """Measure a growth; one that looks too large is measured again, and the quickest readings count."""
    shorts, longs = [seconds(adapter, short, mode)], [seconds(adapter, long, mode)]
    while min(longs) > CLEAR * min(shorts) and len(longs) < 10:
        shorts.append(seconds(adapter, short, mode))
        longs.append(seconds(adapter, long, mode))
    return min(longs) / min(shorts), min(longs)


def main() -> None:
    """Measure, and print what was found."""
    adapter = PromptFormatAdapter(PfaOptions(), LABELS)
    rows = list(growths(adapter))
    real = sum(seconds(adapter, ANSWER, mode) for mode in adapter.parse_modes for _ in range(2_000)) / 4_000

    def named(row: tuple[float, float, str, str, str]) -> dict[str, object]:
        growth, slowest, piece, place, mode = row
        figures = {"growth": round(growth, 2), "ms": round(1000 * slowest, 2)}
        return {**figures, "piece": piece, "place": place, "mode": mode}

    told = {
        "readings": len(rows),
        "signs": [SHORT, LONG],
        "largest_growth": [named(row) for row in sorted(rows, reverse=True)[:5]],
        "slowest": [named(row) for row in sorted(rows, key=lambda row: -row[1])[:5]],
        "brace_200000_ms": round(1000 * seconds(adapter, "image entities pair" + "{" * LONG, "lossless"), 2),
        "real_answers_per_second": round(1 / real),
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
