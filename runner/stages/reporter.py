"""How a running step tells what happens, and hears that it is to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class StopRequestedError(Exception):
    """Raised by a step at a safe point after `Reporter.stop_requested` said yes and its state was saved."""


class Reporter(Protocol):
    """Where a running step tells what happens; the engine turns it into events, bars and tracked metrics."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell how many units of the running step are done; `shown` are figures to print beside the bar."""

    def warn(self, message: str) -> None:
        """Tell the user something that they should know and that stops nothing."""

    def stop_requested(self) -> bool:
        """Whether the user asked to stop: save, then raise `StopRequestedError`."""
