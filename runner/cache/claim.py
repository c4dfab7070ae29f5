"""Who is making an entry: others wait for it, and go on when it is there, or when its maker is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from runner.artifacts import host, write_json
from runner.cache.entry import Entry

LEASE_SECONDS = 60.0
"""A maker on another node that gave no sign for so long is taken to be dead; one on this node is looked up at once.
Whoever was only slow goes on and leaves the same: a claim saves work, and correctness does not hang on it."""


class ClaimedError(Exception):
    """Another one is making the entry; its text says who."""


@contextmanager
def claimed(entry: Entry, trial: str) -> Iterator[None]:
    """Be the one who makes an entry.

    Files and folders alone are used, as NFS has them: no locks of the operating system.

    Args:
        entry: What is to be made.
        trial: Who makes it, for those who wait.

    Raises:
        ClaimedError: Another one is at it, and alive.
    """
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(_beside(entry, "claim"), lease_duration=LEASE_SECONDS)
    try:
        lease.acquire(timeout=0)
    except Timeout as error:
        raise ClaimedError(_maker(entry)) from error
    try:
        write_json(_beside(entry, "maker"), {"trial": trial, "host": host()["name"]})
        yield
    finally:
        _beside(entry, "maker").unlink(missing_ok=True)
        lease.release()


def _beside(entry: Entry, what: str) -> Path:
    return entry.folder.with_name(f".{entry.key}.{what}")


def _maker(entry: Entry) -> str:
    try:
        told: dict[str, Any] = json.loads(_beside(entry, "maker").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "another trial"
    return f"{told['trial']} on {told['host']}"
