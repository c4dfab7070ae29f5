"""Runs the steps of one trial in this process, samples its resource usage, and returns how it ended."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import psutil

import runner.errors
from runner.errors import OutOfMemoryError, Problem, RunnerError, SpecError, StepError, is_out_of_memory
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import StopRequestedError
from runner.trial.context import TrialContext, is_main_process
from runner.trial.generate import generate
from runner.trial.reuse import (
    ARTIFACT_SPECS,
    CachedArtifact,
    broadcast_decision,
    log_cache_event,
    wait_for_decision,
)
from runner.trial.run_directory import EventLog, RunDirectory, steps_of
from runner.trial.score import score
from runner.trial.train import train

EVENT_KIND = "system"
"""The kind of the events. Values are named like MLflow's system metrics; the step is the run's age in seconds."""
MEGABYTE = 1e6


@contextmanager
def sample_usage(run: RunDirectory, log: EventLog, seconds: float) -> Iterator[None]:
    """Sample the use of this machine while the block runs, and once more at its end.

    Args:
        run: The run directory, whose record says when the run was created.
        log: The event log to write to.
        seconds: The interval between samples; 0 disables sampling.
    """
    if not seconds:
        yield
        return
    sampler = _Sampler(run, log, seconds)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()


class _Sampler(threading.Thread):
    def __init__(self, run: RunDirectory, log: EventLog, seconds: float) -> None:
        super().__init__(daemon=True, name="usage")
        created = run.read_record().get("created")
        self._created = datetime.fromisoformat(created).timestamp() if created else time.time()
        self._log, self._seconds = log, seconds
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Sample until `stop` is called, and then once more."""
        usage = UsageReader()
        while not self._stop_event.wait(self._seconds):
            self._log_sample(usage)
        self._log_sample(usage)

    def stop(self) -> None:
        """Stop sampling and wait for the last sample."""
        self._stop_event.set()
        self.join()

    def _log_sample(self, usage: UsageReader) -> None:
        step = int(datetime.now(UTC).timestamp() - self._created)
        with suppress(OSError, psutil.Error):  # a failed sample must not stop the training
            self._log.append(EVENT_KIND, step=step, values=usage.read())


class UsageReader:
    """Reads the use of this machine since the previous reading.

    Create it in the thread that reads, because psutil measures CPU intervals per thread.
    """

    def __init__(self) -> None:
        """Start the first interval."""
        psutil.cpu_percent()
        self._gpus = dict(_visible_gpus())

    def read(self) -> dict[str, float]:
        """Read percentages, megabytes (10^6 bytes) and watts.

        The values cover the machine, this process with its child processes, and its GPUs.
        """
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
            "process_memory_usage_megabytes": round(_resident_bytes() / MEGABYTE, 1),
        }
        for index, handle in self._gpus.items():
            values |= {f"gpu_{index}_{name}": value for name, value in _read_gpu(handle).items()}
        return values


