"""Uploads results that earlier launches could not send to the tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from runner.errors import DataError, RunnerError
from runner.files import check_is_file, unreadable_message
from runner.redaction import redact_passwords
from runner.resolved_plan import read_plan
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import DatasetInfo, TrackedRun
from runner.status.running_launches import LaunchRecord, damaged_launch_records, launch_records
from runner.status.status import ExperimentSelection, experiment_problem
from runner.sweep.sweep_folder import SWEEP_FOLDER, read_sweep
from runner.tracking.destination import Destination, OtherStoreError
from runner.tracking.run_description import tracked_sweep, tracked_trial, tracker_identity
from runner.tracking.uploader import (
    MAX_CONSECUTIVE_FAILURES,
    DeletedRunError,
    RunSync,
    UploadedElsewhereError,
    describe_tracker_error,
)
from runner.trial.run_directory_and_events import RunDirectory, objective_metric
from runner.trial.run_trial import Status


@dataclass(frozen=True)
class SyncResult:
    """The result of uploading one run.

    Attributes:
        experiment: The name of its experiment.
        name: The name of its folder.
        status: How it ended; a run whose launch was killed counts as interrupted.
        delivered: Whether something was missing and has been uploaded.
        events: How many events were uploaded.
        run_id: The tracker's id of the run.
        error: Why the tracker still lacks something; None if it has everything.
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
        fields = dict(vars(self))
        return {"mlflow_run_id": fields.pop("run_id"), **fields}


class StorageSync:
    """Uploads what the trackers of experiments lack.

    Attributes:
        refused: Why an experiment was skipped, by its name.
    """

    def __init__(self, destination: Destination) -> None:
        """Set the tracker that results may be sent to."""
        self._destination = destination
        self._num_failures = 0
        self.refused: dict[str, str] = {}

    def sync_experiment(self, selection: ExperimentSelection) -> Iterator[SyncResult]:
        """Upload an experiment, or the selected trials of it; one that a launch still runs is refused."""
        name = selection.experiment.name
        launches = [launch for launch in launch_records(selection.experiment) if launch.is_alive]
        if launches:
            self.refused[name] = "; ".join(_describe_running(launch, name) for launch in launches)
            return
        if problem := experiment_problem(selection.experiment):
            self.refused[name] = problem
            return
        if damaged := damaged_launch_records(selection.experiment):
            self.refused[name] = "; ".join(damaged)
            return
        sweep = _SweepSync(selection.experiment / SWEEP_FOLDER, self._destination)
        for path in selection.trials:
            if self._refuse_if_unreachable(name):
                return
            yield self._sync_trial(RunDirectory(path), sweep)
        if sweep.error is not None:
            yield SyncResult(name, SWEEP_FOLDER, sweep.status, error=sweep.error)
        # The sweep comes last, since it is opened again for each of its trials.
        if sweep.sync is not None and not self._refuse_if_unreachable(name):
            yield self._upload(SyncResult(name, SWEEP_FOLDER, sweep.status), sweep.sync, {})

    def _refuse_if_unreachable(self, name: str) -> bool:
        """Whether the tracker counts as unreachable; if so, the experiment is refused."""
        is_unreachable = self._num_failures >= MAX_CONSECUTIVE_FAILURES
        if is_unreachable:
            self.refused[name] = "the tracker does not answer; the remaining runs were not tried"
        return is_unreachable

    def _sync_trial(self, run: RunDirectory, sweep: _SweepSync) -> SyncResult:
        result = SyncResult(run.path.parent.name, run.path.name, "interrupted")
        entry = sweep.trials.get(run.path.name)
        try:
            result = replace(result, status=_status(run))
            spec, tracked = trial_from_folder(run, entry or {})
        except RunnerError as error:
            return SyncResult(result.experiment, result.name, result.status, error=str(error))
        except PermissionError as error:
            return SyncResult(result.experiment, result.name, result.status, error=unreadable_message(error))
        parent = None if entry is None else sweep.sync
        sync = _run_sync(spec, tracked, self._destination, parent)
        return self._upload(result, sync, objective_metric((entry or {}).get("objective")))

    def _upload(self, result: SyncResult, sync: RunSync, results: dict[str, float]) -> SyncResult:
        identity = (result.experiment, result.name, result.status)
        try:
            if not sync.needs_upload(result.status):
                with suppress(OtherStoreError):  # It has everything, as far as is known here.
                    sync.look_up()
            if not sync.needs_upload(result.status):
                return SyncResult(*identity, run_id=sync.run_id)
            num_events = sync.finish(result.status, results)
        except Exception as error:  # whatever a tracker raises is reported, and the other runs are tried
            self._num_failures += not isinstance(error, UploadedElsewhereError | DeletedRunError | OtherStoreError)
            message = redact_passwords(str(error)) if isinstance(error, RunnerError) else describe_tracker_error(error)
            return SyncResult(*identity, run_id=sync.run_id, error=message)
        finally:
            sync.release()
        self._num_failures = 0
        return SyncResult(*identity, delivered=True, events=num_events, run_id=sync.run_id)


