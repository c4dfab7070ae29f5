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
"""`time` (ISO 8601, UTC), `kind` (state, metrics, progress, artifact, warning, cache, system …) and the fields of that
kind."""

PROGRESS_INTERVALS = (0.2, 5.0)
"""The minimum and maximum seconds between two progress events of a step; the last event is always written.

The interval grows with the running time, so that a training of days logs megabytes and not hundreds of megabytes."""
PROGRESS_EVENTS_PER_STEP = 500
"""About how many progress events a step logs, within these intervals."""


class EventLog:
    """Appends events to the log. Each event is one write of one line, so that a kill can truncate only the last one."""

    def __init__(self, path: Path) -> None:
        """Open a log. A last line that an earlier kill truncated gets a line end."""
        self._path = path
        self._last_progress = -math.inf
        self._started: dict[str, float] = {}
        if path.exists() and path.stat().st_size:
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")

    def append(self, kind: str, **fields: Any) -> None:
        """Append one event with the current time."""
        event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **fields}
        line = json.dumps(event, ensure_ascii=False) + "\n"
        # Unbuffered, because several threads append and a buffer would split a long line.
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def state(self, step: str, state: str, detail: str | None = None) -> None:
        """Log that a step, or the whole `trial`, was started, finished, reused, failed or interrupted."""
        self.append("state", step=step, state=state, **({"detail": detail} if detail else {}))

    def metrics(self, step: int | None, values: Mapping[str, float | None]) -> None:
        """Log metrics at an optimizer step; without a step, they are the trial's results."""
        self.append("metrics", step=step, values=dict(values))

    def progress(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Log the progress of a step. Calls within an interval after the last event log nothing."""
        now = time.monotonic()
        started = self._started.setdefault(stage, now)
        shortest, longest = PROGRESS_INTERVALS
        interval = min(longest, max(shortest, (now - started) / PROGRESS_EVENTS_PER_STEP))
        if done >= total or now - self._last_progress >= interval:
            self._last_progress = now
            self.append("progress", stage=stage, done=done, total=total, shown=dict(metrics))

    def artifact(self, name: str, path: Path) -> None:
        """Log that a file or folder of the run directory is complete."""
        self.append("artifact", name=name, path=str(path))

    def warning(self, message: str) -> None:
        """Log something that the user should know and that does not stop the trial."""
        self.append("warning", message=message)


class EventTail:
    """Reads the new events of a growing log."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Start at a byte offset, such as the end of what an earlier launch wrote."""
        self._path, self.offset = path, offset

    def read(self) -> Iterator[Event]:
        """Yield the events of the complete lines since the last call; a truncated line is skipped."""
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
    """The reporter of one running step; it writes to the trial's log."""

    def __init__(self, log: EventLog, stage: str, stop_file: Path) -> None:
        """Take the log, the step's name, and the file whose presence is a request to stop."""
        self._log, self._stage, self._stop_file = log, stage, stop_file

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics at an optimizer step."""
        self._log.metrics(step, values)

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Log the progress of the step."""
        self._log.progress(self._stage, done, total, metrics)

    def warn(self, message: str) -> None:
        """Log a warning for the user."""
        self._log.warning(message)

    def stop_requested(self) -> bool:
        """Whether the driver asked this trial to stop."""
        return self._stop_file.exists()
