"""Measures whether adversarial answers are parsed in time linear in their length.

    python bench/parsers.py

Parses texts of 50,000 and 200,000 characters in both modes. Each text repeats one piece at one position of an answer.
Prints a JSON document: the texts whose CPU time grew most (4 is linear, 16 quadratic), the slowest texts, and the
number of answers of realistic length parsed per second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions

LABELS = ("person", "location", "organization", "other")
SHORT, LONG = 50_000, 200_000
REMEASURE_ABOVE = 6.0
"""A growth above this is measured again, as another process may have caused it."""

CHARACTERS = [*"{}:;()'\"\\#\n\r\t\f\0,-a.é`", "\ud800", "\u2028", "\u2018", "\\\n", "\r\n", "''", '""', "'''", '"""']
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

POSITIONS: dict[str, Callable[[str], str]] = {
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

TYPICAL_ANSWER = (
    "Task 1 Answer: This image shows two individuals posing for a photo together in front of a backdrop or wall "
    "with logos. Both are dressed for the evening, and one of them holds a glass. The lights are bright.\n"
    "Task 2 Answer:\nNER:\n:other;VOGUE FASHION NIGHT OUT:person;Jan Taminiau:person;Suneet Varma\n"
    "image entities pair{'a': 'Jan Taminiau', 'b': 'Suneet Varma'}"
)


def parse_seconds(adapter: PromptFormatAdapter, text: str, mode: str) -> float:
    """Return the CPU seconds of parsing a text once."""
    started = time.process_time()
    adapter.parse(text, mode)
    return time.process_time() - started


def measure_all(adapter: PromptFormatAdapter) -> Iterator[tuple[float, float, str, str, str]]:
    """Yield for each text: growth of the time at four times the length, the longer time, piece, position and mode."""
    for piece in [*CHARACTERS, *PIECES]:
        for position, insert in POSITIONS.items():
            short, long = (insert(piece * (length // len(piece))) for length in (SHORT, LONG))
            for mode in adapter.parse_modes:
                growth, slowest = measure_growth(adapter, short, long, mode)
                yield growth, slowest, piece, position, mode


def measure_growth(adapter: PromptFormatAdapter, short: str, long: str, mode: str) -> tuple[float, float]:
    """Return the growth of the parse time and the longer time; the minima count if a large growth is measured again."""
    shorts, longs = [parse_seconds(adapter, short, mode)], [parse_seconds(adapter, long, mode)]
    while min(longs) > REMEASURE_ABOVE * min(shorts) and len(longs) < 10:
        shorts.append(parse_seconds(adapter, short, mode))
        longs.append(parse_seconds(adapter, long, mode))
    return min(longs) / min(shorts), min(longs)


def main() -> None:
    """Measure all texts and print the results."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    adapter = PromptFormatAdapter(PfaOptions(), LABELS)
    rows = list(measure_all(adapter))
    typical_seconds = (
        sum(parse_seconds(adapter, TYPICAL_ANSWER, mode) for mode in adapter.parse_modes for _ in range(2_000)) / 4_000
    )

    def to_json(row: tuple[float, float, str, str, str]) -> dict[str, object]:
        growth, slowest, piece, position, mode = row
        values = {"growth": round(growth, 2), "ms": round(1000 * slowest, 2)}
        return {**values, "piece": piece, "place": position, "mode": mode}

    results = {
        "readings": len(rows),
        "signs": [SHORT, LONG],
        "largest_growth": [to_json(row) for row in sorted(rows, reverse=True)[:5]],
        "slowest": [to_json(row) for row in sorted(rows, key=lambda row: -row[1])[:5]],
        "brace_200000_ms": round(1000 * parse_seconds(adapter, "image entities pair" + "{" * LONG, "lossless"), 2),
        "real_answers_per_second": round(1 / typical_seconds),
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
