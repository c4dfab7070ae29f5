"""Does any text break a parser? Coverage-guided and property-based fuzzing of both ways of reading.

    pip install -e '.[fuzz]'
    python bench/fuzz_parsers.py --runs 900000 --examples 100000

Half of atheris's inputs are any text, half are made of the format's own pieces; so are hypothesis's. Each is read in
both ways, checked, and compared with a plain reading of the rules that is neither quick nor safe. A failure ends the
program with a traceback and the input, kept in the system's folder for temporary files; else it prints a JSON document.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations

import atheris
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

with atheris.instrument_imports(include=["plugins.adapter"]):
    from plugins.adapter.pfa_parse import collapse, parse_lossless, parse_published
    from plugins.adapter.pfa_prompt import TASKS, Task

from runner.records import Answer, Prediction

LABELS = frozenset({"person", "location", "organization", "other", "a", "sehr gut"})
SUBSETS: list[tuple[Task, ...]] = [tasks for size in (1, 2, 3) for tasks in combinations(TASKS, size)]
PIECES = [
    "Task 1 Answer:",
    "Task 2 Answer:",
    "NER:",
    "image entities pair",
    "image entities pair{",
    ":person;",
    ":other;",
]
PIECES += [
    ":sehr gut;",
    ":a;",
    ":b;",
    "{",
    "}",
    "{'a': ",
    "'a': 'b'",
    "'b': \"c\"",
    ", ",
    "'a'",
    "'",
    '"',
    "'''",
    ":",
    ";",
]
PIECES += [
    "\\",
    "\\'",
    "#",
    "(",
    ")",
    " ",
    "\n",
    "\r",
    "\t",
    "\u2028",
    "\u2018a\u2019: \u2018",
    "r",
    "u",
    "b",
    "f",
    "*",
    "1",
]
PIECES += [
    "a",
    "Ann",
    "é",
    "\ud800",
    "\0",
    "{'a': 'Ann', 'b': 'Rome'}",
    ":person;Ann",
    "None",
    "''",
    "'''a''b'''",
    "-",
    "[",
    "]",
    "\\N{DASH}",
]

_OPENING = "Task 1 Answer: Two people.\nTask 2 Answer:\nNER:\n:person;Ann"
FRAMES = [
    ("", ""),
    (_OPENING, "\nimage entities pair{'a': 'Ann'}"),
    (f"{_OPENING}\nimage entities pair", ""),
    (f"{_OPENING}\nimage entities pair{{'a': 'Ann', ", "}"),
    (f"{_OPENING}\nimage entities pair{{'a': 'Ann", "'}"),
]
"""What stands around a text, so that it meets every reader."""

FIXED_SECONDS, SECONDS_A_SIGN = 2e-3, 20e-6
"""What a reading may take; linear readings take a twentieth of it."""
MANY_BRACES = 12
"""With more closing braces the plain reading of a mapping is skipped; it tries each."""

Parser = Callable[[str, Sequence[Task], AbstractSet[str]], Prediction]
endings: Counter[str] = Counter()


def check(text: str, tasks: tuple[Task, ...]) -> None:
    """Read a text in both ways, and check all that must hold of any reading."""
    for mode, parse in (("lossless", parse_lossless), ("published", parse_published)):
        prediction = in_time(parse, text, tasks)
        check_form(prediction, tasks)
        if prediction.answer.pairs is not None:
            assert prediction.answer.pairs == plain_pairs(text, mode)
            assert mode == "published" or {label for label, _ in prediction.answer.pairs} <= LABELS
        if prediction.answer.mapping is not None and text.count("}") <= MANY_BRACES:
            check_mapping(text, mode, prediction.answer)
        endings[f"{mode}/{prediction.ending}"] += 1


def in_time(parse: Parser, text: str, tasks: tuple[Task, ...]) -> Prediction:
    """Read within the time that a linear reading may take; a slow one is repeated, as the machine may be busy."""
    bound = FIXED_SECONDS + SECONDS_A_SIGN * len(text)
    for _ in range(20):
        started = time.thread_time()
        prediction = parse(text, tasks, LABELS)
        taken = time.thread_time() - started
        if taken <= bound:
            return prediction
    raise AssertionError(f"{taken:.4f} s for {len(text)} signs")


def check_form(prediction: Prediction, tasks: tuple[Task, ...]) -> None:
    """Check types, and that what is read is stripped and not empty."""
    answer = prediction.answer
    assert [part is not None for part in (answer.summary, answer.pairs, answer.mapping)] == [
        task in tasks for task in TASKS
    ]
    assert answer.summary is None or answer.summary == answer.summary.strip()
    assert answer.pairs is None or type(answer.pairs) is frozenset
    for pair in answer.pairs or ():
        assert len(pair) == 2
        assert all(type(part) is str and part and part == collapse(part) for part in pair)
    assert answer.mapping is None or type(answer.mapping) is dict
    for item in (answer.mapping or {}).items():
        assert all(type(part) is str and part == collapse(part) for part in item)
    assert prediction.ending in {"clean", "repaired", "malformed"}
    assert (prediction.ending == "clean") == (prediction.notes == ())


def fine_part(text: str, mode: str) -> str:
    """The part with the fine answer."""
    return text.split("Task 2 Answer:", 1)[-1] if mode == "lossless" else text


def plain_pairs(text: str, mode: str) -> frozenset[tuple[str, str]]:
    """Read the pairs as the rules say it, label after label."""
    fine = fine_part(text, mode)
    ner = fine.split("NER:", 1)[1].split("image entities pair", 1)[0] if "NER:" in fine else ""
    if mode == "published":
        pieces = [piece.split(";", 1) for piece in ner.split(":") if ";" in piece]
        pairs = [(collapse(label), collapse(entity)) for label, entity in pieces]
    else:
        cut = re.split(f":({'|'.join(map(re.escape, LABELS))});", ner)
        pairs = [(label, collapse(entity)) for label, entity in zip(cut[1::2], cut[2::2], strict=True)]
    return frozenset(pair for pair in pairs if all(pair))


def check_mapping(text: str, mode: str, answer: Answer) -> None:
    """Compare with Python's own reading of each piece that may be the dictionary."""
    fine = fine_part(text, mode)
    shown = fine.split("image entities pair", 1)[1] if "image entities pair" in fine else ""
    start = shown.find("{")
    ends = [each.end() for each in re.finditer("}", shown) if each.end() > start >= 0]
    read = [literal(shown[start:end]) for end in (ends if mode == "lossless" else ends[-1:])]
    literals = [each for each in read if each is not None]
    if literals:
        assert answer.mapping == literals[0]
    elif mode == "published":
        assert answer.mapping == {}


