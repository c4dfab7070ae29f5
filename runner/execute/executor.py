"""What can run a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome


class Executor(Protocol):
    """Runs trials one at a time; a request to stop reaches them by the run directory's stop file."""

    def run(self, plan: str, folder: Path, compute: ComputeOptions) -> Outcome:
        """Run the unfinished steps of a trial.

        Args:
            plan: The trial's plan as JSON.
            folder: Its run directory, which has been begun.
            compute: What the trial's workers need.
        """

    def close(self) -> None:
        """Let go of what was started."""
