"""Lists what a cache holds and which trials use it, and deletes entries by age, size or use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner.trial.cache import Cache
from runner.trial.cache_entry import DESCRIPTION, CacheEntry, files_below

LEFT_AFTER = timedelta(days=1)
"""What a killed trial left unfinished is removed after so long, together with what is asked for."""


@dataclass(frozen=True)
class CachedItem:
    """One thing that a cache holds.

    Attributes:
        kind: Such as `trained`.
        key: The hash of what made it.
        place: Its folder or URI.
        size: Bytes.
        freed: Bytes that its removal gives back: files that trials have too stay on the disk.
        last_used: When it was made, or last taken from or added to.
        made_by: The trial, as `experiment/trial`; None where several add to it.
        used_by: The trials whose records name it; None where that is not known.
        at_mirror: It lies at the mirror.
    """

    kind: str
    key: str
    place: str
    size: int
    freed: int
    last_used: datetime
    made_by: str | None
    used_by: tuple[str, ...] | None
    at_mirror: bool = False

    def as_json(self) -> dict[str, Any]:
        """The row as `runner cache --json` lists it."""
        return {
            "kind": self.kind,
            "key": self.key,
            "place": self.place,
            "size": self.size,
            "freed": self.freed,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "made_by": self.made_by,
            "used_by": None if self.used_by is None else list(self.used_by),
        }


@dataclass(frozen=True)
class PruneFilter:
    """What is to be removed: that to which all that is given applies.

    Attributes:
        older_than: Not used for longer.
        larger_than: Bytes.
        unused: No trial of the storage has it.
    """

    older_than: timedelta | None = None
    larger_than: int | None = None
    unused: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is to be removed at all."""
        return self.older_than is not None or self.larger_than is not None or self.unused

    def apply(self, held: CachedItem, now: datetime) -> bool:
        """Whether one thing is to be removed. One whose users are not known is not unused."""
        return (
            (self.older_than is None or now - held.last_used > self.older_than)
            and (self.larger_than is None or held.size > self.larger_than)
            and (not self.unused or held.used_by == ())
        )


def list_items(cache: Cache, storage: Path) -> list[CachedItem]:
    """List what a cache holds, and at its mirror, by kind and age.

    Args:
        cache: The cache.
        storage: Whose trials may use it.

    Raises:
        MirrorError: The mirror does not answer.
    """
    users = _users(storage)
    rows = [_held(folder, users) for folder in _folders(cache.root)]
    if cache.mirror is not None:
        rows += [_at_mirror(told, cache.mirror.uri, users) for told in cache.mirror.entries()]
    return sorted(rows, key=lambda row: (row.kind, row.last_used, row.key))


def prune(cache: Cache, rows: Iterable[CachedItem]) -> None:
    """Remove things, and what killed trials left unfinished.

    Raises:
        OSError: Something cannot be removed.
    """
    for row in rows:
        if row.at_mirror:
            assert cache.mirror is not None
            cache.mirror.remove(row.kind, row.key)
        else:
            cache.entry(row.kind, row.key).remove()
    before = (datetime.now(UTC) - LEFT_AFTER).timestamp()
    for left in (*cache.root.glob("*/.*.unfinished.*"), *cache.root.glob("*/.*.removed.*")):
        if left.stat().st_mtime < before:
            shutil.rmtree(left, ignore_errors=True)


def _folders(root: Path) -> Iterator[Path]:
    yield from (each for each in sorted(root.glob("*/*")) if each.is_dir() and not each.name.startswith("."))


def _users(storage: Path) -> dict[str, list[str]]:
    """By `kind/key`, the trials whose records name it."""
    users: dict[str, list[str]] = {}
    for record in sorted(storage.glob("*/*/record.json")):
        try:
            steps = json.loads(record.read_text(encoding="utf-8")).get("steps", {})
        except (OSError, ValueError):  # removed meanwhile, or no record of ours
            continue
        for step in steps.values():
            if step.get("cache"):
                users.setdefault(step["cache"], []).append(f"{record.parent.parent.name}/{record.parent.name}")
    return users


def _held(folder: Path, users: dict[str, list[str]]) -> CachedItem:
    kind, key = folder.parent.name, folder.name
    told = CacheEntry(folder, kind, key).described()
    found = [file.stat() for _, file in files_below(folder)]
    # What is described is as old as its description, which is touched when it is taken from; see `CacheEntry.take`.
    dated = folder / DESCRIPTION if told else folder
    last = max([dated.stat().st_mtime, *([] if told else [each.st_mtime for each in found])])
    return CachedItem(
        kind,
        key,
        str(folder),
        sum(each.st_size for each in found),
        sum(each.st_size for each in found if each.st_nlink == 1),
        datetime.fromtimestamp(last, UTC),
        told.get("made_by") if told else None,
        _used(users, kind, key) if told else None,
    )


def _at_mirror(told: Any, uri: str, users: dict[str, list[str]]) -> CachedItem:
    size = sum(each["size"] for each in told["files"].values())
    kind, key = told["kind"], told["key"]
    created = datetime.fromisoformat(told["created"])
    # Whether another storage uses it is not known; that one of this storage does, is.
    used = _used(users, kind, key) or None
    return CachedItem(kind, key, f"{uri}/{kind}/{key}", size, size, created, told["made_by"], used, at_mirror=True)


def _used(users: dict[str, list[str]], kind: str, key: str) -> tuple[str, ...]:
    return tuple(users.get(f"{kind}/{key}", ()))


def total(rows: Sequence[CachedItem]) -> dict[str, int]:
    """Bytes of some rows together: `size`, and `freed`."""
    return {"size": sum(row.size for row in rows), "freed": sum(row.freed for row in rows)}
