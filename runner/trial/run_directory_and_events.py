"""The run directory of a trial: its files, its record, and its event log."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from runner.errors import DataError, StepError
from runner.files import check_is_file, name_file_in_errors, read_json_object, write_json, write_text
from runner.fingerprint_and_provenance import Provenance, host_info, package_versions
from runner.redaction import redact_override, redact_yaml
from runner.resolved_plan import Plan, plan_json
from runner.spec.experiment_spec import ExperimentSpec

Event = dict[str, Any]
"""`time` (ISO 8601, UTC), `kind` (state, metrics, progress, artifact, warning, cache, system …) and the fields of that
kind."""

PROGRESS_INTERVALS = (0.2, 5.0)
"""The minimum and maximum seconds between two progress events of a step; the last event is always written.

The interval grows with the running time, so that a training of days logs megabytes and not hundreds of megabytes."""
PROGRESS_EVENTS_PER_STEP = 500
"""About how many progress events a step logs, within these intervals."""


class EventLog:
    """Appends events to the log. Each event is one write of one line, so that a kill can truncate only the last one."""

    def __init__(self, path: Path) -> None:
        """Open a log. A last line that an earlier kill truncated gets a line end."""
        self._path = path
        self._is_truncated = False
        self._last_progress = -math.inf
        self._started: dict[str, float] = {}
        if path.exists() and path.stat().st_size:
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")

    def append(self, kind: str, /, **fields: Any) -> None:
        """Append one event with the current time.

        Raises:
            OSError: The event cannot be written, or only a part of its line, as on a full disk.
        """
        event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **fields}
        line = (json.dumps(event, ensure_ascii=False) + "\n").encode()
        # A line that could not be written whole must not absorb the next one. Readers skip an empty line.
        content = b"\n" + line if self._is_truncated else line
        # Unbuffered, because several threads append and a buffer would split a long line.
        with name_file_in_errors(self._path), self._path.open("ab", buffering=0) as file:
            self._is_truncated = True
            while content:  # A full disk may take only a part of the line; the attempt to write the rest then raises.
                content = content[file.write(content) :]
            self._is_truncated = False

    def state(self, step: str, state: str, detail: str | None = None) -> None:
        """Log that a step, or the whole `trial`, was started, finished, reused, failed or interrupted."""
        self.append("state", step=step, state=state, **({"detail": detail} if detail else {}))

    def metrics(self, step: int | None, values: Mapping[str, float | None]) -> None:
        """Log metrics at an optimizer step; without a step, they are the trial's results.

        A value that is infinite or not a number becomes null, because JSON has no such numbers.
        """
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
        self.append("metrics", step=step, values=finite)

    def progress(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Log the progress of a step. Calls within an interval after the last event log nothing."""
        now = time.monotonic()
        started = self._started.setdefault(stage, now)
        shortest, longest = PROGRESS_INTERVALS
        interval = min(longest, max(shortest, (now - started) / PROGRESS_EVENTS_PER_STEP))
        if done >= total or now - self._last_progress >= interval:
            self._last_progress = now
            self.append("progress", stage=stage, done=done, total=total, shown=dict(metrics))

    def artifact(self, name: str, path: Path) -> None:
        """Log that a file or folder of the run directory is complete."""
        self.append("artifact", name=name, path=str(path))

    def warning(self, message: str) -> None:
        """Log something that the user should know and that does not stop the trial."""
        self.append("warning", message=message)


_NUMBER = (int, float)
_EVENT_FIELDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "state": {"step": (str,), "state": (str,)},
    "metrics": {"step": (int, type(None)), "values": (dict,)},
    "system": {"step": (int, type(None)), "values": (dict,)},
    "progress": {"stage": (str,), "done": _NUMBER, "total": _NUMBER, "shown": (dict,)},
    "artifact": {"name": (str,), "path": (str,)},
    "warning": {"message": (str,)},
    "cache": {"state": (str,), "message": (str,)},
    "parameters": {"groups": (list,)},
}
"""The fields of each kind of event that readers use, with their types. Other kinds have no fields that readers use."""


def is_event(value: object) -> bool:
    """Return whether a value from a log is an event that all readers can use."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    fields = _EVENT_FIELDS.get(value["kind"], {})
    if not all(name in value and isinstance(value[name], types) for name, types in fields.items()):
        return False
    if "values" in fields and not _are_numbers(value["values"].values()):
        return False
    try:
        return datetime.fromisoformat(value["time"]).tzinfo is not None
    except (KeyError, TypeError, ValueError):
        return False


def _are_numbers(values: Iterable[object]) -> bool:
    """Whether all values are numbers or null."""
    return all(isinstance(value, (*_NUMBER, type(None))) for value in values)


class EventTail:
    """Reads the new events of a growing log."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Start at a byte offset, such as the end of what an earlier launch wrote."""
        self._path, self.offset = path, offset

    def read(self) -> Iterator[Event]:
        """Yield the events of the complete lines since the last call; a line that is no event is skipped.

        Raises:
            DataError: The path is not a regular file.
        """
        check_is_file(self._path, "Remove it: the next launch writes a new log")
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if is_event(event):
                    yield event


