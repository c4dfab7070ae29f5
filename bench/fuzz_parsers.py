"""Fuzzes the parsers of both modes, guided by coverage (atheris) and by properties (hypothesis).

    pip install -e '.[fuzz]'
    python bench/fuzz_parsers.py --runs 900000 --examples 100000

Half of the inputs are arbitrary text; the other half are built from pieces of the answer format. Each is parsed in both
modes, checked, and compared with a simple implementation of the rules that is neither fast nor robust. A failure ends
the program with a traceback and saves the input in the system's folder for temporary files. Otherwise it prints a JSON
document.
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
    from plugins.adapter.pfa_parse import collapse_whitespace, parse_lossless, parse_published
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
"""Text before and after an input, so that it reaches each part of the parsers."""

FIXED_SECONDS, SECONDS_PER_CHARACTER = 2e-3, 20e-6
"""Limit of the parse time; linear parsing takes a twentieth of it."""
MANY_BRACES = 12
"""With more closing braces the mapping is not compared, as the simple implementation tries each of them."""

Parser = Callable[[str, Sequence[Task], AbstractSet[str]], Prediction]
endings: Counter[str] = Counter()


def check(text: str, tasks: tuple[Task, ...]) -> None:
    """Parse a text in both modes, and check everything that must hold for any text."""
    for mode, parse in (("lossless", parse_lossless), ("published", parse_published)):
        prediction = parse_in_time(parse, text, tasks)
        check_form(prediction, tasks)
        if prediction.answer.pairs is not None:
            assert prediction.answer.pairs == parse_pairs_simply(text, mode)
            assert mode == "published" or {label for label, _ in prediction.answer.pairs} <= LABELS
        if prediction.answer.mapping is not None and text.count("}") <= MANY_BRACES:
            check_mapping(text, mode, prediction.answer)
        endings[f"{mode}/{prediction.ending}"] += 1


def parse_in_time(parse: Parser, text: str, tasks: tuple[Task, ...]) -> Prediction:
    """Parse within the limit of linear time; a slow attempt is repeated, as the machine may be busy."""
    limit = FIXED_SECONDS + SECONDS_PER_CHARACTER * len(text)
    for _ in range(20):
        started = time.thread_time()
        prediction = parse(text, tasks, LABELS)
        seconds = time.thread_time() - started
        if seconds <= limit:
            return prediction
    raise AssertionError(f"parsing took {seconds:.4f} s for {len(text)} characters; the limit is {limit:.4f} s")


def check_form(prediction: Prediction, tasks: tuple[Task, ...]) -> None:
    """Check the types of a prediction, and that its values are stripped and its pairs not empty."""
    answer = prediction.answer
    assert [part is not None for part in (answer.summary, answer.pairs, answer.mapping)] == [
        task in tasks for task in TASKS
    ]
    assert answer.summary is None or answer.summary == answer.summary.strip()
    assert answer.pairs is None or type(answer.pairs) is frozenset
    for pair in answer.pairs or ():
        assert len(pair) == 2
        assert all(type(part) is str and part and part == collapse_whitespace(part) for part in pair)
    assert answer.mapping is None or type(answer.mapping) is dict
    for item in (answer.mapping or {}).items():
        assert all(type(part) is str and part == collapse_whitespace(part) for part in item)
    assert prediction.ending in {"clean", "repaired", "malformed"}
    assert (prediction.ending == "clean") == (prediction.notes == ())


def fine_answer(text: str, mode: str) -> str:
    """Return the part of an answer with entities and mapping."""
    return text.split("Task 2 Answer:", 1)[-1] if mode == "lossless" else text


def parse_pairs_simply(text: str, mode: str) -> frozenset[tuple[str, str]]:
    """Parse the label-entity pairs literally by the rules, label by label."""
    answer = fine_answer(text, mode)
    ner = answer.split("NER:", 1)[1].split("image entities pair", 1)[0] if "NER:" in answer else ""
    if mode == "published":
        pieces = [piece.split(";", 1) for piece in ner.split(":") if ";" in piece]
        pairs = [(collapse_whitespace(label), collapse_whitespace(entity)) for label, entity in pieces]
    else:
        parts = re.split(f":({'|'.join(map(re.escape, LABELS))});", ner)
        pairs = [(label, collapse_whitespace(entity)) for label, entity in zip(parts[1::2], parts[2::2], strict=True)]
    return frozenset(pair for pair in pairs if all(pair))


def check_mapping(text: str, mode: str, answer: Answer) -> None:
    """Compare the mapping with `ast.literal_eval` of each substring that may be the dictionary."""
    fine = fine_answer(text, mode)
    mapping = fine.split("image entities pair", 1)[1] if "image entities pair" in fine else ""
    start = mapping.find("{")
    ends = [brace.end() for brace in re.finditer("}", mapping) if brace.end() > start >= 0]
    values = [evaluate_literal(mapping[start:end]) for end in (ends if mode == "lossless" else ends[-1:])]
    literals = [value for value in values if value is not None]
    if literals:
        assert answer.mapping == literals[0]
    elif mode == "published":
        assert answer.mapping == {}


def evaluate_literal(text: str) -> dict[str, str] | None:
    """Evaluate a Python literal; return None if it is not a dictionary of strings."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(part, str) for item in value.items() for part in item):
        return None
    return {collapse_whitespace(key): collapse_whitespace(entity) for key, entity in value.items()}


