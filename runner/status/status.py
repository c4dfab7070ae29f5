"""Status of experiments and trials, read from their folders without a lock; stops running launches and trials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from runner.errors import DataError, RequirementError, SpecError
from runner.files import unreadable_message
from runner.stages.registry import suggestion
from runner.status.remaining_time import (
    TrialTime,
    estimate_remaining,
    estimate_trial,
    event_time,
    since_last_start,
    step_durations,
)
from runner.status.running_launches import LaunchRecord, damaged_launch_records, launch_records
from runner.sweep.sweep_folder import SWEEP_FOLDER, read_sweep
from runner.trial.run_directory_and_events import Event, EventTail, RunDirectory

RUNNING, WAITING, LOST = "running", "waiting", "lost"
"""States of an unfinished trial: it has written events; it has written none yet; its launch no longer exists."""
DAMAGED = "damaged"
"""The state of a trial of which a file is damaged or cannot be read; its error says which, and what to do."""

TAIL_BYTES = 1_000_000
"""How much of a long log is read, from its end. That is some thousand steps, enough for the last of most metrics."""

TRAIN_STATE = b'"step": "train", "state": "'
"""How the log's events of the training's states read, up to the state."""
GPU_UTILIZATION = re.compile(r"gpu_\d+_utilization_percentage")
"""Metrics of the usage events that hold the utilization of a GPU; see `runner.trial.run_trial`."""


@dataclass(frozen=True)
class TrialStatus:
    """The status of a trial.

    Attributes:
        name: The name of its folder.
        status: `finished`, `failed`, `interrupted`, `pruned`, or one of the states above.
        stage: The step that reported progress last.
        done: How much of that step is done.
        total: The total amount of that step.
        metrics: The last value of each metric while it runs, then its results.
        age: Seconds since its last event; None if it has written none yet.
        error: The error message of a failed trial, or of a damaged file.
        run_dir: Its folder.
        eta_seconds: Estimated seconds until that step is complete; None if unknown or if the trial does not run.
        trial_eta: Estimated time until the trial ends; None if unknown or if the trial does not run.
        resumed_from_step: The optimizer step of the checkpoint that the running training continued from; None if it
            began from nothing, if that is unknown, or if the trial does not train now.
        gpu_utilization: Mean utilization of the trial's GPUs in percent, from the last sample of the running step;
            None if GPUs were not sampled or if the trial does not run.
    """

    name: str
    status: str
    stage: str | None
    done: int | None
    total: int | None
    metrics: Mapping[str, float | None]
    age: float | None
    error: str | None
    run_dir: Path
    eta_seconds: float | None = None
    trial_eta: TrialTime | None = None
    resumed_from_step: int | None = None
    gpu_utilization: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The trial as docs/interface.md's `status --json` lists it."""
        content = {**vars(self), "metrics": dict(self.metrics), "run_dir": str(self.run_dir)}
        trial_eta: TrialTime | None = content.pop("trial_eta")
        return {
            **content,
            "trial_eta_seconds": trial_eta.seconds if trial_eta else None,
            "trial_eta_without": list(trial_eta.unknown_steps) if trial_eta else [],
        }


@dataclass(frozen=True)
class ExperimentStatus:
    """The status of an experiment: its trials, and the launches that run them.

    Attributes:
        name: The experiment's name.
        folder: Its folder.
        trials: The status of each selected trial.
        launches: The running launches.
        best: For a sweep with an objective: `metric`, `mode`, `value`, and the `parameters` and `trials` of the best.
        problems: Damaged or unreadable files of the experiment that belong to no trial, each with what to do.
    """

    name: str
    folder: Path
    trials: Sequence[TrialStatus]
    launches: Sequence[LaunchRecord]
    best: Mapping[str, Any] | None
    problems: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """The experiment as docs/interface.md's `status --json` lists it."""
        launches = [
            {"host": launch.host, "pid": launch.pid, "job": launch.job, "started": launch.started}
            for launch in self.launches
        ]
        return {
            "experiment": self.name,
            "folder": str(self.folder),
            "launches": launches,
            "best": self.best,
            "problems": list(self.problems),
            "trials": [trial.as_json() for trial in self.trials],
        }


