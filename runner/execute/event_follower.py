"""Follows the event logs of running trials, for the display and the search."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from runner.trial.run_directory_and_events import Event, EventTail

POLL_SECONDS = 0.2

ErrorCallback = Callable[[Exception], None]
"""Called with what a callback has raised; must not raise itself."""
EventCallback = Callable[[str, Event, bool], None]
"""Called with a trial's name, an event, and whether the event was written since the trial was added."""


class EventFollower(threading.Thread):
    """A thread that reads the logs of all running trials as they grow."""

    def __init__(self, on_event: EventCallback, on_poll: Callable[[], None], on_error: ErrorCallback) -> None:
        """Initialize the thread.

        Args:
            on_event: Called with every event of a log, from its first one on; a search ignores what it already knows.
            on_poll: Called before each reading. The main thread cannot check for signals while a trial runs in it.
            on_error: Called with the exception of a callback or of a reading. The thread continues, because nothing
                else stops trials that are to be pruned, or forwards Ctrl-C.
        """
        super().__init__(daemon=True, name="event-follower")
        self._on_event, self._on_poll, self._on_error = on_event, on_poll, on_error
        self._logs: dict[str, tuple[EventTail, int]] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()

    def add(self, trial: str, log: Path) -> None:
        """Follow the log of a trial."""
        size = log.stat().st_size if log.exists() else 0
        with self._lock:
            self._logs[trial] = (EventTail(log), size)

    def remove(self, trial: str) -> None:
        """Read the rest of a trial's log in the calling thread, then stop following it; no effect if not followed."""
        with self._lock:
            if trial in self._logs:
                self._read(trial, *self._logs.pop(trial))

    def run(self) -> None:
        """Read the logs until `stop` is called."""
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._on_poll()
            except Exception as error:
                self._on_error(error)
            with self._lock:
                for trial, (tail, old_size) in list(self._logs.items()):
                    self._read(trial, tail, old_size)

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _read(self, trial: str, tail: EventTail, old_size: int) -> None:
        events = tail.read()
        while True:
            try:
                event = next(events, None)
                if event is None:
                    return
                self._on_event(trial, event, tail.offset > old_size)
            except Exception as error:  # an error of the display, of the search, or of the disk
                self._on_error(error)
