"""The run directory of a trial: its files, its record, and which steps are finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runner.errors import StepError
from runner.files import write_json, write_text
from runner.plan import Plan, plan_json
from runner.provenance import Provenance, host, packages
from runner.secrets import without_passwords
from runner.spec.experiment_spec import ExperimentSpec

STEPS = ("train", "generate", "score")
"""What a trial can do, in order."""


def steps_of(spec: ExperimentSpec) -> tuple[str, ...]:
    """What a trial does, in order: with `trainer: none` it does not train."""
    return STEPS if spec.trainer else STEPS[1:]


LOCK = ".lock"
"""Held by the launch that is at a trial, or at a sweep."""
TRACKER_STATE = "tracker.json"
"""How far the tracker is served with a run or a sweep."""
TRACKER_LOCK = ".tracker.lock"
"""Held by the process that delivers it: of a launch and `runner sync` one waits for the other."""


class RunDirectory:
    """The folder of one trial, as docs/interface.md lays it out."""

    def __init__(self, path: Path) -> None:
        """Name the folder; it need not exist yet."""
        self.path = path
        self.plan = path / "plan.json"
        self.spec = path / "spec.yaml"
        self.record = path / "record.json"
        self.events = path / "events.jsonl"
        self.predictions = path / "predictions.jsonl"
        self.unfinished_predictions = path / ".predictions.jsonl"
        self.scores = path / "scores.jsonl"
        self.metrics = path / "metrics.json"
        self.mistakes = path / "mistakes"
        self.parameters = path / "parameters.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.installed = path / "packages.txt"
        self.stop_request = path / ".stop"
        self.afresh = path / ".afresh"

    @property
    def storage(self) -> Path:
        """The folder of all runs: this is `<storage>/<experiment>/<trial>`."""
        return self.path.parent.parent

    @property
    def name(self) -> str:
        """Experiment and trial: `tiny_mmre/trial-aa1055e9`."""
        return f"{self.path.parent.name}/{self.path.name}"

    def begin(self, plan: Plan, spec_text: str, overrides: Sequence[str], made_by: Provenance | None = None) -> None:
        """Make the folder, or take it up again, with its plan and record; passwords of addresses stay out of it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.stop_request.unlink(missing_ok=True)
        write_text(self.spec, without_passwords(spec_text))
        write_text(self.plan, plan_json(plan))
        if not self.record.exists():
            made_by = made_by or Provenance.of(self.path)
            for name, diff in made_by.diffs.items():
                write_text(self.path / name, diff)
            write_text(self.installed, made_by.packages)
            write_json(self.record, _first_record(plan, overrides, made_by))

    def clear(self) -> None:
        """Remove all that an earlier launch left, but for the lock that is held, and take nothing from the cache."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
        self.afresh.touch()

    def read_record(self) -> dict[str, Any]:
        """The record; empty before the first launch."""
        return json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else {}

    def update_record(self, **changed: Any) -> None:
        """Change top-level entries of the record."""
        write_json(self.record, {**self.read_record(), **changed})

    def finished(self, step: str) -> bool:
        """Whether a step has left its artifact and its record."""
        steps = self.read_record().get("steps", {})
        return bool(steps.get(step, {}).get("status") == "finished")

    def record_step(self, step: str, status: str, started: datetime, **told: Any) -> None:
        """Note how a step ended and how long it took, in seconds."""
        ended = datetime.now(UTC)
        entry = {
            "status": status,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((ended - started).total_seconds(), 3),
            "host": host(),
            **told,
        }
        self.update_record(steps={**self.read_record().get("steps", {}), step: entry})

    def read_metrics(self) -> dict[str, float | None]:
        """The trial's results; empty before they are there."""
        return json.loads(self.metrics.read_text(encoding="utf-8")) if self.metrics.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; see `held`."""
        with held(self.path, "this trial"):
            yield


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, made where it is missing, so that two launches never write to it.

    Raises:
        StepError: Another launch is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise StepError(f"{folder}: another launch is running {what}; wait for it or stop it") from error


def _first_record(plan: Plan, overrides: Sequence[str], made_by: Provenance) -> dict[str, Any]:
    return {
        "fingerprint": plan.fingerprint,
        "experiment": plan.spec.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "running",
        "overrides": [without_passwords(each) for each in overrides],
        "seeds": {"seed": plan.spec.seed},
        "inputs": {"data": plan.pins.data, "model": plan.pins.model},
        "dataset": asdict(plan.dataset),
        "plugins": plan.pins.plugins,
        "code": dict(made_by.code),
        "workspace": dict(made_by.workspace),
        "packages": packages(),
        "host": host(),
        "steps": {},
    }
