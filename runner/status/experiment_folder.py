"""Files in the folder of an experiment: records of running launches, and the trials and events of its sweep."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from runner.errors import RequirementError
from runner.files import write_json, write_text
from runner.plan import Plan, Trial, plan_json
from runner.secrets import redact_passwords
from runner.trial.run_directory import LOCK, TRACKER_LOCK, TRACKER_STATE, EventLog, lock_folder
from runner.trial.run_trial import Status
from runner.trial_factory import ScoredTrial

JOB_VARIABLE = "RUNNER_JOB"
"""Environment variable with the job's name, set for a launch that runs as a job of a cluster."""

SAME_PROCESS_SECONDS = 2.0
"""A process is the recorded one if its start is this near to the recorded time; the clock is read twice and rounded."""

STOP_SECONDS = 20.0
"""How long a launch that is stopped at once may still upload to the tracker before it is killed."""


@dataclass(frozen=True)
class LaunchRecord:
    """The record of a launch.

    Attributes:
        file: The record's file.
        host: The machine that the launch runs on.
        pid: Its process id there.
        born: When that process started, in seconds since 1970.
        started: When the launch started, in ISO 8601.
        job: The name of the cluster job that the launch runs as, if any.
    """

    file: Path
    host: str
    pid: int
    born: float
    started: str
    job: str | None

    @property
    def is_local(self) -> bool:
        """Whether the launch runs, or ran, on this machine."""
        return self.host == platform.node()

    @property
    def is_alive(self) -> bool:
        """Whether the launch still runs. This is assumed for one on another machine, which cannot be checked here."""
        if not self.is_local:
            return True
        try:
            process = psutil.Process(self.pid)
            return bool(
                abs(process.create_time() - self.born) < SAME_PROCESS_SECONDS
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def stop(self, *, now: bool) -> None:
        """Stop the launch.

        Args:
            now: False asks it to save and stop, as Ctrl-C does. True stops it at once, as a second Ctrl-C does, and
                kills it if it does not react.

        Raises:
            RequirementError: It runs on another machine, or belongs to another user.
        """
        if not self.is_local:
            job = f" as job {self.job}" if self.job else ""
            command = f"`runner stop {self.job} --address …`" if self.job else "the same command there"
            raise RequirementError(
                f"the launch runs on {self.host} (process {self.pid}{job}), not on this machine: use {command}"
            )
        self._interrupt()
        if now:
            self._interrupt_or_kill()

    def _interrupt(self) -> None:
        try:
            os.kill(self.pid, signal.SIGINT)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise RequirementError(
                f"the launch (process {self.pid}) belongs to another user; only that user can stop it"
            ) from error

    def _interrupt_or_kill(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_alive and time.monotonic() < deadline:
            time.sleep(1.0)
            self._interrupt()
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)


@contextmanager
def registered_launch(folder: Path) -> Iterator[None]:
    """Register this process as a launch in an experiment's folder while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for launch in launch_records(folder):
        if not launch.is_alive:
            launch.file.unlink(missing_ok=True)
    file = folder / f".launch-{platform.node()}-{os.getpid()}.json"
    record = {
        "host": platform.node(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": os.environ.get(JOB_VARIABLE),
    }
    write_json(file, record)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def launch_records(folder: Path) -> list[LaunchRecord]:
    """Read the records of launches in an experiment's folder, including those of launches that were killed."""
    records = []
    for file in sorted(folder.glob(".launch-*.json")):
        try:
            records.append(LaunchRecord(file, **json.loads(file.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            continue  # The launch has ended in the meantime.
    return records


SWEEP_FOLDER = "sweep"
"""The folder's name; the names of trials begin with another word."""
SWEEP_FILE = "sweep.json"
"""The file in it with the trials and their values."""
SEED = "seed"
"""The parameter in which the repetitions of a point differ."""
OBJECTIVE = "objective"
"""The metric under which the tracker shows a trial's objective value, whatever the objective's own name is."""


def objective_metric(objective: float | None) -> dict[str, float]:
    """A trial's objective value as a metric for the tracker; empty if the trial has none."""
    return {} if objective is None else {OBJECTIVE: objective}


def read_sweep(folder: Path) -> dict[str, Any]:
    """Read the `sweep.json` of a folder; empty if there is none."""
    file = folder / SWEEP_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


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
        """Hold the lock of the folder while the block runs; see `runner.trial.run_directory.lock_folder`."""
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
        saved = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        if (saved.get("fingerprint"), saved.get("objective")) == (self._plan.fingerprint, objective):
            self._trials = {trial["name"]: trial for trial in saved["trials"]}
        else:
            for file in (self._file, self.events, self.path / TRACKER_STATE):
                file.unlink(missing_ok=True)
        write_text(self.path / "spec.yaml", redact_passwords(spec_text))
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
