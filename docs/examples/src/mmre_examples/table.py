"""An example tracker: writes metrics to a CSV file in the folder of each run, for spreadsheets."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from runner.stages import TrackedRun, TrackerOptions

Row = tuple[str, str, str, str]
"""Metric, optimizer step (empty for a final result), value, time."""


class TableOptions(TrackerOptions):
    """Writes `metrics.csv` to the folder of each run."""

    delimiter: Literal[",", ";", "\t"] = ","
    """Separator of the columns."""

    @property
    def stays_in_storage(self) -> bool:
        """The tracker writes only into the folders of runs."""
        return True


class TableTracker:
    """The plugin `table` of the stage `tracker`."""

    def __init__(self, options: TableOptions, storage: Path) -> None:
        """Store the options and the folder of all runs."""
        self._delimiter, self._storage = options.delimiter, storage

    def start(self, run: TrackedRun) -> str:
        """Start a run; its folder is its id, so a later launch continues the same file."""
        self._run_dir = run.run_dir
        return str(run.run_dir)

    def log_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Append new metrics. The engine may deliver an event twice, so each metric and step is written only once."""
        table = self._run_dir / "metrics.csv"
        written = set()
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                written = {tuple(row[:2]) for row in csv.reader(file, delimiter=self._delimiter)}
        with table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=self._delimiter)
            for row in _rows(events):
                if row[:2] not in written:
                    written.add(row[:2])
                    writer.writerow(row)

    def finish(self, status: Literal["finished", "failed", "interrupted", "pruned"]) -> None:
        """Store the final status of the run."""
        (self._run_dir / "ended.json").write_text(json.dumps({"status": status}), encoding="utf-8")

    def log_file(self, run_id: str, file: Path, folder: str) -> None:
        """Copy a file to the folder of the run."""
        target = Path(run_id) / "attached" / folder
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)

    def download_runs(self, experiment: str, into: Path) -> Sequence[Path]:
        """Return nothing: all files are in the run directories."""
        return ()

    def link(self) -> str:
        """Return the path of the file."""
        return str(self._run_dir / "metrics.csv")

    def find_run(self, run_id: str) -> Literal["present", "deleted", "missing"]:
        """Look up the run of a folder."""
        return "present" if (Path(run_id) / "metrics.csv").exists() else "missing"

    def pages_path(self) -> str:
        """The path of the first page."""
        return ""

    def serve_command(self, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> Sequence[str]:
        """Return the command that serves the folder of all runs with Python's HTTP server."""
        return [sys.executable, "-m", "http.server", str(port), "--bind", host, "--directory", str(self._storage)]


def _rows(events: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for event in events:
        if event["kind"] == "metrics":
            step = "" if event["step"] is None else str(event["step"])
            yield from ((name, step, str(value), event["time"]) for name, value in event["values"].items())
