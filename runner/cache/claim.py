"""Who is making an entry: others wait for it, and go on when it is there, or when its maker is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import SoftFileLease, Timeout

from runner.cache.entry import Entry
from runner.files import write_json
from runner.provenance import host

LEASE_SECONDS = 60.0
"""A maker on another node that gave no sign for so long is taken to be dead; one on this node is looked up at once.
Whoever was only slow goes on and leaves the same: a claim saves work, and correctness does not hang on it."""


class ClaimedError(Exception):
    """Another one is making the entry; its text says who."""


class Claim:
    """The right to make an entry.

    Files alone are used, as NFS has them: no locks of the operating system.
    """

    def __init__(self, entry: Entry, trial: str) -> None:
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
            raise ClaimedError(self._told()) from error
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
