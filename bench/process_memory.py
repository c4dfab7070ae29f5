"""Samples the main memory of a process and all its descendants, as Linux accounts it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil


@dataclass(frozen=True)
class Sample:
    """The memory of a group of processes at one time.

    Attributes:
        time: Seconds since the epoch.
        pss: Proportional set size in bytes: a page that several processes share counts once in the sum.
        own: The part of `pss` that is not in files. The kernel can free pages of files at any time.
    """

    time: float
    pss: int
    own: int


def read_memory(processes: Iterable[int]) -> Sample:
    """Add up the memory of processes; those that have ended count nothing."""
    pss = own = 0
    for process in processes:
        with suppress(OSError):
            fields = dict(
                line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
            )
            pss += _bytes(fields["Pss"])
            own += _bytes(fields["Pss"]) - _bytes(fields["Pss_File"])
    return Sample(time.time(), pss, own)


def _bytes(value: str) -> int:
    return int(value.split(maxsplit=1)[0]) * 1024


def process_tree(root: int) -> list[int]:
    """Return a process and all its descendants; nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    return []


class MemorySampler:
    """Samples the memory of a process tree in a thread.

    Attributes:
        samples: The samples so far.
    """

    def __init__(self, root: int, seconds: float) -> None:
        """Take the root of the process tree and the interval between two samples."""
        self.samples: list[Sample] = []
        self._root, self._seconds = root, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self._seconds
        while not self._stop.wait(pause):
            started = time.monotonic()
            self.samples.append(read_memory(process_tree(self._root)))
            # The kernel visits all pages of a process: a large model must not be slowed down.
            pause = max(self._seconds, COST_RATIO * (time.monotonic() - started))


COST_RATIO = 50
"""The pause between two samples is at least this multiple of the time that a sample takes."""


def peak_between(samples: Sequence[Sample], start: float, end: float) -> dict[str, float | None]:
    """Return the largest values between two times, in gigabytes; null if there is no sample."""
    inside = [sample for sample in samples if start <= sample.time <= end]
    if not inside:
        return {"pss_gb": None, "own_gb": None}
    return {
        "pss_gb": round(max(sample.pss for sample in inside) / 1e9, 2),
        "own_gb": round(max(sample.own for sample in inside) / 1e9, 2),
    }
