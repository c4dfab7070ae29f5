"""Status of experiments and trials, read from their folders without a lock; stops what runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from runner.errors import RequirementError, SpecError
from runner.plan import OUTSIDE_PLUGINS, flatten
from runner.stages.registry import nearest
from runner.status.process_registry import LaunchRecord, launch_records
from runner.status.sweep_folder import FOLDER, sweep_as_told
from runner.trial.events import Event, EventTail
from runner.trial.run_directory import RunDirectory

RUNNING, WAITING, LOST = "running", "waiting", "lost"
"""A trial that is not at its end: it tells something; it has been begun and told nothing yet; its launch is gone."""

TAIL_BYTES = 1_000_000
"""Of a long log, as much of its end is read: some thousand steps, so the last of each metric is most likely in it."""


@dataclass(frozen=True)
class TrialStatus:
    """How a trial stands.

    Attributes:
        name: Its folder's.
        status: `finished`, `failed`, `interrupted`, `pruned`, or one of those above.
        stage: The step that it told of last.
        done: How far that step is.
        total: Of how much.
        metrics: The last of each metric while it runs, then its results.
        age: Seconds since it last told anything; None where it told nothing yet.
        error: What went wrong, in its own words.
        run_dir: Its folder.
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

    def as_json(self) -> dict[str, Any]:
        """The trial as docs/interface.md's `status --json` lists it."""
        return {**vars(self), "metrics": dict(self.metrics), "run_dir": str(self.run_dir)}


@dataclass(frozen=True)
class ExperimentStatus:
    """How an experiment stands: its trials, and the launches that are at it."""

    name: str
    folder: Path
    trials: Sequence[TrialStatus]
    launches: Sequence[LaunchRecord]
    best: Mapping[str, Any] | None
    """Of a sweep with an objective: `metric`, `mode`, `value`, and the `parameters` and `trials` that reached it."""

    def as_json(self) -> dict[str, Any]:
        """The experiment as docs/interface.md's `status --json` lists it."""
        launches = [
            {"host": each.host, "pid": each.pid, "job": each.job, "started": each.started} for each in self.launches
        ]
        return {
            "experiment": self.name,
            "folder": str(self.folder),
            "launches": launches,
            "best": self.best,
            "trials": [trial.as_json() for trial in self.trials],
        }


@dataclass(frozen=True)
class FoundExperiment:
    """What a name stands for: an experiment's folder, and which of its trials."""

    experiment: Path
    trials: Sequence[Path]
    whole: bool
    """Whether the experiment was named, and not a trial of it."""


def find(names: Sequence[str], storage: Path) -> list[FoundExperiment]:
    """Find what is named: an experiment, or a trial by the beginning of its name, or either by its folder.

    Args:
        names: Such as `tiny_mmre`, `trial-aa10`, `aa10`, `tiny_mmre/trial-aa10`; none of them means everything.
        storage: The folder of all runs.

    Raises:
        SpecError: There is nothing of a name, or more than one; the latter are listed.
    """
    if not names:
        return [_whole(folder) for folder in experiments(storage)]
    return [_find(name, storage) for name in names]


def find_trial(name: str, storage: Path) -> Path:
    """Find one trial; an experiment that has one trial alone stands for it. See `find`."""
    found = _find(name, storage)
    if len(found.trials) != 1:
        raise SpecError(f"{name} has {len(found.trials)} trials; name one: {_listed(found.trials)}")
    return found.trials[0]


def _find(name: str, storage: Path) -> FoundExperiment:
    for path in (Path(name), storage / name):
        if path.is_dir() and path.resolve() in _trials(path.resolve().parent):
            return FoundExperiment(path.resolve().parent, [path.resolve()], whole=False)
        if path.is_dir() and _trials(path):
            return _whole(path.resolve())
    folders = experiments(storage)
    experiment, _, beginning = name.rpartition("/")
    trials = [
        trial
        for folder in folders
        if folder.name.startswith(experiment)
        for trial in _trials(folder)
        if trial.name.startswith((beginning, f"trial-{beginning}"))
    ]
    if len(trials) == 1:
        return FoundExperiment(trials[0].parent, trials, whole=False)
    if trials:
        raise SpecError(f"{name!r} can be {len(trials)} trials; write more of one's name: {_listed(trials)}")
    known = [folder.name for folder in folders]
    raise SpecError(
        f"no experiment and no trial {name!r} in {storage}{nearest(name, known) if known else ': it is empty'}"
    )


