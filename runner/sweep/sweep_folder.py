"""The folder `sweep/` of an experiment: its trials with their values, and the event log of the sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.errors import DataError
from runner.files import read_json_object, write_json, write_text
from runner.redaction import redact_yaml
from runner.resolved_plan import Plan, Trial, plan_json
from runner.trial.run_directory_and_events import LOCK, OBJECTIVE, TRACKER_LOCK, TRACKER_STATE, EventLog, lock_folder
from runner.trial.run_trial import Status
from runner.trial_factory import ScoredTrial

SWEEP_FOLDER = "sweep"
"""The folder's name; the names of trials begin with another word."""
SWEEP_FILE = "sweep.json"
"""The file in it with the trials and their values."""
SWEEP_REMEDY = "Restore the file from a copy, or remove it: the next launch of the sweep writes it again"
SEED = "seed"
"""The parameter in which the repetitions of a point differ."""


def read_sweep(folder: Path) -> dict[str, Any]:
    """Read the `sweep.json` of a folder; empty if there is none.

    Raises:
        DataError: The file is damaged, or this user may not read the file.
    """
    file = folder / SWEEP_FILE
    try:
        sweep = read_json_object(file, SWEEP_REMEDY)
    except FileNotFoundError:
        return {}
    trials = sweep.get("trials", [])
    if not isinstance(trials, list) or not all(isinstance(each, dict) and "name" in each for each in trials):
        raise DataError(f"{file}: the file is damaged (`trials` must be a list of objects with a name). {SWEEP_REMEDY}")
    return sweep


class SweepFolder:
    """`runs/<experiment>/sweep/`, as described in docs/interface.md.

    Attributes:
        path: The folder.
        events: Its event log.
        objective: The `metric` and `mode` of the objective; None if the search has none.
        has_new_values: Whether an objective value was added since this launch began.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        """Set the folder's path; the folder need not exist yet."""
        self.path = path
        self.events = path / "events.jsonl"
        self._plan, self._file = plan, path / SWEEP_FILE
        self.objective: Mapping[str, Any] | None = None
        self.has_new_values = False
        self._trials: dict[str, dict[str, Any]] = {}
        self._status = "running"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder while the block runs; see `runner.trial.run_directory_and_events.lock_folder`."""
        with lock_folder(self.path, "this sweep"):
            yield

    def clear(self) -> None:
        """Remove all files of earlier launches except the locks, one of which is held."""
        for entry in self.path.iterdir():
            if entry.name not in {LOCK, TRACKER_LOCK}:
                entry.unlink()

    def begin(self, spec_text: str, objective: Mapping[str, Any] | None) -> None:
        """Read the trials of earlier launches, and write this launch's spec and plan.

        With another base plan or another objective this is another sweep, whose trials are numbered anew.
        """
        self.objective = objective
        saved = read_sweep(self.path)
        if (saved.get("fingerprint"), saved.get("objective")) == (self._plan.fingerprint, objective):
            self._trials = {trial["name"]: trial for trial in saved["trials"]}
        else:
            for file in (self._file, self.events, self.path / TRACKER_STATE):
                file.unlink(missing_ok=True)
        write_text(self.path / "spec.yaml", redact_yaml(spec_text))
        write_text(self.path / "plan.json", plan_json(self._plan.spec))

    def number(self, trial: Trial) -> int:
        """The number of a trial, from 0, in the order in which the search proposed the trials."""
        if trial.name not in self._trials:
            self._trials[trial.name] = {"number": len(self._trials), "name": trial.name}
        return int(self._trials[trial.name]["number"])

    def record_trial(self, trial: Trial, status: str, objective: float | None) -> None:
        """Write a trial's status and objective value, and add a new value to the sweep's event log."""
        number = self.number(trial)
        previous = self._trials[trial.name].get("objective")
        self._trials[trial.name] |= {
            "fingerprint": trial.plan.fingerprint,
            "parameters": dict(trial.parameters),
            "group": trial.group,
            "arm": trial.arm,
            "seed": trial.seed,
            "status": status,
            "objective": objective,
        }
        # The log is written first: if a kill makes it hold a value twice, the trial's number still shows it once.
        if objective is not None and objective != previous:
            EventLog(self.events).metrics(number, {OBJECTIVE: objective})
            self.has_new_values = True
        self._write()

    def end(self, status: Status) -> None:
        """Write how the launch of the sweep ended."""
        self._status = status
        self._write()

    def trials(self) -> list[dict[str, Any]]:
        """The trials so far, by number, as `sweep.json` holds them."""
        return sorted(self._trials.values(), key=lambda trial: int(trial["number"]))

    @property
    def scored_trials(self) -> list[ScoredTrial]:
        """The trials that have an objective value, without their seeds, which are repetitions of the same point."""
        trials = [trial for trial in self.trials() if trial.get("objective") is not None]
        points = [{path: value for path, value in trial["parameters"].items() if path != SEED} for trial in trials]
        return [ScoredTrial(point, trial["objective"]) for point, trial in zip(points, trials, strict=True)]

    def _write(self) -> None:
        content = {
            "experiment": self._plan.spec.name,
            "fingerprint": self._plan.fingerprint,
            "objective": self.objective,
            "status": self._status,
            "dataset": asdict(self._plan.dataset),
            "trials": self.trials(),
        }
        write_json(self._file, content)
