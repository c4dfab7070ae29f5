"""Runs the steps of one trial in this process, and returns how it ended."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import runner.errors
from runner.errors import DivergedError, Problem, RunnerError, SpecError, StepError, step_error_class
from runner.preflight.resources import FAKE_GPUS
from runner.resolved_plan import check_code
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import StopRequestedError
from runner.stages.registry import describe_error
from runner.trial.generate import generate
from runner.trial.resource_usage import sample_usage
from runner.trial.restore_from_cache import (
    ARTIFACT_SPECS,
    CachedArtifact,
    broadcast_decision,
    log_cache_event,
    wait_for_decision,
)
from runner.trial.run_directory_and_events import EventLog, RunDirectory, steps_of
from runner.trial.score import score
from runner.trial.train import train
from runner.trial.trial_components import TrialContext, is_main_process

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
    uses_gpus = spec.compute.gpus_per_worker > 0 and os.environ.get(FAKE_GPUS) != "1"
    with sample_usage(run, context.log, interval, uses_gpus=uses_gpus):
        for step in steps_of(spec) if steps is None else steps:
            if not run.is_finished(step):
                _run_step(context, step)


def _run_step(context: TrialContext, step: str) -> None:
    """Run one step and record how it ended."""
    started = datetime.now(UTC)
    if context.run.stop_request.exists():
        raise StopRequestedError
    try:
        check_code(context.spec, step)
        cache_record = reuse_or_run(context, step)
    except (StopRequestedError, KeyboardInterrupt):
        _record_end(context, step, "interrupted", started)
        raise
    except RunnerError as error:
        diverged = {"diverged": True} if isinstance(error, DivergedError) else {}
        _record_end(context, step, "failed", started, error=str(error), **diverged)
        raise
    except Exception as error:
        message = describe_error(error)
        _record_end(context, step, "failed", started, error=message)
        raise step_error_class(error)(f"{step}: {message}") from error
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
    if not context.run.uses_cache(step):
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
    except OSError as error:  # The end of a step could not be recorded, for example because the disk is full.
        return Outcome("failed", StepError(describe_error(error)), traceback.format_exc())
    return Outcome("finished")
