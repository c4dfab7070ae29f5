"""Reads JSON-lines files of ids and texts: predictions and references."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import DataError, data_line_error
from runner.files import HEAD_BYTES, describe_json_error, other_format
from runner.records import replace_lone_surrogates

MAX_LISTED_PROBLEMS = 10
"""Number of problems that an error lists; it only counts the others."""


@dataclass(frozen=True)
class AnswerLine:
    """The text of one line of an answer file.

    Attributes:
        text: The prediction or the reference.
        location: `file:line`, counted from 1.
        outputs: The answers by task, if each task was asked with its own prompt; `text` is then all of them.
    """

    text: str
    location: str
    outputs: Mapping[str, str] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Return the line as `parse_row` reads it."""
        return {"output": self.text, "outputs": self.outputs}


def read_answer_file(path: Path, key: str) -> dict[str, AnswerLine]:
    """Read the lines `{"id": …, <key>: …}` of a file, by id; empty lines and keys other than `outputs` are ignored.

    Raises:
        DataError: The file is missing, or lines are invalid or repeat an id. The error lists every such line.
    """
    answers: dict[str, AnswerLine] = {}
    problems: list[str] = []
    content = _read_file(path)
    if problem := other_format(content[:HEAD_BYTES]):
        raise data_line_error(path, 1, problem)
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            sample_id, text, outputs = _parse_line(path, number, line, key)
            if sample_id in answers:
                first = answers[sample_id].location
                raise data_line_error(path, number, f"the id {sample_id!r} already occurs at {first}")
        except DataError as error:
            problems.append(str(error))
        else:
            answers[sample_id] = AnswerLine(text, f"{path}:{number}", outputs)
    raise_problems(problems)
    return answers


def match_outputs(
    outputs: Mapping[str, AnswerLine], references: Mapping[str, str], source: Path, *, allow_missing: bool
) -> set[str]:
    """Check that outputs and references have the same ids.

    Args:
        outputs: Outputs by id.
        references: The location of each reference by id.
        source: The file of the outputs.
        allow_missing: Whether references without an output are allowed.

    Returns:
        The ids of references without an output.

    Raises:
        DataError: Outputs have an id that no reference has, or outputs are missing. The error lists all of them.
    """
    problems = [
        f"{output.location}: the id {sample_id!r} is not among the {len(references):,} references"
        for sample_id, output in outputs.items()
        if sample_id not in references
    ]
    missing = [sample_id for sample_id in references if sample_id not in outputs]
    if missing and not allow_missing:
        problems.append(
            f"{source}: no output for {len(missing):,} of {len(references):,} references, for example the id "
            f"{missing[0]!r} ({references[missing[0]]}). --allow-missing counts them as empty answers"
        )
    raise_problems(problems)
    return set(missing)


def raise_problems(problems: list[str]) -> None:
    """Raise one DataError that lists the problems, if there are any."""
    if problems:
        raise DataError("\n".join(listed(problems)))


def listed(problems: list[str]) -> list[str]:
    """Return the first problems, and a line with the number of the others if there are more."""
    more = len(problems) - MAX_LISTED_PROBLEMS
    return problems[:MAX_LISTED_PROBLEMS] + ([f"and {more:,} more"] if more > 0 else [])


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _parse_line(path: Path, number: int, line: bytes, text_key: str) -> tuple[str, str, dict[str, str]]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise data_line_error(path, number, describe_json_error(error)) from error
    if not isinstance(row, dict):
        raise data_line_error(path, number, f'is not a JSON object such as {{"id": …, "{text_key}": …}}')
    for key in ("id", text_key):
        if not isinstance(row.get(key), str):
            problem = f"{key!r} is not text: {row[key]!r}" if key in row else f"the key {key!r} is missing"
            raise data_line_error(path, number, f'{problem}. A line is {{"id": …, "{text_key}": …}}')
    outputs = row.get("outputs") or {}
    if not isinstance(outputs, dict) or not all(isinstance(text, str) for text in outputs.values()):
        raise data_line_error(path, number, "'outputs' is not an object with one text for each task")
    return (
        replace_lone_surrogates(row["id"]),
        replace_lone_surrogates(row[text_key]),
        {task: replace_lone_surrogates(text) for task, text in outputs.items()},
    )
