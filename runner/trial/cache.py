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
from runner.trial.cache_entry import DESCRIPTION, CacheEntry, DamagedError, damage

UPLOAD = "upload"
"""Of a description here: the folder of the files. Two that upload the same at once never mix theirs."""


OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Have no folders: to make one is to make a bucket, which a misspelt URI must not."""


class MirrorError(OSError):
    """The place does not answer, or refuses."""


@dataclass(frozen=True)
class Mirror:
    """Entries at a URI, as `<kind>/<key>/entry.json` and the files; the description is written last.

    Attributes:
        uri: Such as `s3://bucket/folder`. Credentials are the environment's, on every machine that runs trials.
    """

    uri: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            files, root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            raise RequirementError(f"compute.cache: {self.uri} cannot be used here: {error}") from error
        return files, root

    def check(self) -> None:
        """Make sure that there is a client for the URI; nothing is asked of it yet.

        Raises:
            UnmetError: There is none; the message names the package.
        """
        assert self._place

    def described(self, entry: CacheEntry) -> dict[str, Any] | None:
        """What the description of an entry says; None where there is no such entry.

        Raises:
            MirrorError: The place does not answer.
        """
        try:
            return dict(json.loads(self._ask(self._files.cat_file, self._at(entry, DESCRIPTION))))
        except (FileNotFoundError, ValueError):  # the latter is one that is being written
            return None

    def fetch(self, entry: CacheEntry) -> None:
        """Bring an entry, if it is there, to its place in the cache.

        Raises:
            DamagedError: A file is not what was written; the entry was removed.
            MirrorError: The place does not answer.
        """
        told = self.described(entry)
        if told is None:
            return
        unfinished = entry.beside("unfinished")
        try:
            for name in told["files"]:
                file = unfinished / name
                file.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_file(self._at(entry, told[UPLOAD], name), file)
            wrong = damage(unfinished, told["files"])
            if wrong is not None:
                self.remove(entry.kind, entry.key)
                raise DamagedError(f"{self.uri}/{entry.kind}/{entry.key}: {wrong}")
            write_json(unfinished / DESCRIPTION, {key: told[key] for key in told if key != UPLOAD})
            entry.place(unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _fetch_file(self, source: str, target: Path) -> None:
        try:
            self._ask(self._files.get_file, source, str(target))
        except FileNotFoundError:
            return  # what is missing is found when the hashes are compared

    def send(self, entry: CacheEntry) -> None:
        """Send an entry of the cache, unless it is there.

        Raises:
            MirrorError: The place does not answer, or refuses.
        """
        told = entry.described()
        if told is None or self.described(entry) is not None:
            return
        upload = uuid4().hex
        for name in told["files"]:
            target = self._at(entry, upload, name)
            self._make_folder(target.rpartition("/")[0])
            self._ask(self._files.put_file, str(entry.folder / name), target)
        text = json.dumps({**told, UPLOAD: upload}).encode()
        self._ask(self._files.pipe_file, self._at(entry, DESCRIPTION), text)

    def _make_folder(self, folder: str) -> None:
        protocols = self._files.protocol
        if OBJECT_STORES.isdisjoint([protocols] if isinstance(protocols, str) else protocols):
            self._ask(self._files.makedirs, folder, exist_ok=True)

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Yield the descriptions of all entries.

        Raises:
            MirrorError: The place does not answer.
        """
        self._files.invalidate_cache()  # of what others have written meanwhile, a client knows nothing
        for path in self._ask(self._files.find, self._root):
            if path.endswith(f"/{DESCRIPTION}"):
                yield json.loads(self._ask(self._files.cat_file, path))

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry, its description first.

        Raises:
            MirrorError: The place does not answer, or refuses.
        """
        folder = f"{self._root}/{kind}/{key}"
        for path in (f"{folder}/{DESCRIPTION}", folder):
            try:
                self._ask(self._files.rm, path, recursive=path == folder)
            except FileNotFoundError:
                continue

    @property
    def _files(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1].rstrip("/")

    def _at(self, entry: CacheEntry, *parts: str) -> str:
        return "/".join((self._root, entry.kind, entry.key, *parts))

    def _ask(self, action: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return action(*args, **options)
        except FileNotFoundError:
            raise
        except Exception as error:  # the clients that fsspec knows have no common base of errors
            raise MirrorError(f"{self.uri}: {type(error).__name__}: {str(error).strip()[:200]}") from error


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

    def entry(self, kind: str, key: str) -> CacheEntry:
        """A place for files that appear all at once."""
        return CacheEntry(self.root / kind / key, kind, key)

    def fetch(self, entry: CacheEntry) -> None:
        """Bring an entry that is not here from the mirror, if that has it.

        Raises:
            DamagedError: What the mirror has is damaged.
            MirrorError: The mirror does not answer.
        """
        if self.mirror is not None and entry.described() is None:
            self.mirror.fetch(entry)

    def publish(self, entry: CacheEntry, parts: Mapping[str, Path | str], made_by: str) -> None:
        """Fill an entry, here and at the mirror; see `CacheEntry.publish`.

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