@dataclass(frozen=True)
class ExperimentSelection:
    """What a name refers to: an experiment's folder, and some or all of its trials.

    Attributes:
        experiment: The experiment's folder.
        trials: The folders of the selected trials.
        is_whole: Whether the name is the experiment's, not that of one of its trials.
    """

    experiment: Path
    trials: Sequence[Path]
    is_whole: bool


def find_experiments(names: Sequence[str], storage: Path) -> list[ExperimentSelection]:
    """Find experiments and trials by name.

    Args:
        names: A folder, or an experiment or a trial by the beginning of its name, such as `tiny_mmre`, `tiny`,
            `trial-aa10`, `aa10` or `tiny_mmre/trial-aa10`. No name at all selects every experiment.
        storage: The folder of all runs.

    Raises:
        SpecError: A name matches nothing, or several experiments or trials; those are listed.
    """
    if not names:
        return [_select_all(folder) for folder in list_experiments(storage)]
    return [_find(name, storage) for name in names]


def find_trial(name: str, storage: Path) -> Path:
    """Find one trial by its name, or by that of an experiment with a single trial; see `find_experiments`."""
    selection = _find(name, storage)
    if len(selection.trials) != 1:
        raise SpecError(f"{name} has {len(selection.trials)} trials; name one: {_join_names(selection.trials)}")
    return selection.trials[0]


def _find(name: str, storage: Path) -> ExperimentSelection:
    for path in (Path(name), storage / name):
        if path.is_dir() and _is_trial(path.resolve()):
            return ExperimentSelection(path.resolve().parent, [path.resolve()], is_whole=False)
        if path.is_dir() and _trials(path):
            return _select_all(path.resolve())
    folders = list_experiments(storage)
    begun = [folder for folder in folders if folder.name.startswith(name)]
    experiment, _, prefix = name.rpartition("/")
    trials = [
        trial
        for folder in folders
        if folder.name.startswith(experiment)
        for trial in _readable_trials(folder)
        if trial.name.startswith((prefix, f"trial-{prefix}"))
    ]
    if len(begun) == 1 and not trials:
        return _select_all(begun[0])
    if len(trials) == 1 and not begun:
        return ExperimentSelection(trials[0].parent, trials, is_whole=False)
    if begun:
        # `runner stop` must not stop the wrong ones, so that a name for an experiment and for a trial is refused too.
        names = ", ".join([*(folder.name for folder in begun), *([_join_names(trials)] if trials else [])])
        number = f"{len(begun)} experiment(s) and {len(trials)} trial(s)" if trials else f"{len(begun)} experiments"
        raise SpecError(f"{name!r} matches {number}; write more of the name: {names}")
    if trials:
        raise SpecError(f"{name!r} matches {len(trials)} trials; write more of the name: {_join_names(trials)}")
    known = [folder.name for folder in folders]
    raise SpecError(
        f"no experiment and no trial {name!r} in {storage}{suggestion(name, known) if known else ': it is empty'}"
    )


def _join_names(trials: Sequence[Path]) -> str:
    return ", ".join(f"{trial.parent.name}/{trial.name}" for trial in trials)


def _select_all(folder: Path) -> ExperimentSelection:
    return ExperimentSelection(folder, _readable_trials(folder), is_whole=True)


def list_experiments(storage: Path) -> list[Path]:
    """List the folders of experiments under the folder of all runs.

    These are the folders that hold trials, and those that this user may not read; see `experiment_problem`.
    """
    folders = sorted(storage.iterdir()) if storage.is_dir() else []
    return [
        folder
        for folder in folders
        if folder.is_dir()
        and (_readable_trials(folder) or (experiment_problem(folder) and not folder.name.startswith(".")))
    ]


