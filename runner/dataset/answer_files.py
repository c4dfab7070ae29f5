"""Reads JSON lines of an id and a text: predictions and references."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import DataError, read_error

SHOWN_PROBLEMS = 10
"""How many lines are named before the rest is only counted."""


@dataclass(frozen=True)
class AnswerFile:
    """A text about one sample.

    Attributes:
        text: What was written.
        place: `file:line`, counted from 1.
    """

    text: str
    place: str


def read_answer_file(path: Path, field: str) -> dict[str, AnswerFile]:
    """Read the lines `{"id": …, <field>: …}` of a file, by id; other keys are passed over, as are empty lines.

    Raises:
        DataError: The file is missing, or lines are no such objects or bear the id of an earlier one; each is named.
    """
    written: dict[str, AnswerFile] = {}
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            name, text = _row(path, number, line, field)
            if name in written:
                raise read_error(path, number, f"the id {name!r} stands at {written[name].place} too")
        except DataError as error:
            problems.append(str(error))
        else:
            written[name] = AnswerFile(text, f"{path}:{number}")
    refuse(problems)
    return written


def fitted(
    outputs: Mapping[str, AnswerFile], known: Mapping[str, str], source: Path, *, allow_missing: bool
) -> set[str]:
    """Check that outputs and references are about the same samples.

    Args:
        outputs: By id.
        known: The id of each reference, and where it stands.
        source: The file of the outputs.
        allow_missing: Whether there may be references without an output.

    Returns:
        The ids of references without an output.

    Raises:
        DataError: Outputs are about samples that no reference knows, or some are missing; each is named.
    """
    problems = [
        f"{written.place}: the id {name!r} is not among the {len(known):,} references"
        for name, written in outputs.items()
        if name not in known
    ]
    missing = [name for name in known if name not in outputs]
    if missing and not allow_missing:
        problems.append(
            f"{source}: no output for {len(missing):,} of {len(known):,} references, such as the id {missing[0]!r} "
            f"({known[missing[0]]}); --allow-missing counts them as empty answers"
        )
    refuse(problems)
    return set(missing)


def refuse(problems: list[str]) -> None:
    """Raise a DataError of all problems, if there are any."""
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        told = problems[:SHOWN_PROBLEMS] + ([f"and {more:,} more"] if more > 0 else [])
        raise DataError("\n".join(told))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _row(path: Path, number: int, line: bytes, field: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise read_error(path, number, f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise read_error(path, number, f'is no JSON object: {{"id": …, "{field}": …}}')
    for key in ("id", field):
        if not isinstance(row.get(key), str):
            found = f"has {key!r}: {row[key]!r}, which is no text" if key in row else f"lacks {key!r}"
            raise read_error(path, number, f'{found}; a line is {{"id": …, "{field}": …}}')
    return _characters(row["id"]), _characters(row[field])


def _characters(text: str) -> str:
    """Put U+FFFD for half of a surrogate pair: an emoji that a limit of tokens cut apart is JSON, but no text."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
