"""Runs the steps of one trial in this process, skipping what is finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.artifacts import RunDirectory, steps_of
from runner.errors import OutOfMemoryError, RunnerError, StepError, out_of_memory
from runner.events import EventLog
from runner.plan import read_plan
from runner.stages import StopRequestedError
from runner.steps.context import TrialContext, main_process
from runner.steps.generate import generate
from runner.steps.score import score
from runner.steps.share import share
from runner.steps.train import train
from runner.steps.usage import sampled

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
    seconds = context.spec.compute.sample_every if main_process() else 0
    with sampled(run, context.log, seconds):
        for step in steps_of(context.spec) if steps is None else steps:
            if not run.finished(step):
                _run_step(context, step)


def _run_step(context: TrialContext, step: str) -> None:
    started = datetime.now(UTC)
    if context.run.stop_request.exists():
        raise StopRequestedError
    try:
        told = share(context, step, _started(step))
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