def experiment_problem(folder: Path) -> str | None:
    """Say that this user may not read the folder of an experiment; None if the folder can be read."""
    try:
        _trials(folder)
    except PermissionError as error:
        return unreadable_message(error)
    return None


def _trials(folder: Path) -> list[Path]:
    # `glob` would pass over unreadable folders without an error.
    return sorted(entry for entry in folder.iterdir() if _is_trial(entry))


def _readable_trials(folder: Path) -> list[Path]:
    try:
        return _trials(folder)
    except PermissionError:
        return []


def _is_trial(folder: Path) -> bool:
    """Whether a folder is a trial's. One that this user may not read counts too, so that a command can name it."""
    if not folder.name.startswith("trial-"):
        return False
    try:
        (folder / "plan.json").stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def experiment_status(selection: ExperimentSelection) -> ExperimentStatus:
    """Read the status of an experiment, or of some of its trials."""
    folder = selection.experiment
    if problem := experiment_problem(folder):
        return ExperimentStatus(folder.name, folder, [], [], None, [problem])
    launches = [launch for launch in launch_records(folder) if launch.is_alive]
    # Only a running trial has an estimate, and only a launch runs trials.
    durations = step_durations(_readable_records(folder)) if launches else {}
    trials = [trial_status(trial, durations, is_launched=bool(launches)) for trial in selection.trials]
    best, problems = None, damaged_launch_records(folder)
    try:
        best = _best(folder)
    except DataError as error:
        problems.append(str(error))
    return ExperimentStatus(folder.name, folder, trials, launches, best, problems)


def _best(experiment: Path) -> dict[str, Any] | None:
    """The best point of a sweep so far, by the mean objective of the trials that differ only in their seed."""
    sweep = read_sweep(experiment / SWEEP_FOLDER)
    objective = sweep.get("objective")
    groups: dict[str, list[dict[str, Any]]] = {}
    for trial in sweep.get("trials", ()):
        if trial.get("status") == "finished" and trial.get("objective") is not None:
            groups.setdefault(trial["group"], []).append(trial)
    if not objective or not groups:
        return None
    means = {group: fmean(trial["objective"] for trial in trials) for group, trials in groups.items()}
    best = (min if objective["mode"] == "min" else max)(means, key=lambda group: means[group])
    names = [trial["name"] for trial in groups[best]]
    return {**objective, "value": means[best], "parameters": groups[best][0]["parameters"], "trials": names}