class StepReporter:
    """The reporter of one running step; it writes to the trial's log."""

    def __init__(self, log: EventLog, stage: str, stop_file: Path) -> None:
        """Take the log, the step's name, and the file whose presence is a request to stop."""
        self._log, self._stage, self._stop_file = log, stage, stop_file

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics at an optimizer step."""
        self._log.metrics(step, values)

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Log the progress of the step."""
        self._log.progress(self._stage, done, total, metrics)

    def warn(self, message: str) -> None:
        """Log a warning for the user."""
        self._log.warning(message)

    def stop_requested(self) -> bool:
        """Whether the driver asked this trial to stop."""
        return self._stop_file.exists()


STEPS = ("train", "generate", "score")
"""All steps of a trial, in order."""


def steps_of(spec: ExperimentSpec) -> tuple[str, ...]:
    """The steps of a spec's trial, in order: with `trainer: none` there is no training."""
    return STEPS if spec.trainer else STEPS[1:]


LOCK = ".lock"
"""The lock file of the launch that runs a trial or a sweep."""
RECORD_LOCK = ".record.lock"
"""The lock file of the process that changes `record.json`."""
TRACKER_STATE = "tracker.json"
"""The progress of the upload of a run or sweep to the tracker."""
TRACKER_LOCK = ".tracker.lock"
"""The lock file of the process that uploads: a launch and `runner sync` wait for each other."""


