"""Writes a data-set folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runner.dataset.card import CARD, card
from runner.dataset.folder import DESCRIPTION, content_fingerprint
from runner.dataset.rows import row_of
from runner.dataset.statistics import statistics
from runner.errors import DataError
from runner.records import Sample


class UnfinishedDataset:
    """A data set that is being made beside its final place.

    Attributes:
        path: Where its files go: pictures below `images` and `segments`.
    """

    def __init__(self, path: Path) -> None:
        """Begin in an empty folder."""
        self.path = path
        self.images, self.segments = path / "images", path / "segments"
        for folder in (self.images, self.segments):
            folder.mkdir(parents=True)

    def describe(
        self,
        name: str,
        labels: Sequence[str],
        splits: Mapping[str, Sequence[Sample]],
        provenance: Mapping[str, Any],
        license_: str | None = None,
    ) -> dict[str, Any]:
        """Write the splits, `dataset.json` and the card, and return what `dataset.json` says.

        Args:
            name: The data set's name.
            labels: In their order.
            splits: Samples whose images lie in this folder.
            provenance: How it was made, as plain data.
            license_: Its identifier; None where none is declared.
        """
        for split, samples in splits.items():
            write_rows(self.path / f"{split}.jsonl", (row_of(sample, self.path) for sample in samples))
        description = {
            "name": name,
            "labels": list(labels),
            "num_samples": {split: len(samples) for split, samples in splits.items()},
            **({"license": license_} if license_ else {}),
            "fingerprint": content_fingerprint(labels, splits),
            "provenance": dict(provenance),
            "statistics": statistics(*splits.values()),
        }
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (self.path / DESCRIPTION).write_text(text, encoding="utf-8")
        (self.path / CARD).write_text(card(description), encoding="utf-8")
        return description


@contextmanager
def alone(path: Path, waits: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let one process at a time look whether a data set is there, and make it; others wait their turn.

    Args:
        path: The data set's folder.
        waits: Called where another process has its turn.

    Raises:
        DataError: The folder around it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be made a folder for data sets: {error.strerror}") from error
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waits()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def publishing(path: Path) -> Iterator[UnfinishedDataset]:
    """Make a data set beside its place and move it there at the end, in place of an earlier one; `alone` goes around.

    Raises:
        DataError: Something else stands at that place.
    """
    with replacing(path) as unfinished:
        yield UnfinishedDataset(unfinished)


@contextmanager
def replacing(path: Path, mark: str = DESCRIPTION, what: str = "data set") -> Iterator[Path]:
    """Make a folder beside its place and move it there at the end, in place of an earlier one of its kind.

    Args:
        path: Its place.
        mark: What is in every folder of its kind.
        what: Its kind.

    Raises:
        DataError: Something else stands there.
    """
    refuse_other(path, mark, what)
    unfinished, before = (path.with_name(f".{path.name}.{what}") for what in ("unfinished", "before"))
    _put_back(before, path)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if path.exists():
            path.rename(before)
        unfinished.rename(path)
    finally:
        _put_back(before, path)
        shutil.rmtree(unfinished, ignore_errors=True)


def refuse_other(path: Path, mark: str = DESCRIPTION, what: str = "data set") -> None:
    """Raise a DataError where something of another kind stands, so that nothing else is ever written over."""
    if path.exists() and not (path / mark).exists():
        raise DataError(f"{path}: is there already and is no {what}; name another place, or remove it")


def _put_back(before: Path, path: Path) -> None:
    """Remove the earlier data set, or put it back where a kill came before the new one was in its place."""
    if before.exists() and not path.exists():
        before.rename(path)
    shutil.rmtree(before, ignore_errors=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
