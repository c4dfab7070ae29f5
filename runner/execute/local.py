"""Runs trials in this process, for debuggers: no worker, no pickling, breakpoints work."""

from __future__ import annotations

from pathlib import Path

from runner.errors import UnmetError
from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome, outcome_of_trial


class LocalExecutor:
    """Runs each trial here and now."""

    def run(self, plan: str, folder: Path, compute: ComputeOptions) -> Outcome:
        """Run a trial; see `Executor.run`.

        Raises:
            UnmetError: The spec asks for several workers, which one process cannot be.
        """
        if compute.workers > 1:
            raise UnmetError(
                f"compute.workers is {compute.workers}, and --local runs in one process: "
                "leave --local out, or add --set compute.workers=1"
            )
        return outcome_of_trial(plan, folder)

    def close(self) -> None:
        """Nothing was started."""
