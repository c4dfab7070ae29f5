"""Files of an entry, known by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file in a folder and in those below it with its path in there, sorted."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        yield path.relative_to(folder).as_posix(), path


def describe(file: Path) -> dict[str, Any]:
    """The `size` in bytes and the `sha256` of a file."""
    with file.open("rb") as content:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say which file of a folder is missing, or not what it was; None where all are whole."""
    for name, described in files.items():
        try:
            found = describe(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != dict(described):
            return f"{name} is not what was written ({found['size']:,} bytes, {described['size']:,} were)"
    return None
