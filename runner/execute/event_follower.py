"""Follows the event logs of running trials, for the display, and reports their metrics to the search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.plan import Trial
from runner.sweep.trial_source import TrialSource
from runner.trial.events import Event, EventTail
from runner.trial.run_trial import Status

POLL_SECONDS = 0.2
VALIDATION_PREFIX = "validation/"
"""How the names of metrics begin that a search may go by; the test split is read once, at the end."""

EventCallback = Callable[[str, Event, bool], None]
"""Called with a trial's name, an event, and whether it came since the trial was taken up."""


class EventFollower(threading.Thread):
    """A thread that reads the logs of all trials that run, as they grow."""

    def __init__(self, seen: EventCallback, look: Callable[[], None]) -> None:
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


def validation_metrics_of(event: Event) -> dict[str, float]:
    """The metrics of an event that a search may go by."""
    if event["kind"] != "metrics" or event["step"] is None:
        return {}
    values: Mapping[str, Any] = event["values"]
    return {name: value for name, value in values.items() if name.startswith(VALIDATION_PREFIX) and value is not None}


class SearchClient:
    """Speaks with what proposes trials, one thread at a time; see `runner.sweep.trial_source.TrialSource`."""

    def __init__(self, proposals: TrialSource, objective: str | None) -> None:
        """Take what proposes, and the metric that it goes by, if any."""
        self._proposals, self._objective = proposals, objective
        self._speaking = threading.Lock()

    def ask(self) -> Trial | None:
        """The next trial to run."""
        with self._speaking:
            return self._proposals.ask()

    def done(self) -> bool:
        """Whether nothing will be asked any more."""
        with self._speaking:
            return self._proposals.done()

    def summary(self) -> Mapping[str, Any]:
        """What is known so far."""
        with self._speaking:
            return self._proposals.summary()

    def hear(self, trial: Trial, event: Event, last: dict[str, float]) -> bool:
        """Pass on what the search goes by in an event, and note it in `last`; whether the trial is to be stopped."""
        values = validation_metrics_of(event)
        last |= values
        if not values:
            return False
        with self._speaking:
            return self._proposals.report(trial, event["step"], values)

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], last: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Tell of a trial's end; what is known then."""
        with self._speaking:
            self._proposals.tell(trial, status, metrics, last)
            return self._proposals.summary()

    def value(self, status: Status, last: Mapping[str, float]) -> float | None:
        """The objective's value of a trial that has come to its end."""
        return last.get(self._objective) if self._objective and status == "finished" else None