def _listed(trials: Sequence[Path]) -> str:
    return ", ".join(f"{trial.parent.name}/{trial.name}" for trial in trials)


def _whole(folder: Path) -> FoundExperiment:
    return FoundExperiment(folder, _trials(folder), whole=True)


def experiments(storage: Path) -> list[Path]:
    """The folders under the folder of all runs that hold trials."""
    folders = sorted(storage.iterdir()) if storage.is_dir() else []
    return [folder for folder in folders if folder.is_dir() and _trials(folder)]


def _trials(folder: Path) -> list[Path]:
    return sorted(plan.parent for plan in folder.glob("trial-*/plan.json"))


def experiment_status(found: FoundExperiment) -> ExperimentStatus:
    """Read how an experiment, or some trials of it, stand."""
    launches = [note for note in launch_records(found.experiment) if note.alive]
    trials = [trial_status(trial, launched=bool(launches)) for trial in found.trials]
    return ExperimentStatus(found.experiment.name, found.experiment, trials, launches, _best(found.experiment))


def _best(experiment: Path) -> dict[str, Any] | None:
    """The best of a sweep so far: by the mean of the trials that differ in their seed alone."""
    sweep = sweep_as_told(experiment / FOLDER)
    objective = sweep.get("objective")
    groups: dict[str, list[dict[str, Any]]] = {}
    for trial in sweep.get("trials", ()):
        if trial.get("status") == "finished" and trial.get("objective") is not None:
            groups.setdefault(trial["group"], []).append(trial)
    if not objective or not groups:
        return None
    means = {group: fmean(trial["objective"] for trial in trials) for group, trials in groups.items()}
    group = (min if objective["mode"] == "min" else max)(means, key=lambda each: means[each])
    names = [trial["name"] for trial in groups[group]]
    return {**objective, "value": means[group], "parameters": groups[group][0]["parameters"], "trials": names}


def trial_status(folder: Path, *, launched: bool) -> TrialStatus:
    """Read how a trial stands; `launched` tells whether some launch is at its experiment."""
    run = RunDirectory(folder)
    record = run.read_record()
    events = _last_events(run.events)
    progress = next((event for event in reversed(events) if event["kind"] == "progress"), None)
    status = str(record.get("status", RUNNING))
    if status == RUNNING:
        status = (RUNNING if events else WAITING) if launched else LOST
    errors = [step["error"] for step in record.get("steps", {}).values() if "error" in step]
    return TrialStatus(
        folder.name,
        status,
        stage=progress["stage"] if progress else None,
        done=progress["done"] if progress else None,
        total=progress["total"] if progress else None,
        metrics=run.read_metrics() or _last_metrics(events),
        # A machine goes on being used where a trial is stuck.
        age=_age([event for event in events if event["kind"] != "system"]),
        error=errors[-1] if errors and status == "failed" else None,
        run_dir=folder,
    )


def _last_events(log: Path) -> list[Event]:
    size = log.stat().st_size if log.exists() else 0
    # The line that the reading falls into is no JSON, and passed over.
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
    told = datetime.fromisoformat(events[-1]["time"])
    return max(0.0, round((datetime.now(UTC) - told).total_seconds(), 1))


