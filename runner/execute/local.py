"""Runs trials in this process, for debuggers: no worker, no pickling, breakpoints work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.errors import UnmetError
from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome, outcome_of_trial


@dataclass(frozen=True)
class Ended:
    """A trial that is over; see `Running`."""

    told: Outcome

    def outcome(self) -> Outcome:
        """How it ended."""
        return self.told

    def end(self) -> None:
        """It has ended."""


class LocalExecutor:
    """Runs each trial here and now, to its end."""

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

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> Ended:
        """Run a trial; see `Executor.start`."""
        self.refuse_unplaceable(compute)
        return Ended(outcome_of_trial(plan, folder))

    def waits_for(self, compute: ComputeOptions) -> str:
        """Nothing ever waits here but for the trial before it."""
        return "the trial that runs"

    def close(self) -> None:
        """Nothing was started."""
