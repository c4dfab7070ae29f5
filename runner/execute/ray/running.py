"""A trial on the cluster, taken up again where its end was not its own fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from runner.artifacts import RunDirectory, steps_of
from runner.errors import LostWorkerError, OutOfMemoryError, RunnerError, StepError
from runner.events import EventLog
from runner.execute.ray.attempt import TRAIN
from runner.plan import plan_with, read_plan
from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome


class Holding(Protocol):
    """An attempt that holds its places."""

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""

    def release(self) -> None:
        """Give the places back; what still runs there is killed."""


Place = Callable[[str, Path, ComputeOptions], Holding | None]
"""Takes places for a trial and begins an attempt; None where there is no room now."""


class RayRunning:
    """A trial that was started; see `Running`."""

    def __init__(self, plan: str, folder: Path, compute: ComputeOptions, place: Place, first: Holding) -> None:
        """Take the trial, how to place it again, and its first attempt."""
        self._plan, self._compute, self._place = plan, compute, place
        self._run = RunDirectory(folder)
        self._attempt: Holding | None = first
        self._retries_left = compute.retries
        self._told: Outcome | None = None

    def outcome(self) -> Outcome | None:
        """How the trial ended; None while it runs or waits for room to be taken up again."""
        if self._told is None:
            try:
                self._told = self._look()
            except RunnerError as error:
                self._told = Outcome("failed", error)
            except Exception as error:  # Ray itself; the other trials go on
                self._told = Outcome("failed", StepError(f"the cluster does not answer: {error}"))
            if self._told is not None:
                self._let_go()
        return self._told

    def end(self) -> None:
        """End it at once; what it saved stays."""
        self._told = self._told or Outcome("interrupted")
        self._let_go()

    def _look(self) -> Outcome | None:
        if self._attempt is None:
            if self._run.stop_request.exists():
                return Outcome("interrupted")
            self._attempt = self._place(self._plan, self._run.path, self._compute)
            return None
        told = self._attempt.outcome()
        if told is None or not self._taken_up_again(told):
            return told
        self._let_go()
        return None

    def _let_go(self) -> None:
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.release()

    def _taken_up_again(self, told: Outcome) -> bool:
        """Whether an end is one that another attempt may not come to; changes the plan where it must be."""
        if not isinstance(told.error, LostWorkerError | OutOfMemoryError) or not self._retries_left:
            return False
        change = "from its last checkpoint"
        if isinstance(told.error, OutOfMemoryError):
            smaller = self._smaller()
            if not smaller:
                return False
            self._plan = plan_with(self._plan, {"trainer": smaller})
            change = f"with {', '.join(f'trainer.{name} {value}' for name, value in smaller.items())}"
        self._retries_left -= 1
        number = f"{self._compute.retries - self._retries_left} of {self._compute.retries}"
        EventLog(self._run.events).warning(f"{told.error}; the trial is taken up again {change} (retry {number})")
        return True

    def _smaller(self) -> Mapping[str, Any]:
        """What changes for a training that ran out of memory; nothing where nothing may or can."""
        spec = read_plan(self._plan)
        if not self._compute.smaller_micro_batch or TRAIN not in steps_of(spec) or self._run.finished(TRAIN):
            return {}
        assert spec.trainer is not None
        return spec.trainer.options.with_less_memory(self._compute.workers)