def _readable_records(experiment: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of all trials; `trial_status` reports one that is damaged or cannot be read."""
    for trial in _trials(experiment):
        with suppress(DataError, PermissionError):
            yield RunDirectory(trial).read_record()


def trial_status(folder: Path, durations: Mapping[str, float], *, is_launched: bool) -> TrialStatus:
    """Read the status of a trial.

    Args:
        folder: Its run directory.
        durations: How long the steps of the experiment's trials take, in seconds; see `step_durations`.
        is_launched: Whether a launch of its experiment runs.
    """
    run = RunDirectory(folder)
    events: list[Event] = []
    record, results, damage = dict[str, Any](), dict[str, float | None](), None
    try:
        events = _last_events(run.events)
        record, results = run.read_record(), run.read_metrics()
    except DataError as error:
        damage = str(error)
    except PermissionError as error:
        damage = unreadable_message(error)
    progress = next((event for event in reversed(events) if event["kind"] == "progress"), None)
    status = DAMAGED if damage else str(record.get("status", RUNNING))
    if status == RUNNING:
        status = (RUNNING if events else WAITING) if is_launched else LOST
    is_running = status == RUNNING
    errors = [step["error"] for step in record.get("steps", {}).values() if "error" in step]
    return TrialStatus(
        folder.name,
        status,
        stage=progress["stage"] if progress else None,
        done=progress["done"] if progress else None,
        total=progress["total"] if progress else None,
        metrics=results or _last_metrics(events),
        # Usage is sampled even while a trial is stuck, so that it says nothing of the trial's activity.
        age=_age([event for event in events if event["kind"] != "system"]),
        error=damage or (errors[-1] if errors and status == "failed" else None),
        run_dir=folder,
        eta_seconds=estimate_remaining(events) if is_running else None,
        trial_eta=estimate_trial(events, durations) if is_running else None,
        resumed_from_step=find_resumed_step(run.events) if is_running else None,
        gpu_utilization=_gpu_utilization(events) if is_running else None,
    )


def _last_events(log: Path) -> list[Event]:
    size = log.stat().st_size if log.exists() else 0
    # Reading starts within a line, which is no JSON then and is skipped.
    return list(EventTail(log, max(0, size - TAIL_BYTES)).read())


def _last_metrics(events: Sequence[Event]) -> dict[str, float | None]:
    last: dict[str, float | None] = {}
    for event in events:
        if event["kind"] == "metrics":
            last.update(event["values"])
    return last


def _age(events: Sequence[Event]) -> float | None:
    if not events:
        return None
    return max(0.0, round((datetime.now(UTC) - event_time(events[-1])).total_seconds(), 1))


def find_resumed_step(log: Path) -> int | None:
    """Find the optimizer step that the running training resumed from.

    A trainer reports the metrics of each optimizer step, so that the first such event after the training's start
    belongs to the step after the checkpoint.

    Returns:
        The step; None if the training began from nothing, has reported no step yet, or is not running.
    """
    content = log.read_bytes()
    start = content.rfind(TRAIN_STATE)
    if start < 0 or not content.startswith(b'started"', start + len(TRAIN_STATE)):
        return None
    # The start's own line is cut, and therefore skipped.
    for event in EventTail(log, start).read():
        # Results have no step, and the metrics of the checks before the training have step 0.
        if event["kind"] != "metrics" or not event["step"]:
            continue
        if any(name.startswith("train/") for name in event["values"]):
            return int(event["step"]) - 1 or None
    return None


def _gpu_utilization(events: Sequence[Event]) -> float | None:
    samples = [event["values"] for event in since_last_start(events) if event["kind"] == "system"]
    if not samples:
        return None
    values = [value for name, value in samples[-1].items() if GPU_UTILIZATION.fullmatch(name)]
    return round(fmean(values), 1) if values else None


def stop(name: str, storage: Path, *, now: bool) -> list[str]:
    """Stop a launch or a trial.

    Args:
        name: A job, or a name as for `find_experiments`.
        storage: The folder of all runs.
        now: Whether to stop without saving.

    Returns:
        What was done, one line per launch or trial.

    Raises:
        SpecError: Nothing has this name.
        RequirementError: It does not run, or runs on another machine.
    """
    records = [record for folder in list_experiments(storage) for record in launch_records(folder)]
    launches = [record for record in records if record.job == name]
    if not launches:
        [selection] = find_experiments([name], storage)
        if not selection.is_whole:
            return [_stop_trial(selection, now=now)]
        launches = launch_records(selection.experiment)
    alive = [launch for launch in launches if launch.is_alive]
    if not alive:
        raise RequirementError(f"no launch of {name} is running")
    return [_stop_launch(launch, now=now) for launch in alive]


def _stop_launch(launch: LaunchRecord, *, now: bool) -> str:
    launch.stop(now=now)
    description = f"the launch of {launch.file.parent.name} (process {launch.pid})"
    return f"{description} was ended" if now else f"{description} was asked to stop: its trials save and end"


def _stop_trial(selection: ExperimentSelection, *, now: bool) -> str:
    [folder] = selection.trials
    is_launched = any(launch.is_alive for launch in launch_records(selection.experiment))
    status = trial_status(folder, {}, is_launched=is_launched).status
    if status not in {RUNNING, WAITING}:
        raise RequirementError(f"{folder.name} is not running: it is {status}")
    if now:
        raise RequirementError(
            "a single trial cannot be stopped without saving: omit --now, or stop the whole launch with "
            f"`runner stop {selection.experiment.name} --now`"
        )
    RunDirectory(folder).stop_request.touch()
    return f"{folder.name} was asked to stop: it saves and ends"
