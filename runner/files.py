"""Files that are linked rather than copied, or that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


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