def stop(name: str, storage: Path, *, now: bool) -> list[str]:
    """Stop what is named.

    Args:
        name: A job, or what `find` takes.
        storage: The folder of all runs.
        now: Without saving first.

    Returns:
        What was done, a line each.

    Raises:
        SpecError: There is nothing of that name.
        UnmetError: It does not run, or not here.
    """
    launches = [note for folder in experiments(storage) for note in launch_records(folder) if note.job == name]
    if not launches:
        [found] = find([name], storage)
        if not found.whole:
            return [_stop_trial(found, now=now)]
        launches = launch_records(found.experiment)
    alive = [note for note in launches if note.alive]
    if not alive:
        raise RequirementError(f"no launch of {name} runs")
    return [_stop_launch(note, now=now) for note in alive]


def _stop_launch(note: LaunchRecord, *, now: bool) -> str:
    note.stop(now=now)
    what = f"the launch of {note.file.parent.name} (process {note.pid})"
    return f"{what} was ended" if now else f"{what} was asked to stop: its trials save and end"


def _stop_trial(found: FoundExperiment, *, now: bool) -> str:
    [folder] = found.trials
    launches: Sequence[LaunchRecord] = [note for note in launch_records(found.experiment) if note.alive]
    status = trial_status(folder, launched=bool(launches)).status
    if status not in {RUNNING, WAITING}:
        raise RequirementError(f"{folder.name} does not run: it is {status}")
    if now:
        raise RequirementError(
            f"one trial is not ended without saving: leave --now out, or end all of the launch with "
            f"`runner stop {found.experiment.name} --now`"
        )
    RunDirectory(folder).stop_request.touch()
    return f"{folder.name} was asked to stop: it saves and ends"


SEED = "seed"
FINISHED = "finished"


def result_rows(names: Sequence[str], storage: Path) -> list[dict[str, Any]]:
    """List trials, those of a sweep in its order.

    Args:
        names: Experiments and trials, as `runner.status.status.find` takes them; none of them means everything.
        storage: The folder of all runs.

    Returns:
        For each `experiment`, `trial`, `arm` and `group` (None outside of a sweep), `seed`, `status`, the options in
        which the trials differ by dotted path, the metrics of those that are finished, `fingerprint` and `run_dir`.
        All rows have the same keys; None where a trial has no such option or figure. A list is a tuple.

    Raises:
        SpecError: There is nothing of a name, or more than one.
    """
    found = [
        row for each in find(names, storage) for row in _of_experiment(each.experiment, experiment_status(each).trials)
    ]
    options = _differing([row.options for row in found])
    figures = list(dict.fromkeys(name for row in found for name in row.metrics))
    return [
        {
            **row.placement,
            **{path: row.options.get(path) for path in options},
            **{name: row.metrics.get(name) for name in figures},
            **row.origin,
        }
        for row in found
    ]


class _Row(NamedTuple):
    """A trial: how it stands and where it belongs, what it was told, what came out, and where that is from."""

    placement: dict[str, Any]
    options: dict[str, Any]
    metrics: Mapping[str, float | None]
    origin: dict[str, Any]


def _of_experiment(experiment: Path, trials: Sequence[TrialStatus]) -> Iterator[_Row]:
    swept = {each["name"]: each for each in sweep_as_told(experiment / FOLDER).get("trials", ())}
    order = {name: place for place, name in enumerate(swept)}
    for trial in sorted(trials, key=lambda each: order.get(each.name, len(order))):
        run = RunDirectory(trial.run_dir)
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        of_sweep = swept.get(trial.name, {})
        yield _Row(
            placement={
                "experiment": experiment.name,
                "trial": trial.name,
                "arm": of_sweep.get("arm") or None,
                "group": of_sweep.get("group") or None,
                "seed": plan[SEED],
                "status": trial.status,
            },
            options=_options(plan),
            metrics=run.read_metrics() if trial.status == FINISHED else {},
            origin={"fingerprint": plan["pinned"]["fingerprint"], "run_dir": str(trial.run_dir.resolve())},
        )


def _options(plan: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in plan.items() if name not in OUTSIDE_PLUGINS | {SEED}}
    return {path: tuple(value) if isinstance(value, list) else value for path, value in flatten(told)}


def _differing(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = dict.fromkeys(path for told in trials for path in told)
    return [path for path in paths if len({json.dumps(told.get(path)) for told in trials}) > 1]
