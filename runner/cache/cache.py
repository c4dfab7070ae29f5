"""The cache of a storage: a folder a kind, and in it a folder a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.cache.entry import Entry
from runner.cache.mirror import Mirror

FOLDER = ".cache"
"""Of a storage, where the spec names no other place."""


@dataclass(frozen=True)
class Cache:
    """What the trials of a storage share, by kind and key.

    Attributes:
        root: Its folder, on a file system that all of them see.
        mirror: A second place, shared with other storages.
    """

    root: Path
    mirror: Mirror | None = None

    @classmethod
    def of(cls, place: str | None, storage: Path) -> Cache:
        """Find the cache that a spec's `compute.cache` names; see there.

        Raises:
            UnmetError: It names a URI that nothing installed here can reach.
        """
        if place is None or "://" not in place:
            return cls(Path(place) if place else storage / FOLDER)
        mirror = Mirror(place)
        mirror.check()
        return cls(storage / FOLDER, mirror)

    def entry(self, kind: str, key: str) -> Entry:
        """A place for files that appear all at once."""
        return Entry(self.root / kind / key, kind, key)

    def fetch(self, entry: Entry) -> None:
        """Bring an entry that is not here from the mirror, if that has it.

        Raises:
            DamagedError: What the mirror has is damaged.
            MirrorError: The mirror does not answer.
        """
        if self.mirror is not None and entry.described() is None:
            self.mirror.fetch(entry)

    def publish(self, entry: Entry, parts: Mapping[str, Path | str], made_by: str) -> None:
        """Fill an entry, here and at the mirror; see `Entry.publish`.

        Raises:
            OSError: There is no room, or a place cannot be written to.
        """
        entry.publish(parts, made_by)
        if self.mirror is not None:
            self.mirror.send(entry)

    def growing(self, kind: str, key: str) -> Path:
        """Make a folder that trials add files to, each whole in itself: written under another name, then renamed.

        It may be pruned at any time; who finds it gone makes it again.
        """
        folder = self.root / kind / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder
