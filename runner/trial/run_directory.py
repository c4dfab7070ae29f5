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
from runner.provenance import Provenance, host_info, package_versions
from runner.secrets import redact_passwords
from runner.spec.experiment_spec import ExperimentSpec

STEPS = ("train", "generate", "score")
"""All steps of a trial, in order."""


def steps_of(spec: ExperimentSpec) -> tuple[str, ...]:
    """The steps of a spec's trial, in order: with `trainer: none` there is no training."""
    return STEPS if spec.trainer else STEPS[1:]


LOCK = ".lock"
"""The lock file of the launch that runs a trial or a sweep."""
TRACKER_STATE = "tracker.json"
"""The progress of the upload of a run or sweep to the tracker."""
TRACKER_LOCK = ".tracker.lock"
"""The lock file of the process that uploads: a launch and `runner sync` wait for each other."""


class RunDirectory:
    """The folder of one trial; docs/interface.md describes its files."""

    def __init__(self, path: Path) -> None:
        """Set the paths; the folder need not exist yet."""
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
        self.packages = path / "packages.txt"
        self.stop_request = path / ".stop"
        self.no_cache_marker = path / ".afresh"

    @property
    def storage(self) -> Path:
        """The folder of all runs; this folder is `<storage>/<experiment>/<trial>`."""
        return self.path.parent.parent

    @property
    def name(self) -> str:
        """Experiment and trial, such as `tiny_mmre/trial-aa1055e9`."""
        return f"{self.path.parent.name}/{self.path.name}"

    def create(
        self, plan: Plan, spec_text: str, overrides: Sequence[str], provenance: Provenance | None = None
    ) -> None:
        """Write the plan and the spec, and the record if the folder has none yet.

        Passwords in addresses are removed from all of them.

        Args:
            plan: The trial's plan.
            spec_text: The text of the spec file.
            overrides: The `--set` assignments.
            provenance: Code and packages, for a new record; by default collected here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.stop_request.unlink(missing_ok=True)
        write_text(self.spec, redact_passwords(spec_text))
        write_text(self.plan, plan_json(plan))
        if not self.record.exists():
            provenance = provenance or Provenance.collect(self.path)
            for name, diff in provenance.diffs.items():
                write_text(self.path / name, diff)
            write_text(self.packages, provenance.packages)
            write_json(self.record, _first_record(plan, overrides, provenance))

    def clear(self) -> None:
        """Remove everything except the lock file, and mark the trial to run without the cache."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
        self.no_cache_marker.touch()

    def read_record(self) -> dict[str, Any]:
        """Read `record.json`; empty before the first launch."""
        return json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else {}

    def update_record(self, **changed: Any) -> None:
        """Set top-level entries of the record."""
        write_json(self.record, {**self.read_record(), **changed})

    def is_finished(self, step: str) -> bool:
        """Whether the record says that a step has finished."""
        steps = self.read_record().get("steps", {})
        return bool(steps.get(step, {}).get("status") == "finished")

    def record_step(self, step: str, status: str, started: datetime, **details: Any) -> None:
        """Record how a step ended and how many seconds it took."""
        ended = datetime.now(UTC)
        entry = {
            "status": status,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((ended - started).total_seconds(), 3),
            "host": host_info(),
            **details,
        }
        self.update_record(steps={**self.read_record().get("steps", {}), step: entry})

    def read_metrics(self) -> dict[str, float | None]:
        """Read `metrics.json`; empty before the trial has results."""
        return json.loads(self.metrics.read_text(encoding="utf-8")) if self.metrics.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder while the block runs; see `lock_folder`."""
        with lock_folder(self.path, "this trial"):
            yield


@contextmanager
def lock_folder(folder: Path, label: str) -> Iterator[None]:
    """Lock a folder while the block runs, so that two launches never write to it. Creates the folder.

    Args:
        folder: The folder.
        label: What the folder belongs to, for the error.

    Raises:
        StepError: Another launch has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise StepError(f"{folder}: another launch is running {label}; wait until it ends, or stop it") from error


def _first_record(plan: Plan, overrides: Sequence[str], provenance: Provenance) -> dict[str, Any]:
    return {
        "fingerprint": plan.fingerprint,
        "experiment": plan.spec.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "running",
        "overrides": [redact_passwords(override) for override in overrides],
        "seeds": {"seed": plan.spec.seed},
        "inputs": {"data": plan.pins.data, "model": plan.pins.model},
        "dataset": asdict(plan.dataset),
        "plugins": plan.pins.plugins,
        "code": dict(provenance.code),
        "workspace": dict(provenance.workspace),
        "packages": package_versions(),
        "host": host_info(),
        "steps": {},
    }
