"""Stage `tracker`: uploads runs to an experiment tracker."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from runner.stages.data_and_annotator import DatasetInfo
from runner.stages.options_and_reporter import Options


class TrackerOptions(Options):
    """The base class for the options of a tracker."""

    @property
    def stays_in_storage(self) -> bool:
        """Whether the tracker writes only into the folder of all runs, so that nothing leaves this folder.

        If not, `runner sync` and `runner compare` use the tracker only if the user names a spec that has it.
        """
        return False


@dataclass(frozen=True)
class TrackedRun:
    """The description of a trial, or of a whole sweep, for the tracker.

    Attributes:
        experiment: The spec's name.
        trial: The name of the trial's folder, or of the sweep.
        fingerprint: Identifies the run in later launches.
        run_dir: The folder of the trial, with plan and record; or the folder of the sweep.
        parameters: The plan, flattened to dotted paths.
        dataset: The data set of the experiment.
        spec_file: The spec as the user wrote it.
        parent: The tracker's id of the sweep's run, under which the trial is nested.
        tags: The trial's `seed` and, in a sweep, its `group`, its `arm` and its number as `trial`; of a sweep, its
            registered `claims` and their hash.
        non_default: The paths in `parameters` whose values differ from the defaults.
        existing_run_id: The tracker's id of the run from an earlier launch; None if there was none.
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
    non_default: Collection[str] = ()
    existing_run_id: str | None = None


class Tracker(Protocol):
    """Stage `tracker`: uploads runs. It runs in the driver, which passes on the events of `events.jsonl`."""

    def __init__(self, options: Any, storage: Path) -> None:
        """Create the tracker from the section's options.

        Args:
            options: The options.
            storage: The folder of all runs, where a local store can be placed.

        Raises:
            RequirementError: The store cannot be opened.
        """

    def start(self, run: TrackedRun) -> str:
        """Create the run, or reopen the one of an earlier launch for the same folder, and return its id."""

    def log_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Log events in order. If events are passed again, each metric and step is logged only once.

        Events of the kind `metrics` contain metrics by optimizer step, and results without a step. Events of the kind
        `system` contain the resource usage by seconds since the run was created.
        """

    def finish(self, status: Literal["finished", "failed", "interrupted", "pruned"]) -> None:
        """Upload artifacts and set the final status."""

    def find_run(self, run_id: str) -> Literal["present", "deleted", "missing"]:
        """Look up a run that `start` has returned earlier, perhaps in another process.

        Returns:
            `deleted` if a user has deleted the run and can restore it; `missing` if the tracker does not know it.
        """

    def log_file(self, run_id: str, file: Path, folder: str) -> None:
        """Add a file to an existing run, replacing an earlier file of the same name.

        Args:
            run_id: The tracker's id of the run.
            file: The file to upload.
            folder: The artifact folder; empty for the top level.
        """

    def download_runs(self, experiment: str, into: Path) -> Sequence[Path]:
        """Download the files of an experiment, to compare its trials on a machine without their folders.

        Returns:
            A folder under `into` for each trial and one for their sweep, with the names of the original folders and the
            files that the tracker has.
        """

    def link(self) -> str:
        """Return where to view the run: a URL, or the command that opens it."""

    def serve_command(self, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> Sequence[str]:
        """Return the command that serves the tracker's web interface, for `runner ui`.

        Args:
            host: The network address on which to serve.
            port: The port.
            allowed_hosts: Further names of this machine that browsers may use in addresses.
        """

    def pages_path(self) -> str:
        """Return the path of the first page of the web interface, such as `#/experiments`."""


@dataclass(frozen=True)
class StoreDescription:
    """What a tracker has opened.

    Attributes:
        text: The store, with the versions of its software and of the tracker's client.
        warning: What may not work between these versions; empty if nothing is known.
    """

    text: str
    warning: str = ""


@runtime_checkable
class DescribesStore(Protocol):
    """Optional for a tracker: says what it has opened, for `runner doctor`."""

    def describe_store(self) -> StoreDescription:
        """Describe the store that was opened.

        Raises:
            RequirementError: The store does not answer.
        """