def literal(text: str) -> dict[str, str] | None:
    """Let Python read a dictionary of strings."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(each, str) for item in value.items() for each in item):
        return None
    return {collapse(key): collapse(entity) for key, entity in value.items()}


def from_bytes(data: bytes) -> tuple[str, tuple[Task, ...]]:
    """Make a text and tasks of a fuzzer's bytes: pieces of the format, a byte each, or any text."""
    provider = atheris.FuzzedDataProvider(data)
    tasks = SUBSETS[provider.ConsumeIntInRange(0, len(SUBSETS) - 1)]
    before, after = FRAMES[provider.ConsumeIntInRange(0, len(FRAMES) - 1)]
    if provider.ConsumeBool():
        text = provider.ConsumeUnicode(provider.remaining_bytes())
    else:
        rest = provider.ConsumeBytes(provider.remaining_bytes())
        text = "".join(PIECES[byte] if byte < len(PIECES) else chr(byte) for byte in rest)
    return before + text + after, tasks


def by_hypothesis(num_examples: int) -> None:
    """Check so many texts that hypothesis draws."""
    texts = st.text() | st.lists(st.sampled_from(PIECES) | st.characters(), max_size=25).map("".join)

    @settings(max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts, st.sampled_from(FRAMES), st.sampled_from(SUBSETS))
    def each(text: str, frame: tuple[str, str], tasks: tuple[Task, ...]) -> None:
        check(text.join(frame), tasks)

    each()


def by_atheris(num_runs: int, done: Callable[[], None]) -> None:
    """Check so many inputs that atheris makes on its way to new branches; it ends the process itself."""
    runs = 0

    def each(data: bytes) -> None:
        nonlocal runs
        check(*from_bytes(data))
        runs += 1
        if runs == num_runs:
            done()

    crash = f"-artifact_prefix={tempfile.gettempdir()}/parsers-"
    atheris.Setup([sys.argv[0], f"-runs={num_runs + 2}", "-max_len=1024", "-len_control=20", crash], each)
    atheris.Fuzz()


def main() -> None:
    """Fuzz, and print what was tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=900_000, help="inputs of atheris")
    parser.add_argument("--examples", type=int, default=100_000, help="inputs of hypothesis")
    chosen = parser.parse_args()
    # Python warns of unknown escapes in what the plain reading is given.
    warnings.simplefilter("ignore")
    started = time.monotonic()
    by_hypothesis(chosen.examples)
    half = time.monotonic()

    def done() -> None:
        seconds = {"hypothesis": round(half - started), "atheris": round(time.monotonic() - half)}
        inputs = {"hypothesis": chosen.examples, "atheris": chosen.runs}
        print(
            json.dumps({"inputs": inputs, "seconds": seconds, "endings": dict(sorted(endings.items()))}, indent=2),
            flush=True,
        )

    by_atheris(chosen.runs, done)


if __name__ == "__main__":
    main()
