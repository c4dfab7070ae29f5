"""Runs the steps of one trial in this process and returns how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import runner.errors
from runner.errors import OutOfMemoryError, Problem, RunnerError, SpecError, StepError, out_of_memory
from runner.plan import read_plan
from runner.stages import StopRequestedError
from runner.trial.context import TrialContext, main_process
from runner.trial.events import EventLog
from runner.trial.generate import generate
from runner.trial.resource_usage import sampled
from runner.trial.reuse import reuse_or_run
from runner.trial.run_directory import RunDirectory, steps_of
from runner.trial.score import score
from runner.trial.train import train

ACTIONS: dict[str, Callable[[TrialContext], None]] = {"train": train, "generate": generate, "score": score}


def run_trial(plan: str, folder: Path, steps: Sequence[str] | None = None) -> None:
    """Run the unfinished steps of a trial, in order.

    Args:
        plan: The trial's plan as JSON.
        folder: Its run directory, which has been begun.
        steps: Which steps; all of the trial's by default.

    Raises:
        StopRequestedError: The user asked to stop, and what was reached is saved.
        RunnerError: The spec or the data turned out wrong, or a step failed; the events and the record say so too.
    """
    run = RunDirectory(folder)
    context = TrialContext(read_plan(plan), run, EventLog(run.events))
    # One process of a group samples, since one alone writes the log.
    seconds = context.spec.compute.usage_interval if main_process() else 0
    with sampled(run, context.log, seconds):
        for step in steps_of(context.spec) if steps is None else steps:
            if not run.finished(step):
                _run_step(context, step)


def _run_step(context: TrialContext, step: str) -> None:
    started = datetime.now(UTC)
    if context.run.stop_request.exists():
        raise StopRequestedError
    try:
        told = reuse_or_run(context, step, _started(step))
    except (StopRequestedError, KeyboardInterrupt):
        _end(context, step, "interrupted", started)
        raise
    except RunnerError as error:
        _end(context, step, "failed", started, error=str(error))
        raise
    except Exception as error:
        _end(context, step, "failed", started, error=f"{type(error).__name__}: {error}")
        kind = OutOfMemoryError if out_of_memory(error) else StepError
        raise kind(f"{step}: {type(error).__name__}: {error}") from error
    _end(context, step, "finished", started, **told)


def _started(step: str) -> Callable[[TrialContext], None]:
    """A step that says when it begins: one that is taken from another trial does not."""

    def run(context: TrialContext) -> None:
        if main_process():
            context.log.state(step, "started")
        ACTIONS[step](context)

    return run


def _end(context: TrialContext, step: str, status: str, started: datetime, **told: Any) -> None:
    if main_process():
        context.run.record_step(step, status, started, **told)
        context.log.state(step, "reused" if told.get("reused_from") else status, told.get("error"))


Status = Literal["finished", "failed", "interrupted", "pruned"]
"""`pruned`: a sweep asked for its end, as its figures had fallen behind; what it saved stays."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: Finished, failed, interrupted with its state saved, or likewise pruned.
        error: What went wrong, as the user is told it.
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
            "problems": [{"message": each.message, "path": list(each.path)} for each in problems],
            "trace": self.trace,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Outcome:
        """Read what `as_json` wrote."""
        if told["status"] != "failed":
            return cls(told["status"])
        kind = getattr(runner.errors, told["kind"], StepError)
        error: RunnerError
        if kind is SpecError:
            error = SpecError([Problem(each["message"], tuple(each["path"])) for each in told["problems"]])
        else:
            error = kind(told["message"])
        return cls("failed", error, told["trace"])


def outcome_of_trial(plan: str, folder: Path, steps: Sequence[str] | None = None) -> Outcome:
    """Run a trial in this process; see `run_trial`. Its errors become part of the outcome."""
    try:
        run_trial(plan, folder, steps)
    except StopRequestedError:
        return Outcome("interrupted")
    except RunnerError as error:
        return Outcome("failed", error, traceback.format_exc())
    return Outcome("finished")
