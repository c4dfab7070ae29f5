"""The cache of a storage: a folder a kind, and in it a folder a key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.cache.entry import Entry

FOLDER = ".cache"
"""Of a storage, where the spec names no other place."""


@dataclass(frozen=True)
class Cache:
    """What the trials of a storage share, by kind and key.

    Attributes:
        root: Its folder, on a file system that all of them see.
    """

    root: Path

    @classmethod
    def of(cls, place: str | None, storage: Path) -> Cache:
        """Find the cache that a spec's `compute.cache` names; see there."""
        return cls(Path(place) if place and "://" not in place else storage / FOLDER)

    def entry(self, kind: str, key: str) -> Entry:
        """A place for files that appear all at once."""
        return Entry(self.root / kind / key, kind, key)

    def growing(self, kind: str, key: str) -> Path:
        """Make a folder that trials add files to, each whole in itself: written under another name, then renamed.

        It may be pruned at any time; who finds it gone makes it again.
        """
        folder = self.root / kind / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder
