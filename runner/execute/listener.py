"""Who is shown a launch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from runner.events import Event
from runner.execute.results import TrialResult
from runner.plan import Trial


class LaunchListener(Protocol):
    """Shows a launch to a person; some calls come from a thread of their own."""

    def trial_started(self, trial: Trial, folder: Path, *, resumed: bool) -> None:
        """A trial begins, or goes on."""

    def trial_waits(self, trial: Trial, reason: str) -> None:
        """A trial found no room; told again and again, as the reason changes."""

    def event(self, trial: str, event: Event) -> None:
        """Something happened in a trial that runs."""

    def trial_ended(self, result: TrialResult) -> None:
        """A trial is at its end."""

    def searched(self, summary: Mapping[str, Any]) -> None:
        """The search took note of a result; see `runner.sweep.proposals.Proposals.summary`."""

    def warn(self, message: str) -> None:
        """Something went wrong that stops nothing."""

    def stopping(self) -> None:
        """The user asked to stop; the trials save their state."""
