"""Follows the event logs of running trials, for the display, and reports their metrics to the search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.resolved_plan import Trial
from runner.sweep.trial_source import TrialSource
from runner.trial.run_directory import Event, EventTail
from runner.trial.run_trial import Status

POLL_SECONDS = 0.2
VALIDATION_PREFIX = "validation/"
"""Prefix of the metrics that a search may use; the test split is evaluated once, at the end."""

EventCallback = Callable[[str, Event, bool], None]
"""Called with a trial's name, an event, and whether the event was written since the trial was added."""


class EventFollower(threading.Thread):
    """A thread that reads the logs of all running trials as they grow."""

    def __init__(self, on_event: EventCallback, on_poll: Callable[[], None]) -> None:
        """Initialize the thread.

        Args:
            on_event: Called with every event of a log, from its first one on; a search ignores what it already knows.
            on_poll: Called before each reading. The main thread cannot check for signals while a trial runs in it.
        """
        super().__init__(daemon=True, name="event-follower")
        self._on_event, self._on_poll = on_event, on_poll
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
            self._on_poll()
            with self._lock:
                for trial, (tail, old_size) in list(self._logs.items()):
                    self._read(trial, tail, old_size)

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _read(self, trial: str, tail: EventTail, old_size: int) -> None:
        for event in tail.read():
            self._on_event(trial, event, tail.offset > old_size)


def validation_metrics_of(event: Event) -> dict[str, float]:
    """The validation metrics of an event, which a search may use; empty for other events."""
    if event["kind"] != "metrics" or event["step"] is None:
        return {}
    values: Mapping[str, Any] = event["values"]
    return {name: value for name, value in values.items() if name.startswith(VALIDATION_PREFIX) and value is not None}


class SearchClient:
    """Thread-safe access to the source of trials; see `runner.sweep.trial_source.TrialSource`."""

    def __init__(self, source: TrialSource, objective: str | None) -> None:
        """Set the source of trials and the name of the objective's metric, if there is one."""
        self._source, self._objective = source, objective
        self._lock = threading.Lock()

    def ask(self) -> Trial | None:
        """Ask for the next trial to run."""
        with self._lock:
            return self._source.ask()

    def done(self) -> bool:
        """Whether no further trial will be proposed."""
        with self._lock:
            return self._source.done()

    def summary(self) -> Mapping[str, Any]:
        """Summarize the search so far."""
        with self._lock:
            return self._source.summary()

    def report(self, trial: Trial, event: Event, last_values: dict[str, float]) -> bool:
        """Report an event's validation metrics to the search, and add them to `last_values`.

        Returns:
            Whether the trial is to be stopped, since the search prunes it.
        """
        values = validation_metrics_of(event)
        last_values |= values
        if not values:
            return False
        with self._lock:
            return self._source.report(trial, event["step"], values)

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], last_values: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Tell the search how a trial ended, and return the summary after that."""
        with self._lock:
            self._source.tell(trial, status, metrics, last_values)
            return self._source.summary()

    def objective_value(self, status: Status, last_values: Mapping[str, float]) -> float | None:
        """The objective's value of a trial that has ended; None unless it is finished."""
        return last_values.get(self._objective) if self._objective and status == "finished" else None
