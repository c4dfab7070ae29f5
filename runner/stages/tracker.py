"""Stage `tracker`: where runs are shown to people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from runner.stages.data import DatasetInfo


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a trial, or of a whole sweep, when it begins.

    Attributes:
        experiment: The spec's name.
        trial: The trial's folder name, or the sweep's name.
        fingerprint: By which the same run is found again.
        run_dir: The trial's folder, with plan and record; or the sweep's.
        parameters: The plan, flattened to dotted paths.
        chosen: The paths among them whose values are no defaults.
        dataset: What is trained and tested on.
        spec_file: The spec as the user wrote it.
        parent: The tracker's id of the sweep's run that the trial is shown under.
        tags: What sets it apart: its `seed`, and in a sweep its `group`, its `arm` and its number as `trial`.
        known_as: The tracker's id of it from an earlier launch, if there was one.
    """

    experiment: str
    trial: str
    fingerprint: str
    run_dir: Path
    parameters: Mapping[str, Any]
    dataset: DatasetInfo
    spec_file: Path
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    chosen: Collection[str] = ()
    known_as: str | None = None


class Tracker(Protocol):
    """Stage `tracker`: shows runs to people. Lives on the driver's side and is fed from `events.jsonl`."""

    def __init__(self, options: Any, storage: Path) -> None:
        """Take the section's options and the folder of all runs, for a store beside them.

        Raises:
            UnmetError: The store cannot be opened.
        """

    def start(self, run: TrackedRun) -> str:
        """Open the run, or the one begun earlier for the same folder, and return the tracker's id of it."""

    def deliver(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Pass on events in order; each figure and step at most once, whatever is delivered again.

        Events of the kind `metrics` hold figures by optimizer step, and results without a step; those of the kind
        `system` the use of the machine by seconds since the run was created.
        """

    def finish(self, status: Literal["finished", "failed", "interrupted", "pruned"]) -> None:
        """Send artifacts and set the final status."""

    def attach(self, run_id: str, file: Path, folder: str) -> None:
        """Add a file to a run that was started at any time, in place of an earlier one of its name.

        Args:
            run_id: The tracker's id of the run.
            file: What is added.
            folder: Under which it is shown; empty for none.
        """

    def fetch(self, experiment: str, into: Path) -> Sequence[Path]:
        """Bring an experiment's files here, so that its trials can be compared where their folders are not.

        Returns:
            A folder for each trial under `into`, and one for the sweep that they belong to, named as the folders that
            were tracked, with those of their files that the tracker has.
        """

    def link(self) -> str:
        """Where a person looks at the run: an address, or the command that opens it."""

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """The command that serves the tracker's pages, for `runner ui`."""