RECORD_REMEDY = (
    "Restore the file from a copy, or remove it: the next launch then repeats the steps of this trial and reuses its "
    "checkpoints and the cache"
)
METRICS_REMEDY = (
    "Restore the file from a copy, or launch the spec with `--rerun score`, which computes the metrics again"
)


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
        self.scores = path / "scores.jsonl"
        self.metrics = path / "metrics.json"
        self.mistakes = path / "mistakes"
        self.parameters = path / "parameters.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.profile = path / "profile"
        self.packages = path / "packages.txt"
        self.stop_request = path / ".stop"
        self.no_cache_marker = path / ".afresh"

    @property
    def storage(self) -> Path:
        """The folder of all runs; this folder is `<storage>/<experiment>/<trial>`."""
        return self.path.parent.parent

    def unfinished_predictions(self, rank: int) -> Path:
        """The file with the answers of one worker, until all prompts are answered."""
        return self.path / (f".predictions-{rank}.jsonl" if rank else ".predictions.jsonl")

    def all_unfinished_predictions(self) -> list[Path]:
        """The files with answers of all workers, also of an earlier launch with another number of workers."""
        return sorted(self.path.glob(".predictions*.jsonl"))

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
        write_text(self.spec, redact_yaml(spec_text))
        write_text(self.plan, plan_json(plan.spec))
        if not self.record.exists():
            provenance = provenance or Provenance.collect(self.path)
            for name, diff in provenance.diffs.items():
                write_text(self.path / name, diff)
            write_text(self.packages, provenance.packages)
            write_json(self.record, _first_record(plan, overrides, provenance))

    def forget_steps(self, first: str) -> None:
        """Remove what a step and the steps after it have written, and mark these steps to run without the cache.

        Without the training, nothing of the trial is left, so `train` clears the folder.
        """
        if first == STEPS[0]:
            self.clear()
            return
        forgotten = STEPS[STEPS.index(first) :]
        if self.record.exists():
            with self._record_for_change() as record:
                record["steps"] = {step: entry for step, entry in record["steps"].items() if step not in forgotten}
        files = [self.scores, self.metrics, self.mistakes.with_suffix(".jsonl")]
        if "generate" in forgotten:
            files += [self.predictions, *self.all_unfinished_predictions()]
        for file in files:
            file.unlink(missing_ok=True)
        shutil.rmtree(self.mistakes, ignore_errors=True)
        if self.uses_cache(first):  # else an earlier request, for this step or one before it, still holds
            write_text(self.no_cache_marker, " ".join(forgotten))

    def uses_cache(self, step: str) -> bool:
        """Whether a step may take its artifact from the cache; see `clear` and `forget_steps`."""
        if not self.no_cache_marker.exists():
            return True
        steps = self.no_cache_marker.read_text(encoding="utf-8").split()
        return bool(steps) and step not in steps

    def clear(self) -> None:
        """Remove everything except the lock file, and mark the trial to run without the cache."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
        self.no_cache_marker.touch()

    def read_record(self) -> dict[str, Any]:
        """Read `record.json`; empty before the first launch.

        Raises:
            DataError: The file is damaged.
        """
        if not self.record.exists():
            return {}
        record = read_json_object(self.record, RECORD_REMEDY)
        steps = record.get("steps", {})
        if not (isinstance(steps, dict) and all(isinstance(step, dict) for step in steps.values())):
            raise DataError(
                f"{self.record}: the file is damaged (`steps` must be an object of objects). {RECORD_REMEDY}"
            )
        if not isinstance(record.get("status", ""), str):
            raise DataError(f"{self.record}: the file is damaged (`status` must be a text). {RECORD_REMEDY}")
        return record

    def check_readable(self, *, metrics: bool) -> None:
        """Read the files that say what earlier launches did, so that a damaged one is reported before the trial runs.

        Args:
            metrics: Whether the metrics are needed, if the trial is finished.

        Raises:
            DataError: A file is damaged; the message names the file and what to do.
        """
        if self.is_finished("score") and metrics:
            self.read_metrics()

    @property
    def id(self) -> str | None:
        """What distinguishes this run from earlier and later ones of the same trial; None before the first launch."""
        return self.read_record().get("id")

    def update_record(self, **changed: Any) -> None:
        """Set top-level entries of the record."""
        with self._record_for_change() as record:
            record.update(changed)

    @contextmanager
    def _record_for_change(self) -> Iterator[dict[str, Any]]:
        """Yield the record, and write it with its changes. The launch and a worker of the trial both change it."""
        with FileLock(self.path / RECORD_LOCK):
            record = self.read_record()
            yield record
            write_json(self.record, record)

    def record_cache_use(self, item: str) -> None:
        """Record that the trial uses an item of the cache that belongs to no step, such as `encoded/<key>`."""
        with self._record_for_change() as record:
            record["cache_items"] = sorted({*record.get("cache_items", []), item})

    def is_finished(self, step: str) -> bool:
        """Whether the record says that a step has finished."""
        steps = self.read_record().get("steps", {})
        return bool(steps.get(step, {}).get("status") == "finished")

    def has_saved_work(self) -> bool:
        """Whether a trial that is launched again has something to resume: a finished step, a checkpoint, or answers."""
        if any(self.is_finished(step) for step in STEPS) or self.all_unfinished_predictions():
            return True
        return self.checkpoints.is_dir() and any(not path.name.startswith(".") for path in self.checkpoints.iterdir())

    def divergence(self) -> str | None:
        """The error of a training that diverged; None if the record has no such training."""
        train = self.read_record().get("steps", {}).get("train", {})
        return str(train["error"]) if train.get("diverged") else None

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
        with self._record_for_change() as record:
            record["steps"] = {**record.get("steps", {}), step: entry}

    def read_metrics(self) -> dict[str, float | None]:
        """Read `metrics.json`; empty before the trial has results.

        Raises:
            DataError: The file is damaged.
        """
        if not self.metrics.exists():
            return {}
        metrics = read_json_object(self.metrics, METRICS_REMEDY)
        if not _are_numbers(metrics.values()):
            raise DataError(f"{self.metrics}: the file is damaged (each metric is a number or null). {METRICS_REMEDY}")
        return metrics

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
        StepError: Another launch has locked it, or this user may not write there.
        DataError: It contains a link to a file, or something that is neither a file nor a folder.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_no_links(folder)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StepError(f"{folder}: another launch is running {label}; wait until it ends, or stop it") from error
    except PermissionError as error:
        raise StepError(
            f"{error.filename}: cannot be written ({error.strerror}). Ask its owner for the permission, or choose "
            "another folder with compute.storage"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_no_links(folder: Path) -> None:
    """Check that a launch would write to nothing but files and folders in a trial's folder.

    The folder may be somebody else's. A link to a folder, such as one for checkpoints on another disk, is kept.
    """
    for path in folder.iterdir():
        if not path.is_dir() and (path.is_symlink() or not path.is_file()):
            raise DataError(
                f"{path}: is a link or no regular file, and a launch would write to what is behind it. Remove it, or "
                "replace it by a copy of the file"
            )


def _first_record(plan: Plan, overrides: Sequence[str], provenance: Provenance) -> dict[str, Any]:
    return {
        "id": uuid4().hex,
        "fingerprint": plan.fingerprint,
        "experiment": plan.spec.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "running",
        "overrides": [redact_override(override) for override in overrides],
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


OBJECTIVE = "objective"
"""The metric under which the tracker shows a trial's objective value, whatever the objective's own name is."""


def objective_metric(objective: float | None) -> dict[str, float]:
    """A trial's objective value as a metric for the tracker; empty if the trial has none."""
    return {} if objective is None else {OBJECTIVE: objective}
