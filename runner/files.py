"""Files that are there whole or not at all, JSON lines, and files that are linked rather than copied."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def user_cache(name: str) -> Path | None:
    """The place, in the user's own cache, of what can be made again (XDG Base Directory Specification).

    Returns:
        None for a user without a home, as in a container: nothing is kept then.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmre-runner" / name
    except RuntimeError:
        return None


def link_or_copy(source: Path, target: Path) -> None:
    """Make a second name for a file, so that it takes no room twice; a copy where the file system has no such thing.

    Raises:
        FileNotFoundError: The source is gone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one go: it is there whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines in one go."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    # mkstemp makes the file private; a run directory is read by others.
    Path(name).chmod(0o644)
    Path(name).replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line that a kill tore is left out. No file is no lines."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.split("\n") if line]


def write_rows_whole(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write JSON lines as they come; the file is there once all of them are.

    Returns:
        SHA-256 of its content, in hexadecimal.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content, unfinished = hashlib.sha256(), path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            content.update(line)
            file.write(line)
    unfinished.replace(path)
    return content.hexdigest()


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of JSON lines that `write_rows_whole` wrote, one at a time."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)
