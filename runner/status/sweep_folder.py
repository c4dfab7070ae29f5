"""The `sweep/` folder of an experiment: its trials with their values, and the sweep's event log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.files import write_json, write_text
from runner.plan import Plan, Trial, plan_json
from runner.secrets import without_passwords
from runner.trial.events import EventLog
from runner.trial.run_directory import LOCK, TRACKER_LOCK, TRACKER_STATE, held
from runner.trial.run_trial import Status
from runner.trial_factory import ScoredTrial as Point

FOLDER = "sweep"
"""Its name; trials' names begin otherwise."""
SWEEP_FILE = "sweep.json"
"""In it: the trials with their values."""
SEED = "seed"
"""The parameter in which repetitions of a point differ."""
OBJECTIVE = "objective"
"""The metric that a trial's value is shown as, whatever the search goes by."""


def shown_value(objective: float | None) -> dict[str, float]:
    """A trial's value as the tracker is shown it; nothing where it has none."""
    return {} if objective is None else {OBJECTIVE: objective}


def sweep_as_told(folder: Path) -> dict[str, Any]:
    """What `sweep.json` in a folder says; nothing where nothing is swept."""
    file = folder / SWEEP_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


class SweepFolder:
    """`runs/<experiment>/sweep/`, as docs/interface.md lays it out.

    Attributes:
        path: The folder.
        events: Its log.
        objective: The `metric` and `mode` that the search goes by; None where it goes by none.
        changed: A value has come since it was begun.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        """Name the folder; it need not exist yet."""
        self.path = path
        self.events = path / "events.jsonl"
        self._plan, self._file = plan, path / SWEEP_FILE
        self.objective: Mapping[str, Any] | None = None
        self.changed = False
        self._trials: dict[str, dict[str, Any]] = {}
        self._status = "running"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder; see `runner.trial.run_directory.held`."""
        with held(self.path, "this sweep"):
            yield

    def clear(self) -> None:
        """Remove all that an earlier launch left, but for the lock that is held."""
        for entry in self.path.iterdir():
            if entry.name not in {LOCK, TRACKER_LOCK}:
                entry.unlink()

    def begin(self, spec_text: str, objective: Mapping[str, Any] | None) -> None:
        """Take up what an earlier launch left; write down what this one launches.

        With another base, or another objective, it is another sweep: what still fits is counted anew.
        """
        self.objective = objective
        told = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        if (told.get("fingerprint"), told.get("objective")) == (self._plan.fingerprint, objective):
            self._trials = {trial["name"]: trial for trial in told["trials"]}
        else:
            for left in (self._file, self.events, self.path / TRACKER_STATE):
                left.unlink(missing_ok=True)
        write_text(self.path / "spec.yaml", without_passwords(spec_text))
        write_text(self.path / "plan.json", plan_json(self._plan))

    def number(self, trial: Trial) -> int:
        """Count a trial, from 0, in the order in which the search first asked for it."""
        if trial.name not in self._trials:
            self._trials[trial.name] = {"number": len(self._trials), "name": trial.name}
        return int(self._trials[trial.name]["number"])

    def note(self, trial: Trial, status: str, objective: float | None) -> None:
        """Write down a trial's state and value, and tell the sweep's log of a new value."""
        number = self.number(trial)
        before = self._trials[trial.name].get("objective")
        self._trials[trial.name] |= {
            "fingerprint": trial.plan.fingerprint,
            "parameters": dict(trial.parameters),
            "group": trial.group,
            "arm": trial.arm,
            "seed": trial.seed,
            "status": status,
            "objective": objective,
        }
        # The log comes first: a value that a kill makes it tell twice is shown once, by its number.
        if objective is not None and objective != before:
            EventLog(self.events).metrics(number, {OBJECTIVE: objective})
            self.changed = True
        self._write()

    def end(self, status: Status) -> None:
        """Write down how the launch of the sweep ended."""
        self._status = status
        self._write()

    def trials(self) -> list[dict[str, Any]]:
        """The trials so far, by number, as `sweep.json` holds them."""
        return sorted(self._trials.values(), key=lambda trial: int(trial["number"]))

    @property
    def points(self) -> list[Point]:
        """The trials that have a value, by what is searched: their seeds are repetitions."""
        valued = [trial for trial in self.trials() if trial.get("objective") is not None]
        searched = [{path: value for path, value in trial["parameters"].items() if path != SEED} for trial in valued]
        return [Point(own, trial["objective"]) for own, trial in zip(searched, valued, strict=True)]

    def _write(self) -> None:
        told = {
            "experiment": self._plan.spec.name,
            "fingerprint": self._plan.fingerprint,
            "objective": self.objective,
            "status": self._status,
            "dataset": asdict(self._plan.dataset),
            "trials": self.trials(),
        }
        write_json(self._file, told)
