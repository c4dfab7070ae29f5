"""A tracker: a table of figures in the folder of each run, for spreadsheets."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from runner.stages import Options, TrackedRun

Row = tuple[str, str, str, str]
"""Figure, optimizer step (empty for a result), value, time."""


class TableOptions(Options):
    """A file `figures.csv` in the folder of each run."""

    delimiter: Literal[",", ";", "\t"] = ","
    """What stands between two columns."""


class TableTracker:
    """The plugin `table` of the stage `tracker`."""

    def __init__(self, options: TableOptions, storage: Path) -> None:
        """Take the section's options and the folder of all runs."""
        self._delimiter, self._storage = options.delimiter, storage

    def start(self, run: TrackedRun) -> str:
        """Begin the table, or find the one of an earlier launch; the run's folder is its id."""
        self._run_dir = run.run_dir
        return str(run.run_dir)

    def deliver(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Add figures that are new: the engine may deliver an event again, and a step stands here once."""
        table = self._run_dir / "figures.csv"
        known = set()
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                known = {tuple(row[:2]) for row in csv.reader(file, delimiter=self._delimiter)}
        with table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=self._delimiter)
            for row in _rows(events):
                if row[:2] not in known:
                    known.add(row[:2])
                    writer.writerow(row)

    def finish(self, status: Literal["finished", "failed", "interrupted", "pruned"]) -> None:
        """Note how the run ended."""
        (self._run_dir / "ended.json").write_text(json.dumps({"status": status}), encoding="utf-8")

    def attach(self, run_id: str, file: Path, folder: str) -> None:
        """Put a file beside the table."""
        place = Path(run_id) / "attached" / folder
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)

    def fetch(self, experiment: str, into: Path) -> Sequence[Path]:
        """There is nothing that the run directories do not have."""
        return ()

    def link(self) -> str:
        """Where the table is."""
        return str(self._run_dir / "figures.csv")

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """Python's own server on the folder of all runs."""
        return [sys.executable, "-m", "http.server", str(port), "--bind", host, "--directory", str(self._storage)]


def _rows(events: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for event in events:
        if event["kind"] == "metrics":
            step = "" if event["step"] is None else str(event["step"])
            yield from ((name, step, str(value), event["time"]) for name, value in event["values"].items())
