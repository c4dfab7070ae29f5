"""The event log `events.jsonl`: appended to by the process that runs a trial, read by everything that displays it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]
"""`time` (ISO 8601, UTC), `kind` (state, metrics, progress, artifact, warning, system) and what that kind tells."""

PROGRESS_INTERVALS = (0.2, 5.0)
"""Least and most seconds between two progress events of a step, the last of which is always written. They grow with
the time that it takes, so that a training of days leaves megabytes of them and not hundreds."""
PROGRESS_SHARE = 500
"""A step's progress is told about so many times, within those bounds."""


class EventLog:
    """Appends events; each is one write of one line, so that a kill can tear only the last one."""

    def __init__(self, path: Path) -> None:
        """Open a log, ending a line that an earlier kill tore."""
        self._path = path
        self._last_progress = -math.inf
        self._began: dict[str, float] = {}
        if path.exists() and path.stat().st_size:
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")

    def append(self, kind: str, **told: Any) -> None:
        """Append one event, stamped now."""
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **told}
        line = json.dumps(stamped, ensure_ascii=False) + "\n"
        # Without a buffer, which would part a long line: several threads append.
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def state(self, step: str, state: str, detail: str | None = None) -> None:
        """Tell that a step, or the whole `trial`, was started, finished, failed or interrupted."""
        self.append("state", step=step, state=state, **({"detail": detail} if detail else {}))

    def metrics(self, step: int | None, values: Mapping[str, float | None]) -> None:
        """Record metrics at an optimizer step; without a step, the trial's results."""
        self.append("metrics", step=step, values=dict(values))

    def progress(self, stage: str, done: int, total: int, shown: Mapping[str, float]) -> None:
        """Tell how far a step is; most calls between two intervals are left out."""
        now = time.monotonic()
        began = self._began.setdefault(stage, now)
        shortest, longest = PROGRESS_INTERVALS
        interval = min(longest, max(shortest, (now - began) / PROGRESS_SHARE))
        if done >= total or now - self._last_progress >= interval:
            self._last_progress = now
            self.append("progress", stage=stage, done=done, total=total, shown=dict(shown))

    def artifact(self, name: str, path: Path) -> None:
        """Tell that a file or folder of the run directory is complete."""
        self.append("artifact", name=name, path=str(path))

    def warning(self, message: str) -> None:
        """Record something that the user should know and that stops nothing."""
        self.append("warning", message=message)


class EventTail:
    """Reads a growing log from where it was left."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Begin at a byte offset, such as the end of what an earlier launch wrote."""
        self._path, self.offset = path, offset

    def read(self) -> Iterator[Event]:
        """Yield the whole lines that have come since; one that a kill tore is passed over."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


class StepReporter:
    """The reporter of one running step, writing to the trial's log."""

    def __init__(self, log: EventLog, stage: str, stop_file: Path) -> None:
        """Take the log, the step's name and the file whose presence asks to stop."""
        self._log, self._stage, self._stop_file = log, stage, stop_file

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""
        self._log.metrics(step, values)

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell how far the step is."""
        self._log.progress(self._stage, done, total, shown)

    def warn(self, message: str) -> None:
        """Tell the user something that stops nothing."""
        self._log.warning(message)

    def stop_requested(self) -> bool:
        """Whether the driver asked this trial to stop."""
        return self._stop_file.exists()