def _resident_bytes() -> int:
    """Resident memory of this process and its child processes, in bytes."""
    this_process = psutil.Process()
    total = 0
    for process in (this_process, *this_process.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # the process has ended meanwhile
    return total


def _visible_gpus() -> Iterator[tuple[int, Any]]:
    """Yield index and NVML handle of this process's GPUs, numbered as on the machine.

    With several workers, each of which sees only one GPU, yield all GPUs of the machine.
    """
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        indices = list(range(nvml.nvmlDeviceGetCount()))
    except Exception:  # a missing library, driver or GPU raises errors of different classes
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        indices = [int(part) for part in visible.split(",") if part.strip().isdecimal() and int(part) in indices]
    for index in indices:
        yield index, nvml.nvmlDeviceGetHandleByIndex(index)


def _read_gpu(handle: Any) -> Mapping[str, float]:
    nvml: Any = import_module("pynvml")
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory_usage_percentage": round(100 * memory.used / memory.total, 1),
            "memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
            "power_usage_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        }
    except Exception:  # a later reading may succeed; the training must go on
        return {}


STEP_FUNCTIONS: dict[str, Callable[[TrialContext], None]] = {"train": train, "generate": generate, "score": score}


def run_trial(spec: ExperimentSpec, folder: Path, steps: Sequence[str] | None = None) -> None:
    """Run the unfinished steps of a trial, in order.

    Args:
        spec: The spec of the trial's plan.
        folder: The run directory, created by `RunDirectory.create`.
        steps: The steps to run; by default all steps of the trial.

    Raises:
        StopRequestedError: The user asked to stop; the progress so far is saved.
        RunnerError: The spec or the data is wrong, or a step failed. Events and record name the error too.
    """
    run = RunDirectory(folder)
    context = TrialContext(spec, run, EventLog(run.events))
    # Only the main process of a worker group samples, because only it writes the log.
    interval = spec.compute.usage_interval if is_main_process() else 0
    with sample_usage(run, context.log, interval):
        for step in steps_of(spec) if steps is None else steps:
            if not run.is_finished(step):
                _run_step(context, step)


def _run_step(context: TrialContext, step: str) -> None:
    """Run one step and record how it ended."""
    started = datetime.now(UTC)
    if context.run.stop_request.exists():
        raise StopRequestedError
    try:
        cache_record = reuse_or_run(context, step)
    except (StopRequestedError, KeyboardInterrupt):
        _record_end(context, step, "interrupted", started)
        raise
    except RunnerError as error:
        _record_end(context, step, "failed", started, error=str(error))
        raise
    except Exception as error:
        _record_end(context, step, "failed", started, error=f"{type(error).__name__}: {error}")
        error_class = OutOfMemoryError if is_out_of_memory(error) else StepError
        raise error_class(f"{step}: {type(error).__name__}: {error}") from error
    _record_end(context, step, "finished", started, **cache_record)


def reuse_or_run(context: TrialContext, step: str) -> dict[str, Any]:
    """Leave a step's artifact in the run directory: restored from the cache, else produced by running the step.

    In a worker group, rank 0 decides and the other ranks follow. A cache that fails causes a warning, and the step
    runs.

    Returns:
        What the step's record says about the cache: `cache` (kind and key) and `reused_from`, the trial that produced
        the artifact, or None if this trial did. Empty where the cache was not used.

    Raises:
        StopRequestedError: The user asked to stop, during the step or while it waited for another trial.
        RunnerError: The step raised it.
    """
    artifact_spec = ARTIFACT_SPECS.get(step)
    if artifact_spec is None:
        _execute(context, step)
        return {}
    if not is_main_process():
        if wait_for_decision(context.run, step):
            _execute(context, step)
        return {}
    if context.run.no_cache_marker.exists():
        log_cache_event(context, step, "bypassed", f"{artifact_spec.label}: runs without the cache")
        broadcast_decision(context.run, step, must_run=True)
        _execute(context, step)
        return {}
    artifact = CachedArtifact(context, step, artifact_spec)
    with artifact.restore_or_lease() as is_restored:
        broadcast_decision(context.run, step, must_run=not is_restored)
        if not is_restored:
            _execute(context, step)
            artifact.publish()
    return artifact.record


def _execute(context: TrialContext, step: str) -> None:
    """Call the step's function. Its `started` event is logged here, so that a reused step has none."""
    if is_main_process():
        context.log.state(step, "started")
    STEP_FUNCTIONS[step](context)


def _record_end(context: TrialContext, step: str, status: str, started: datetime, **details: Any) -> None:
    if is_main_process():
        context.run.record_step(step, status, started, **details)
        context.log.state(step, "reused" if details.get("reused_from") else status, details.get("error"))


Status = Literal["finished", "failed", "interrupted", "pruned"]
"""`pruned`: a sweep stopped the trial, because its metrics had fallen behind; what it saved stays."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: Finished, failed, interrupted or pruned; an interrupted or pruned trial has saved its state.
        error: The error shown to the user.
        trace: The traceback, for `--debug`.
    """

    status: Status
    error: RunnerError | None = None
    trace: str = ""

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        problems = self.error.problems if isinstance(self.error, SpecError) else ()
        return {
            "status": self.status,
            "kind": type(self.error).__name__,
            "message": str(self.error or ""),
            "problems": [{"message": problem.message, "path": list(problem.path)} for problem in problems],
            "trace": self.trace,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Read what `as_json` wrote."""
        if data["status"] != "failed":
            return cls(data["status"])
        error_class = getattr(runner.errors, data["kind"], StepError)
        error: RunnerError
        if error_class is SpecError:
            error = SpecError([Problem(problem["message"], tuple(problem["path"])) for problem in data["problems"]])
        else:
            error = error_class(data["message"])
        return cls("failed", error, data["trace"])


def outcome_of_trial(spec: ExperimentSpec, folder: Path, steps: Sequence[str] | None = None) -> Outcome:
    """Run a trial in this process, as `run_trial` does, and return its errors as part of the outcome."""
    try:
        run_trial(spec, folder, steps)
    except StopRequestedError:
        return Outcome("interrupted")
    except RunnerError as error:
        return Outcome("failed", error, traceback.format_exc())
    return Outcome("finished")
