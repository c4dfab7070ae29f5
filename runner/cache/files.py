"""Files of an entry: linked rather than copied, and known by their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
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