class _SweepSync:
    """The sweep of a folder, if there is one: its trials, its status, and its sync or why there is none."""

    def __init__(self, folder: Path, destination: Destination) -> None:
        self.sync: RunSync | None = None
        self.error: str | None = None
        sweep: dict[str, Any] = {}
        try:
            sweep = read_sweep(folder)
        except DataError as error:
            self.error = str(error)
        self.trials: dict[str, dict[str, Any]] = {trial["name"]: trial for trial in sweep.get("trials", ())}
        self.status: Status = sweep["status"] if sweep.get("status") in get_args(Status) else "interrupted"
        if self.error is not None or not (folder / "plan.json").exists():
            return
        try:
            spec, run = sweep_from_folder(folder)
        except RunnerError as error:
            self.error = str(error)
        else:
            self.sync = _run_sync(spec, run, destination)


def _describe_running(launch: LaunchRecord, experiment: str) -> str:
    if launch.is_local:
        return f"a launch is running (process {launch.pid}) and uploads itself; `runner stop {experiment}` ends it"
    return (
        f"a launch on {launch.host} may still be running, which cannot be checked from here; if it has ended, remove "
        f"{launch.file}"
    )


def _run_sync(
    spec: ExperimentSpec, run: TrackedRun, destination: Destination, parent: RunSync | None = None
) -> RunSync:
    identity = tracker_identity(destination.section(spec.tracker))
    return RunSync(lambda: destination.open(spec.tracker), run, parent, identity)


def _status(run: RunDirectory) -> Status:
    if run.is_finished("score"):
        return "finished"
    recorded: Status = run.read_record().get("status", "interrupted")
    return recorded if recorded in get_args(Status) else "interrupted"


def trial_from_folder(run: RunDirectory, entry: Mapping[str, Any]) -> tuple[ExperimentSpec, TrackedRun]:
    """Read the description of a trial from its folder.

    Args:
        run: The trial's folder.
        entry: Its entry in the `sweep.json` of its sweep; empty outside of a sweep.

    Raises:
        DataError: The folder has no plan that this version can read.
    """
    spec = _plan(run.plan)
    names = {"group": "group", "arm": "arm", "number": "trial"}
    tags = {tag: str(entry[name]) for name, tag in names.items() if entry.get(name) not in (None, "")}
    return spec, tracked_trial(spec, _dataset(run.read_record().get("dataset"), spec), run, tags)


def sweep_from_folder(folder: Path) -> tuple[ExperimentSpec, TrackedRun]:
    """Read the description of a sweep from its folder; see `trial_from_folder`."""
    spec = _plan(folder / "plan.json")
    return spec, tracked_sweep(spec, _dataset(read_sweep(folder).get("dataset"), spec), folder)


def _plan(file: Path) -> ExperimentSpec:
    check_is_file(file, "Launch the spec again")
    try:
        spec = read_plan(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, TypeError, AttributeError) as error:  # the last two: no JSON object
        raise DataError(f"{file} cannot be read: {error}") from error
    if spec.pinned is None:
        raise DataError(f"{file} is not the plan of a run: it must contain `pinned`. Restore the file from a copy")
    return spec


def _dataset(recorded: Mapping[str, Any] | None, spec: ExperimentSpec) -> DatasetInfo:
    """The data set as the launch recorded it; what the plan says about it if the launch was killed before."""
    if recorded is None:
        assert spec.pinned is not None, "a plan is pinned"
        return DatasetInfo(spec.data.type, "", spec.pinned.data, (), {})
    try:
        return DatasetInfo(
            recorded["name"],
            recorded["location"],
            recorded["fingerprint"],
            tuple(recorded["labels"]),
            recorded["num_samples"],
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"the recorded data set is damaged ({type(error).__name__}: {error})") from error
