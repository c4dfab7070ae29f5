"""Uploads what earlier launches could not send to the tracker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from runner.errors import RunnerError
from runner.plan import implement
from runner.secrets import without_passwords
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Tracker
from runner.status.process_registry import LaunchRecord, launch_records
from runner.status.status import FoundExperiment
from runner.status.sweep_folder import FOLDER, shown_value, sweep_as_told
from runner.tracking.run_sync import MISSES_IN_TURN, RunSync, UploadedElsewhereError
from runner.tracking.tracked_run import store_of, sweep_from_folder, trial_from_folder
from runner.trial.run_directory import RunDirectory
from runner.trial.run_trial import Status


@dataclass(frozen=True)
class SyncResult:
    """What came of one run.

    Attributes:
        experiment: Its experiment.
        name: Its folder's.
        status: How it ended; one that a launch left in the middle is interrupted.
        delivered: Whether the tracker lacked something, and has it now.
        events: How many lines of its log that were.
        run_id: The tracker's id of it.
        error: Why the tracker still lacks something.
    """

    experiment: str
    name: str
    status: Status
    delivered: bool = False
    events: int = 0
    run_id: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The run as `sync --json` lists it."""
        told = dict(vars(self))
        return {"mlflow_run_id": told.pop("run_id"), **told}


class StorageSync:
    """Goes through experiments and delivers what their trackers lack.

    Attributes:
        refused: Why an experiment was left alone, by its name.
    """

    def __init__(self, storage: Path) -> None:
        """Take the folder of all runs, absolute, for stores beside them."""
        self._storage = storage
        self._misses = 0
        self.refused: dict[str, str] = {}

    def experiment(self, found: FoundExperiment) -> Iterator[SyncResult]:
        """Deliver an experiment, or the trials of it that were named; one that a launch is still at is refused."""
        name = found.experiment.name
        launches = [note for note in launch_records(found.experiment) if note.alive]
        if launches:
            self.refused[name] = "; ".join(_still_at_it(note, name) for note in launches)
            return
        sweep = _SweepAt(found.experiment / FOLDER, self._storage)
        for path in found.trials:
            if self._away(name):
                return
            yield self._deliver(*self._trial(RunDirectory(path), sweep))
        if sweep.error is not None:
            yield SyncResult(name, FOLDER, sweep.status, error=sweep.error)
        # Last, as it was opened anew where a trial was to be shown under it.
        if sweep.feed is not None and not self._away(name):
            yield self._deliver(SyncResult(name, FOLDER, sweep.status), sweep.feed, {})

    def _away(self, name: str) -> bool:
        if self._misses >= MISSES_IN_TURN:
            self.refused[name] = "the tracker does not answer, and the rest was not tried"
        return self._misses >= MISSES_IN_TURN

    def _trial(self, run: RunDirectory, sweep: _SweepAt) -> tuple[SyncResult, RunSync | None, dict[str, float]]:
        told = SyncResult(run.path.parent.name, run.path.name, _status(run))
        entry = sweep.trials.get(run.path.name)
        try:
            spec, tracked = trial_from_folder(run, entry or {})
        except RunnerError as error:
            return SyncResult(told.experiment, told.name, told.status, error=str(error)), None, {}
        parent = None if entry is None else sweep.feed
        feed = RunSync(lambda: _tracker(spec, self._storage), tracked, parent, store_of(spec))
        return told, feed, shown_value((entry or {}).get("objective"))

    def _deliver(self, told: SyncResult, feed: RunSync | None, results: dict[str, float]) -> SyncResult:
        if feed is None:
            return told
        about = (told.experiment, told.name, told.status)
        if not feed.lacks(told.status):
            return SyncResult(*about, run_id=feed.run_id)
        try:
            events = feed.finish(told.status, results)
        except Exception as error:  # whatever a tracker raises is told, and the other runs are tried
            self._misses += not isinstance(error, UploadedElsewhereError)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return SyncResult(*about, run_id=feed.run_id, error=without_passwords(lines[0]))
        finally:
            feed.release()
        self._misses = 0
        return SyncResult(*about, delivered=True, events=events, run_id=feed.run_id)


class _SweepAt:
    """The sweep that lies in a folder, if one does."""

    def __init__(self, folder: Path, storage: Path) -> None:
        self.feed: RunSync | None = None
        self.error: str | None = None
        told = sweep_as_told(folder)
        self.trials: dict[str, dict[str, Any]] = {trial["name"]: trial for trial in told.get("trials", ())}
        self.status: Status = told["status"] if told.get("status") in get_args(Status) else "interrupted"
        if not (folder / "plan.json").exists():
            return
        try:
            spec, run = sweep_from_folder(folder)
        except RunnerError as error:
            self.error = str(error)
        else:
            self.feed = RunSync(lambda: _tracker(spec, storage), run, store=store_of(spec))


def _still_at_it(note: LaunchRecord, experiment: str) -> str:
    if note.here:
        return f"a launch is still at it (process {note.pid}), which delivers; `runner stop {experiment}` ends it"
    return f"a launch is still at it on {note.host}, as far as can be told here; if it is gone, remove {note.file}"


def _tracker(spec: ExperimentSpec, storage: Path) -> Tracker:
    made: Tracker = implement(spec.tracker, storage)
    return made


def _status(run: RunDirectory) -> Status:
    if run.finished("score"):
        return "finished"
    noted: Status = run.read_record().get("status", "interrupted")
    return noted if noted in get_args(Status) else "interrupted"
