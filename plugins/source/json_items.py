"""Reads the items of a JSON file with their lines, for messages that name file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import DataError, data_line_error
from runner.files import describe_decode_error, describe_json_error
from runner.stages.data_and_annotator import RESERVED_NAMES

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Item:
    """An item of an array.

    Attributes:
        location: `file:line` of its first character.
        value: The item.
    """

    location: str
    value: Any


def find_json_files(path: Path) -> list[Path]:
    """Return the file of this path, or the files `*.json` of this folder, sorted by name.

    Raises:
        DataError: There is no such file or folder, the folder contains no such file, or a name cannot be that of a
            split.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; source.path is a JSON file, or a folder of such files")
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.suffix.lower() == ".json")
    if not files:
        raise DataError(f"{path}: contains no <split>.json, such as train.json")
    for file in files:
        if file.stem in RESERVED_NAMES:
            raise DataError(f"{file}: {file.stem!r} cannot be the name of a split; rename the file")
    return files


def read_json_items(file: Path) -> dict[str, list[Item]]:
    """Read a JSON file with an array at the top, or with an object of arrays.

    Returns:
        The items of each array by its key, `""` for an array at the top. Values other than arrays are left out.

    Raises:
        DataError: The file is not JSON, or neither an array nor an object; with file and line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line, _, message = describe_decode_error(error)
        raise data_line_error(file, line, message) from error
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise data_line_error(file, line, describe_json_error(error)) from error
    position = _skip_space(text, 0)
    if text[position] == "[":
        return {"": list(_items(file, text, position))}
    if text[position] != "{":
        raise data_line_error(file, 1, "is neither a JSON array nor an object")
    return _arrays_of_object(file, text, position)


def _arrays_of_object(file: Path, text: str, position: int) -> dict[str, list[Item]]:
    """Read the arrays of an object that starts at a position; the text is known to be valid JSON."""
    arrays: dict[str, list[Item]] = {}
    position = _skip_space(text, position + 1)
    while text[position] != "}":
        key, position = _DECODER.raw_decode(text, position)
        position = _skip_space(text, _skip_space(text, position) + 1)  # After the colon.
        if text[position] == "[":
            arrays[key] = list(_items(file, text, position))
        _, position = _DECODER.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)
    return arrays


def _items(file: Path, text: str, position: int) -> Iterator[Item]:
    """Yield the items of an array that starts at a position; the text is known to be valid JSON."""
    line, counted = text.count("\n", 0, position) + 1, position
    position = _skip_space(text, position + 1)
    while text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        value, position = _DECODER.raw_decode(text, position)
        yield Item(f"{file}:{line}", value)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None
    return found.end()
