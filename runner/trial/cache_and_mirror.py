"""The artifact cache of a storage, and its optional remote mirror on any file system of fsspec."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from runner.errors import RequirementError
from runner.files import write_json
from runner.trial.cache_entry import (
    DESCRIPTION,
    CacheEntry,
    DamagedEntryError,
    InvalidEntryError,
    find_damage,
    parse_description,
    require_regular_file,
)

UPLOAD = "upload"
"""The field of a description at the mirror that names the folder of the files. Each upload has its own folder, so that
two simultaneous uploads never mix their files."""


OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols without folders: creating one would create a bucket, which must not happen for a misspelt URI."""


class MirrorError(OSError):
    """The mirror does not respond or refuses access."""


@dataclass(frozen=True)
class Mirror:
    """A copy of cache entries at a URI, as `<kind>/<key>/entry.json` and the files; the description is written last.

    Attributes:
        uri: Such as `s3://bucket/folder`. Credentials come from the environment of every machine that runs trials.
    """

    uri: str

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        try:
            files, root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            raise RequirementError(f"compute.cache: {self.uri} cannot be used on this machine: {error}") from error
        return files, root

    def check(self) -> None:
        """Check that a client for the URI is installed; the mirror is not contacted.

        Raises:
            RequirementError: There is none; the message names the package.
        """
        assert self._filesystem

    def read_description(self, entry: CacheEntry) -> dict[str, Any] | None:
        """Read the description of an entry; None if the mirror has no such entry.

        Raises:
            InvalidEntryError: The description has another form; see `parse_description`.
            MirrorError: The mirror does not respond.
        """
        try:
            return self._read(self._path_of(entry, DESCRIPTION), entry.kind, entry.key)
        except (FileNotFoundError, ValueError):  # ValueError: the description is being written
            return None

    def _read(self, path: str, kind: str, key: str) -> dict[str, Any]:
        location = f"{self.uri}/{kind}/{key}"
        description = parse_description(self._call(self._files.cat_file, path), location, kind, key)
        if not description.get(UPLOAD):
            raise InvalidEntryError(f"{location}/{DESCRIPTION}: has no field {UPLOAD!r}")
        return description

    def fetch(self, entry: CacheEntry) -> None:
        """Download an entry into the cache if the mirror has it.

        Raises:
            DamagedEntryError: A file is missing or differs from what was published; the entry was removed.
            InvalidEntryError: The entry at the mirror has another form; it was not removed.
            MirrorError: The mirror does not respond.
        """
        description = self.read_description(entry)
        if description is None:
            return
        unfinished = entry.temporary_path("unfinished")
        try:
            for name in description["files"]:
                file = unfinished / name
                file.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_file(self._path_of(entry, description[UPLOAD], name), file)
            damage = find_damage(unfinished, description["files"])
            if damage is not None:
                self.remove(entry.kind, entry.key)
                raise DamagedEntryError(f"{self.uri}/{entry.kind}/{entry.key}: {damage}")
            write_json(unfinished / DESCRIPTION, {key: description[key] for key in description if key != UPLOAD})
            entry.move_into_place(unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _fetch_file(self, source: str, target: Path) -> None:
        try:
            self._call(self._files.get_file, source, str(target))
        except FileNotFoundError:
            return  # the comparison of hashes finds missing files

    def upload(self, entry: CacheEntry) -> None:
        """Upload an entry of the cache unless the mirror has it.

        Raises:
            MirrorError: The mirror does not respond or refuses access.
        """
        description = entry.read_description()
        if description is None or self.read_description(entry) is not None:
            return
        upload = uuid4().hex
        for name in description["files"]:
            require_regular_file(entry.folder, name)
            target = self._path_of(entry, upload, name)
            self._make_folder(target.rpartition("/")[0])
            self._call(self._files.put_file, str(entry.folder / name), target)
        text = json.dumps({**description, UPLOAD: upload}).encode()
        self._call(self._files.pipe_file, self._path_of(entry, DESCRIPTION), text)

    def _make_folder(self, folder: str) -> None:
        protocols = self._files.protocol
        if OBJECT_STORES.isdisjoint([protocols] if isinstance(protocols, str) else protocols):
            self._call(self._files.makedirs, folder, exist_ok=True)

    def descriptions(self, warn: Callable[[str], object]) -> Iterator[Mapping[str, Any]]:
        """Yield the descriptions of all entries.

        Args:
            warn: Called with a message for each entry that is passed over, because it has another form.

        Raises:
            MirrorError: The mirror does not respond.
        """
        self._files.invalidate_cache()  # else the client lists what it saw before other machines wrote
        for path in self._call(self._files.find, self._root):
            kind, key, name = ["", "", *path.split("/")][-3:]
            if name == DESCRIPTION:
                try:
                    yield self._read(path, kind, key)
                except FileNotFoundError:  # removed meanwhile
                    continue
                except (InvalidEntryError, ValueError) as error:
                    warn(f"passed over an entry of the mirror: {error}")

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry, its description first.

        Raises:
            MirrorError: The mirror does not respond or refuses access.
        """
        folder = f"{self._root}/{kind}/{key}"
        for path in (f"{folder}/{DESCRIPTION}", folder):
            try:
                self._call(self._files.rm, path, recursive=path == folder)
            except FileNotFoundError:
                continue

    @property
    def _files(self) -> Any:
        return self._filesystem[0]

    @property
    def _root(self) -> str:
        return self._filesystem[1].rstrip("/")

    def _path_of(self, entry: CacheEntry, *parts: str) -> str:
        return "/".join((self._root, entry.kind, entry.key, *parts))

    def _call(self, action: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of the client; raise its errors, other than missing files, as `MirrorError`."""
        try:
            return action(*args, **options)
        except FileNotFoundError:
            raise
        except Exception as error:  # the clients of fsspec have no common base class of errors
            raise MirrorError(f"{self.uri}: {type(error).__name__}: {str(error).strip()[:200]}") from error


FOLDER = ".cache"
"""The cache folder in a storage, unless the spec names another place."""


@dataclass(frozen=True)
class Cache:
    """The artifact cache that the trials of a storage share.

    Attributes:
        root: Its folder, on a file system that all trials can reach.
        mirror: A copy of the entries that other storages can share.
    """

    root: Path
    mirror: Mirror | None = None

    @classmethod
    def open(cls, location: str | None, storage: Path) -> Cache:
        """Open the cache of a spec.

        Args:
            location: The spec's `compute.cache`: a folder, or the URI of a mirror; None for the storage's own folder.
            storage: The folder of all runs.

        Raises:
            RequirementError: The location is a URI for which no client is installed.
        """
        if location is None or "://" not in location:
            return cls(Path(location) if location else storage / FOLDER)
        mirror = Mirror(location)
        mirror.check()
        return cls(storage / FOLDER, mirror)

    def entry(self, kind: str, key: str) -> CacheEntry:
        """Return the entry of a key, which may be empty."""
        return CacheEntry(self.root / kind / key, kind, key)

    def fetch(self, entry: CacheEntry) -> None:
        """Download an entry from the mirror if the cache lacks it and the mirror has it.

        Raises:
            DamagedEntryError: The entry at the mirror, or in the cache, is damaged.
            InvalidEntryError: The entry at the mirror, or in the cache, has another form.
            MirrorError: The mirror does not respond.
        """
        if self.mirror is not None and entry.read_description() is None:
            self.mirror.fetch(entry)

    def publish(self, entry: CacheEntry, parts: Mapping[str, Path | str], made_by: str, run_id: str | None) -> None:
        """Fill an entry in the cache and at the mirror; see `CacheEntry.publish`.

        Raises:
            OSError: The disk is full, or the cache or the mirror cannot be written to.
        """
        entry.publish(parts, made_by, run_id)
        if self.mirror is not None:
            self.mirror.upload(entry)
