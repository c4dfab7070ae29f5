"""Follows the logs of the trials that run, for whoever shows them and for the search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.events import Event, EventTail

POLL_SECONDS = 0.2
OBJECTIVES = "validation/"
"""How the names of metrics begin that a search may go by; the test split is read once, at the end."""

Seen = Callable[[str, Event, bool], None]
"""Called with a trial's name, an event, and whether it came since the trial was taken up."""


class Watch(threading.Thread):
    """A thread that reads the logs of all trials that run, as they grow."""

    def __init__(self, seen: Seen, look: Callable[[], None]) -> None:
        """Pass every event on, from the first one of a log: what a search has heard already, it passes over.

        Args:
            seen: Told of events.
            look: Called before each reading; trials that run in this process keep its main thread from looking.
        """
        super().__init__(daemon=True, name="watch")
        self._seen, self._look = seen, look
        self._logs: dict[str, tuple[EventTail, int]] = {}
        self._reading = threading.RLock()
        self._ending = threading.Event()

    def add(self, trial: str, log: Path) -> None:
        """Follow the log of a trial."""
        size = log.stat().st_size if log.exists() else 0
        with self._reading:
            self._logs[trial] = (EventTail(log), size)

    def leave(self, trial: str) -> None:
        """Read the rest of a trial's log, in this thread, and follow it no longer; nothing, if it is not followed."""
        with self._reading:
            if trial in self._logs:
                self._read(trial, *self._logs.pop(trial))

    def run(self) -> None:
        """Read until told to end."""
        while not self._ending.wait(POLL_SECONDS):
            self._look()
            with self._reading:
                for trial, (tail, old) in list(self._logs.items()):
                    self._read(trial, tail, old)

    def end(self) -> None:
        """Read no more."""
        self._ending.set()
        if self.is_alive():
            self.join()

    def _read(self, trial: str, tail: EventTail, old: int) -> None:
        for event in tail.read():
            self._seen(trial, event, tail.offset > old)


def objectives(event: Event) -> dict[str, float]:
    """The metrics of an event that a search may go by."""
    if event["kind"] != "metrics" or event["step"] is None:
        return {}
    values: Mapping[str, Any] = event["values"]
    return {name: value for name, value in values.items() if name.startswith(OBJECTIVES) and value is not None}
