"""How experiments and their trials stand, read from their folders alone: by anybody, at any time, without a lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from runner.artifacts import RunDirectory
from runner.errors import SpecError
from runner.events import Event, EventTail
from runner.registry import nearest
from runner.standing.sweep_folder import FOLDER, sweep_as_told
from runner.standing.underway import Note, notes

RUNNING, WAITING, LOST = "running", "waiting", "lost"
"""A trial that is not at its end: it tells something; it has been begun and told nothing yet; its launch is gone."""

TAIL_BYTES = 1_000_000
"""Of a long log, as much of its end is read: some thousand steps, so the last of each metric is most likely in it."""


@dataclass(frozen=True)
class TrialStanding:
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
class ExperimentStanding:
    """How an experiment stands: its trials, and the launches that are at it."""

    name: str
    folder: Path
    trials: Sequence[TrialStanding]
    launches: Sequence[Note]
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
class Found:
    """What a name stands for: an experiment's folder, and which of its trials."""

    experiment: Path
    trials: Sequence[Path]
    whole: bool
    """Whether the experiment was named, and not a trial of it."""


def find(names: Sequence[str], storage: Path) -> list[Found]:
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


def _find(name: str, storage: Path) -> Found:
    for path in (Path(name), storage / name):
        if path.is_dir() and path.resolve() in _trials(path.resolve().parent):
            return Found(path.resolve().parent, [path.resolve()], whole=False)
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
        return Found(trials[0].parent, trials, whole=False)
    if trials:
        raise SpecError(f"{name!r} can be {len(trials)} trials; write more of one's name: {_listed(trials)}")
    known = [folder.name for folder in folders]
    raise SpecError(
        f"no experiment and no trial {name!r} in {storage}{nearest(name, known) if known else ': it is empty'}"
    )


def _listed(trials: Sequence[Path]) -> str:
    return ", ".join(f"{trial.parent.name}/{trial.name}" for trial in trials)


def _whole(folder: Path) -> Found:
    return Found(folder, _trials(folder), whole=True)


def experiments(storage: Path) -> list[Path]:
    """The folders under the folder of all runs that hold trials."""
    folders = sorted(storage.iterdir()) if storage.is_dir() else []
    return [folder for folder in folders if folder.is_dir() and _trials(folder)]


def _trials(folder: Path) -> list[Path]:
    return sorted(plan.parent for plan in folder.glob("trial-*/plan.json"))


def standing(found: Found) -> ExperimentStanding:
    """Read how an experiment, or some trials of it, stand."""
    launches = [note for note in notes(found.experiment) if note.alive]
    trials = [trial_standing(trial, launched=bool(launches)) for trial in found.trials]
    return ExperimentStanding(found.experiment.name, found.experiment, trials, launches, _best(found.experiment))


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


def trial_standing(folder: Path, *, launched: bool) -> TrialStanding:
    """Read how a trial stands; `launched` tells whether some launch is at its experiment."""
    run = RunDirectory(folder)
    record = run.read_record()
    events = _last_events(run.events)
    progress = next((event for event in reversed(events) if event["kind"] == "progress"), None)
    status = str(record.get("status", RUNNING))
    if status == RUNNING:
        status = (RUNNING if events else WAITING) if launched else LOST
    errors = [step["error"] for step in record.get("steps", {}).values() if "error" in step]
    return TrialStanding(
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
