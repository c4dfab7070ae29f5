"""Runs the steps of one trial in this process, skipping what is finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.artifacts import STEPS, RunDirectory
from runner.errors import DataError, RunnerError, StepError
from runner.events import EventLog, StepReporter
from runner.plan import implement, read_plan
from runner.records import Sample
from runner.spec.models import ExperimentSpec
from runner.stages import Adapter, DatasetInfo, Metric, Model, Reporter, StopRequestedError
from runner.steps.generate import generate
from runner.steps.score import score
from runner.steps.train import train


def main_process() -> bool:
    """Whether this process is the one of its worker group that writes; torch's launchers and Ray set `RANK`."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class TrialContext:
    """What the steps of a trial work with, each piece made when it is first asked for.

    Attributes:
        spec: The trial's plan.
        run: Its folder.
        log: Where it tells what happens.
    """

    spec: ExperimentSpec
    run: RunDirectory
    log: EventLog

    @cached_property
    def _data(self) -> tuple[Any, DatasetInfo]:
        data = implement(self.spec.data)
        info = data.prepare(self.reporter("data"))
        assert self.spec.pinned is not None
        if info.fingerprint != self.spec.pinned.data:
            raise DataError(
                f"{info.location}: the data set is not the one that the plan was made with (fingerprint "
                f"{info.fingerprint[:8]}, planned {self.spec.pinned.data[:8]}); was it changed meanwhile, or is "
                "this machine's copy another one?"
            )
        return data, info

    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of a split."""
        return self._data[0].load(split)  # type: ignore[no-any-return]

    @cached_property
    def adapter(self) -> Adapter:
        """The spec's adapter, told the data set's labels."""
        return implement(self.spec.adapter, self._data[1].labels)  # type: ignore[no-any-return]

    @cached_property
    def model(self) -> Model:
        """The spec's model, not yet loaded."""
        return implement(self.spec.model)  # type: ignore[no-any-return]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The spec's metrics by plugin name, in its order."""
        return {each.type: implement(each) for each in self.spec.metrics}

    def reporter(self, stage: str) -> Reporter:
        """A reporter for a step of this name."""
        return StepReporter(self.log, stage, self.run.stop_request)


ACTIONS: dict[str, Callable[[TrialContext], None]] = {"train": train, "generate": generate, "score": score}


def run_trial(plan: str, folder: Path, steps: Sequence[str] = STEPS) -> None:
    """Run the unfinished steps of a trial, in order.

    Args:
        plan: The trial's plan as JSON.
        folder: Its run directory, which has been begun.
        steps: Which steps; on a worker group, the one that it shares.

    Raises:
        StopRequestedError: The user asked to stop, and what was reached is saved.
        RunnerError: The spec or the data turned out wrong, or a step failed; the events and the record say so too.
    """
    run = RunDirectory(folder)
    context = TrialContext(read_plan(plan), run, EventLog(run.events))
    for step in steps:
        if not run.finished(step):
            _run_step(context, step)


def _run_step(context: TrialContext, step: str) -> None:
    started = datetime.now(UTC)
    if context.run.stop_request.exists():
        raise StopRequestedError
    if main_process():
        context.log.state(step, "started")
    try:
        ACTIONS[step](context)
    except (StopRequestedError, KeyboardInterrupt):
        _end(context, step, "interrupted", started, None)
        raise
    except RunnerError as error:
        _end(context, step, "failed", started, str(error))
        raise
    except Exception as error:
        _end(context, step, "failed", started, f"{type(error).__name__}: {error}")
        raise StepError(f"{step}: {type(error).__name__}: {error}") from error
    _end(context, step, "finished", started, None)


def _end(context: TrialContext, step: str, status: str, started: datetime, detail: str | None) -> None:
    if main_process():
        context.run.record_step(step, status, started, **({"error": detail} if detail else {}))
        context.log.state(step, status, detail)
