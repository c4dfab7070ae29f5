"""Runs trials in this process, for debuggers: no worker, no pickling, breakpoints work."""

from __future__ import annotations

from pathlib import Path

from runner.errors import UnmetError
from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome, outcome_of_trial


class LocalTrial:
    """A trial that runs in this process, to its end, when it is asked how it ended; see `Running`."""

    def __init__(self, plan: str, folder: Path) -> None:
        """Take the plan and the run directory."""
        self._plan, self._folder = plan, folder
        self._outcome: Outcome | None = None

    def outcome(self) -> Outcome:
        """How it ended.

        Raises:
            KeyboardInterrupt: The user ends it at once.
        """
        if self._outcome is None:
            self._outcome = Outcome("interrupted")
            self._outcome = outcome_of_trial(self._plan, self._folder)
        return self._outcome

    @property
    def over(self) -> bool:
        """Whether it has run."""
        return self._outcome is not None

    def end(self) -> None:
        """It runs no longer, since this is called."""


class LocalExecutor:
    """Runs each trial here, one after the other."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._running: LocalTrial | None = None

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """See `Executor.refuse_unplaceable`.

        Raises:
            UnmetError: The spec asks for several workers, which one process cannot be.
        """
        if compute.workers > 1:
            raise UnmetError(
                f"compute.workers is {compute.workers}, and --local runs in one process: "
                "leave --local out, or add --set compute.workers=1"
            )

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> LocalTrial | None:
        """Take up a trial, if there is none to be run; see `Executor.start`."""
        if self._running is not None and not self._running.over:
            return None
        self._running = LocalTrial(plan, folder)
        return self._running

    def waits_for(self, compute: ComputeOptions) -> str:
        """There is one process."""
        return "the trial that runs in this process"

    def close(self) -> None:
        """Nothing was started."""
