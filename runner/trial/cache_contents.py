"""Lists what a cache holds and which trials use it, and deletes entries by age, size or use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner.errors import DataError
from runner.files import read_json_object, unreadable_message
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_entry import DESCRIPTION, CacheEntry, DamagedEntryError, InvalidEntryError, list_files

UNFINISHED_MAX_AGE = timedelta(days=1)
"""The age after which `prune` also removes unfinished folders, which killed trials left."""


@dataclass(frozen=True)
class CachedItem:
    """One item of a cache or its mirror.

    Attributes:
        kind: The kind of artifact, such as `trained`.
        key: The cache key.
        location: The folder or URI.
        size: Bytes.
        reclaimable_size: Bytes that deleting it frees; files that a trial also links stay on the disk.
        last_used: When it was published, or last reused or added to.
        made_by: The trial that published it, as `experiment/trial`; None if several trials add to it.
        used_by: The trials whose records name it; None if unknown, as for an item of a mirror that other storages may
            use.
        is_remote: It is stored at the mirror.
    """

    kind: str
    key: str
    location: str
    size: int
    reclaimable_size: int
    last_used: datetime
    made_by: str | None
    used_by: tuple[str, ...] | None
    is_remote: bool = False

    def as_json(self) -> dict[str, Any]:
        """The item as plain data; `runner cache --json` lists it."""
        return {
            "kind": self.kind,
            "key": self.key,
            "place": self.location,
            "size": self.size,
            "freed": self.reclaimable_size,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "made_by": self.made_by,
            "used_by": None if self.used_by is None else list(self.used_by),
        }


@dataclass(frozen=True)
class PruneFilter:
    """Criteria for deleting items; an item must match all that are set.

    Attributes:
        max_size: Bytes that the cache may take on the disk beside the files that trials also have. Of the items that
            match the other criteria, the least recently used are deleted until it takes no more.
        older_than: Minimum time since the last use.
        larger_than: Size in bytes that the item must exceed.
        unused: No trial of the storage may use the item.
    """

    older_than: timedelta | None = None
    larger_than: int | None = None
    unused: bool = False
    max_size: int | None = None

    @property
    def has_criteria(self) -> bool:
        """Whether any criterion is set."""
        return self.older_than is not None or self.larger_than is not None or self.unused or self.max_size is not None

    def select(self, items: Sequence[CachedItem], now: datetime) -> list[CachedItem]:
        """List the items to delete."""
        matching = [item for item in items if self.matches(item, now)]
        return matching if self.max_size is None else least_recently_used(items, matching, self.max_size)

    def matches(self, item: CachedItem, now: datetime) -> bool:
        """Whether an item matches the criteria other than `max_size`. An item with unknown users is not unused."""
        return (
            (self.older_than is None or now - item.last_used > self.older_than)
            and (self.larger_than is None or item.size > self.larger_than)
            and (not self.unused or item.used_by == ())
        )


Warn = Callable[[str], object]


def least_recently_used(
    items: Sequence[CachedItem], candidates: Iterable[CachedItem], max_size: int
) -> list[CachedItem]:
    """Choose the items to delete so that a cache takes at most a number of bytes on the disk.

    Args:
        items: All items of the cache. Items of a mirror take no space on the disk.
        candidates: The items that may be deleted. An item whose deletion would free nothing is never chosen.
        max_size: The number of bytes. Files that a trial also has do not count, because they stay on the disk.

    Returns:
        The fewest candidates in the order of their last use, the oldest first; all of them if even that is not enough.
    """
    excess = sum(item.reclaimable_size for item in items if not item.is_remote) - max_size
    chosen: list[CachedItem] = []
    for item in sorted(candidates, key=lambda item: (item.last_used, item.key)):
        if excess <= 0:
            break
        if item.reclaimable_size and not item.is_remote:
            chosen.append(item)
            excess -= item.reclaimable_size
    return chosen


def list_items(cache: Cache, storage: Path, warn: Warn) -> list[CachedItem]:
    """List the items of a cache and its mirror, sorted by kind and last use.

    Args:
        cache: The cache.
        storage: The folder of runs whose trials may use the items.
        warn: Called with a message for each entry that is passed over, because it is unreadable, a link, or does not
            have the form of an entry, and for each record of a trial that cannot be read.

    Raises:
        MirrorError: The mirror does not respond.
    """
    users = _users_by_entry(storage, warn)
    items = []
    for folder in _item_folders(cache.root, warn):
        try:
            items.append(_local_item(folder, users))
        except (InvalidEntryError, OSError) as error:
            warn(f"passed over an entry of the cache: {error}")
    if cache.mirror is not None:
        items += [_remote_item(entry, cache.mirror.uri, users) for entry in cache.mirror.descriptions(warn)]
    return sorted(items, key=lambda item: (item.kind, item.last_used, item.key))


def prune(cache: Cache, items: Iterable[CachedItem]) -> None:
    """Delete items, and old unfinished folders that killed trials left.

    Raises:
        OSError: Something cannot be deleted.
    """
    for item in items:
        if item.is_remote:
            assert cache.mirror is not None
            cache.mirror.remove(item.kind, item.key)
        else:
            cache.entry(item.kind, item.key).remove()
    newest = (datetime.now(UTC) - UNFINISHED_MAX_AGE).timestamp()
    for folder in (*cache.root.glob("*/.*.unfinished.*"), *cache.root.glob("*/.*.removed.*")):
        if not folder.parent.is_symlink() and folder.lstat().st_mtime < newest:
            shutil.rmtree(folder, ignore_errors=True)


def _item_folders(root: Path, warn: Warn) -> Iterator[Path]:
    """Yield the folders of all entries. A link may lead out of the cache, so that its target must not be deleted."""
    for path in sorted(path for path in root.glob("*/*") if not path.name.startswith(".")):
        if path.is_symlink() or path.parent.is_symlink():
            warn(f"passed over an entry of the cache: {path}: is reached through a link")
        elif path.is_dir():
            yield path


def _trial_records(storage: Path, warn: Warn) -> Iterator[Path]:
    """Yield the records of all trials. `glob` would pass over unreadable folders without an error."""

    def warn_if_unreadable(error: OSError) -> None:
        if isinstance(error, PermissionError):
            warn(f"{unreadable_message(error)}; artifacts that are used there may count as unused")

    for name, subfolders, files in os.walk(storage, onerror=warn_if_unreadable):
        depth = len(Path(name).relative_to(storage).parts)
        if depth == 0:
            subfolders[:] = sorted(experiment for experiment in subfolders if not experiment.startswith("."))
        elif depth == 1:
            subfolders[:] = sorted(trial for trial in subfolders if trial.startswith("trial-"))
        else:
            subfolders.clear()
            if "record.json" in files:
                yield Path(name, "record.json")


def _users_by_entry(storage: Path, warn: Warn) -> dict[str, list[str]]:
    """List the trials whose records name an entry, by its `kind/key`."""
    users: dict[str, list[str]] = {}
    for record in _trial_records(storage, warn):
        try:
            contents = read_json_object(record, "")
            of_steps = [str(step["cache"]) for step in contents.get("steps", {}).values() if step.get("cache")]
            items = dict.fromkeys([*of_steps, *map(str, contents.get("cache_items", ()))])
        except FileNotFoundError:  # removed meanwhile
            continue
        except (OSError, DataError, AttributeError, TypeError) as error:
            warn(f"{record}: cannot be read, so that artifacts that this trial uses may count as unused: {error}")
            continue
        for item in items:
            users.setdefault(item, []).append(f"{record.parent.parent.name}/{record.parent.name}")
    return users


def _local_item(folder: Path, users: dict[str, list[str]]) -> CachedItem:
    kind, key = folder.parent.name, folder.name
    try:
        description = CacheEntry(folder, kind, key).read_description()
    except DamagedEntryError:
        description = None
    stats = {name: stat for name, file in list_files(folder) if (stat := _stat_or_none(file)) is not None}
    # Reusing an entry touches its description (see `CacheEntry.link_into`). Without one, the newest file counts.
    times = [stat.st_mtime for name, stat in stats.items() if description is None or name == DESCRIPTION]
    folder_stat = _stat_or_none(folder) if description is None or not times else None
    last_used = max([*times, *([folder_stat.st_mtime] if folder_stat else [])], default=0.0)
    return CachedItem(
        kind,
        key,
        location=str(folder),
        size=sum(stat.st_size for stat in stats.values()),
        reclaimable_size=sum(stat.st_size for stat in stats.values() if stat.st_nlink == 1),
        last_used=datetime.fromtimestamp(last_used, UTC),
        made_by=description.get("made_by") if description else None,
        used_by=_users_of(users, kind, key),
    )


def _stat_or_none(path: Path) -> os.stat_result | None:
    """Return the size and times of a file; None if another process removed it meanwhile."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _remote_item(description: Mapping[str, Any], uri: str, users: dict[str, list[str]]) -> CachedItem:
    size = sum(file["size"] for file in description["files"].values())
    kind, key = description["kind"], description["key"]
    return CachedItem(
        kind,
        key,
        location=f"{uri}/{kind}/{key}",
        size=size,
        reclaimable_size=size,
        last_used=datetime.fromisoformat(description["created"]),
        made_by=description["made_by"],
        # Users in other storages are unknown, so no known user means unknown, not unused.
        used_by=_users_of(users, kind, key) or None,
        is_remote=True,
    )


def _users_of(users: dict[str, list[str]], kind: str, key: str) -> tuple[str, ...]:
    return tuple(users.get(f"{kind}/{key}", ()))


def sum_sizes(items: Sequence[CachedItem]) -> dict[str, int]:
    """Sum the bytes of items: `size`, and `freed` by deleting them."""
    return {"size": sum(item.size for item in items), "freed": sum(item.reclaimable_size for item in items)}