def decode_input(data: bytes) -> tuple[str, tuple[Task, ...]]:
    """Turn a fuzzer's bytes into a text and tasks: pieces of the format, one per byte, or arbitrary text."""
    provider = atheris.FuzzedDataProvider(data)
    tasks = SUBSETS[provider.ConsumeIntInRange(0, len(SUBSETS) - 1)]
    before, after = FRAMES[provider.ConsumeIntInRange(0, len(FRAMES) - 1)]
    if provider.ConsumeBool():
        text = provider.ConsumeUnicode(provider.remaining_bytes())
    else:
        data = provider.ConsumeBytes(provider.remaining_bytes())
        text = "".join(PIECES[byte] if byte < len(PIECES) else chr(byte) for byte in data)
    return before + text + after, tasks


def run_hypothesis(num_examples: int) -> None:
    """Check this number of texts that hypothesis generates."""
    texts = st.text() | st.lists(st.sampled_from(PIECES) | st.characters(), max_size=25).map("".join)

    @settings(max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts, st.sampled_from(FRAMES), st.sampled_from(SUBSETS))
    def check_example(text: str, frame: tuple[str, str], tasks: tuple[Task, ...]) -> None:
        check(text.join(frame), tasks)

    check_example()


def run_atheris(num_runs: int, on_done: Callable[[], None]) -> None:
    """Check this number of inputs that atheris generates to reach new branches; atheris then ends the process."""
    runs = 0

    def check_input(data: bytes) -> None:
        nonlocal runs
        check(*decode_input(data))
        runs += 1
        if runs == num_runs:
            on_done()

    artifacts = f"-artifact_prefix={tempfile.gettempdir()}/parsers-"
    atheris.Setup([sys.argv[0], f"-runs={num_runs + 2}", "-max_len=1024", "-len_control=20", artifacts], check_input)
    atheris.Fuzz()


def main() -> None:
    """Run both fuzzers and print the number of inputs, the seconds and the endings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=900_000, help="number of inputs of atheris")
    parser.add_argument("--examples", type=int, default=100_000, help="number of inputs of hypothesis")
    arguments = parser.parse_args()
    # The simple implementation passes text with unknown escapes to Python, which warns of them.
    warnings.simplefilter("ignore")
    started = time.monotonic()
    run_hypothesis(arguments.examples)
    atheris_started = time.monotonic()

    def print_results() -> None:
        seconds = {"hypothesis": round(atheris_started - started), "atheris": round(time.monotonic() - atheris_started)}
        inputs = {"hypothesis": arguments.examples, "atheris": arguments.runs}
        print(
            json.dumps({"inputs": inputs, "seconds": seconds, "endings": dict(sorted(endings.items()))}, indent=2),
            flush=True,
        )

    run_atheris(arguments.runs, print_results)


if __name__ == "__main__":
    main()
