"""One cached artifact: published atomically, verified by hashes, and locked by a lease while it is made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import SoftFileLease, Timeout

from runner.errors import RunnerError
from runner.files import link_or_copy, write_json, write_text
from runner.provenance import host


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


DESCRIPTION = "entry.json"
"""Beside the files of an entry: what it is, who made it, and each file's size and hash."""


class DamagedError(RunnerError):
    """An entry is not what was written."""


@dataclass(frozen=True)
class CacheEntry:
    """A place in the cache, filled or not.

    Attributes:
        folder: Where its files stand.
        kind: What it is, such as `trained`.
        key: The hash of what made it.
    """

    folder: Path
    kind: str
    key: str

    @property
    def name(self) -> str:
        """Kind and the key's beginning, for people."""
        return f"{self.kind}/{self.key[:12]}"

    def described(self) -> dict[str, Any] | None:
        """What `entry.json` says: `kind`, `key`, `made_by`, `created`, `files`; None where there is no such entry."""
        try:
            return dict(json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            return {"files": {DESCRIPTION: {"size": 0, "sha256": ""}}}

    def publish(self, parts: Mapping[str, Path | str], made_by: str) -> None:
        """Put files and folders here, all at once; an entry that is there already stays.

        Args:
            parts: Name in the entry to a file, a folder, or the text of a file. Files are linked, and must never be
                written to again.
            made_by: The trial, as `experiment/trial`.

        Raises:
            OSError: There is no room, or the place cannot be written to.
        """
        unfinished = self.beside("unfinished")
        try:
            unfinished.mkdir(parents=True)
            for name, part in parts.items():
                _put(part, unfinished / name)
            self.settle(unfinished, made_by)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def settle(self, unfinished: Path, made_by: str) -> None:
        """Describe the files of a folder beside this entry, and make it the entry unless there is one already."""
        told = {
            "kind": self.kind,
            "key": self.key,
            "made_by": made_by,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {name: describe(file) for name, file in files_below(unfinished)},
        }
        write_json(unfinished / DESCRIPTION, told)
        self.place(unfinished)

    def place(self, whole: Path) -> None:
        """Make a folder that is whole, description and all, the entry, unless there is one already."""
        try:
            whole.rename(self.folder)
        except OSError:
            if self.described() is None:
                raise

    def take(self, folder: Path) -> dict[str, Any] | None:
        """Link the files into a folder, after they were compared with their hashes.

        Returns:
            What `entry.json` says; None where there is no entry, or it was removed meanwhile.

        Raises:
            DamagedError: A file is not what was written; the message names it.
        """
        told = self.described()
        if told is None:
            return None
        try:
            for name in told["files"]:
                link_or_copy(self.folder / name, folder / name)
        except FileNotFoundError:
            if self.described() is None:
                return None
        wrong = damage(folder, told["files"])
        if wrong is not None:
            raise DamagedError(f"{self.folder}: {wrong}")
        with suppress(OSError):  # it says when the entry was last of use, and is no reason to do without
            os.utime(self.folder / DESCRIPTION)
        return told

    def remove(self) -> None:
        """Remove the entry; who is taking from it finds it gone, and never a part of it."""
        doomed = self.beside("removed")
        try:
            self.folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)

    def beside(self, what: str) -> Path:
        """A place beside the entry that nobody else uses."""
        return self.folder.with_name(f".{self.key[:12]}.{what}.{uuid4().hex[:12]}")


def _put(part: Path | str, target: Path) -> None:
    if isinstance(part, str):
        write_text(target, part)
    elif part.is_dir():
        for below, file in files_below(part):
            link_or_copy(file, target / below)
    else:
        link_or_copy(part, target)


LEASE_SECONDS = 60.0
"""A maker on another node that gave no sign for so long is taken to be dead; one on this node is looked up at once.
Whoever was only slow goes on and leaves the same: a claim saves work, and correctness does not hang on it."""


class LeaseHeldError(Exception):
    """Another one is making the entry; its text says who."""


class Lease:
    """The right to make an entry.

    Files alone are used, as NFS has them: no locks of the operating system.
    """

    def __init__(self, entry: CacheEntry, trial: str) -> None:
        """Name what is to be made, and who makes it, for those who wait."""
        self._trial = trial
        self._maker = entry.folder.with_name(f".{entry.key}.maker")
        # It watches the signs of another maker from one try to the next.
        self._lease = SoftFileLease(entry.folder.with_name(f".{entry.key}.claim"), lease_duration=LEASE_SECONDS)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it.

        Raises:
            ClaimedError: Another one does, and is alive.
            OSError: The cache cannot be written to.
        """
        folder = self._maker.parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lease.acquire(timeout=0)
        except Timeout as error:
            raise LeaseHeldError(self._told()) from error
        try:
            write_json(self._maker, {"trial": self._trial, "host": host()["name"]})
            yield
        finally:
            self._maker.unlink(missing_ok=True)
            self._lease.release()

    def _told(self) -> str:
        try:
            told: dict[str, Any] = json.loads(self._maker.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return "another trial"
        return f"{told['trial']} on {told['host']}"
