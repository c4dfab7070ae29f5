"""Follows a trial's events while it runs, and passes them to the terminal and the tracker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from runner.artifacts import write_json
from runner.events import Event, EventTail
from runner.stages import Tracker
from runner.steps.outcome import Status

POLL_SECONDS = 0.2
DELIVERY_SECONDS = 2.0
"""A tracker is fed in batches of this length, since each delivery is a transaction."""
STATE_FILE = "tracker.json"


class Listener(Protocol):
    """Who is shown what happens."""

    def event(self, event: Event) -> None:
        """Something happened in the trial that runs."""

    def warn(self, message: str) -> None:
        """Something went wrong that stops nothing."""


def tracker_state(folder: Path) -> dict[str, Any]:
    """How far the tracker is served with a trial: `run_id`, `delivered` (bytes of the log), `complete`; or nothing."""
    file = folder / STATE_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


class TrackerFeed:
    """The one writer to the tracker for a trial; remembers how far it came, across launches.

    A tracker that fails later than at its start costs nothing but a warning: what it missed is delivered
    with the next batch, or when the spec is launched again.
    """

    def __init__(self, tracker: Tracker, folder: Path, listener: Listener) -> None:
        """Take up the trial in this folder where an earlier launch left it."""
        self._tracker, self._listener = tracker, listener
        self._folder = folder
        state = tracker_state(folder)
        self.delivered = int(state.get("delivered", 0))
        self.complete = bool(state.get("complete", False))
        self.run_id: str | None = state.get("run_id")
        self._waiting: list[Event] = []
        self._warned = False

    def started(self, run_id: str) -> None:
        """Note the tracker's id of the run."""
        self.run_id = run_id
        self.complete = False
        self._save()

    def add(self, event: Event) -> None:
        """Put an event into the next batch."""
        self._waiting.append(event)

    def flush(self, offset: int) -> None:
        """Deliver what waits; `offset` is how far the log has been read."""
        if self._waiting and self._attempt(lambda: self._tracker.deliver(self._waiting)):
            self._waiting = []
        if not self._waiting and offset != self.delivered:
            self.delivered = offset
            self._save()

    def finish(self, status: Status, offset: int) -> None:
        """Deliver the rest and set the run's final status."""
        self.flush(offset)
        if not self._waiting and self._attempt(lambda: self._tracker.finish(status)):
            self.complete = status == "finished"
            self._save()

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # a tracker's failure must never end a training
            if not self._warned:
                self._listener.warn(
                    f"the tracker does not answer ({type(error).__name__}: {str(error).strip()[:200]}); the run goes "
                    "on, and what it misses is delivered when it answers or when this spec is launched again"
                )
            self._warned = True
            return False
        return True

    def _save(self) -> None:
        state = {"run_id": self.run_id, "delivered": self.delivered, "complete": self.complete}
        write_json(self._folder / STATE_FILE, state)


class Watch(threading.Thread):
    """A thread that reads a trial's log as it grows."""

    def __init__(self, log: Path, feed: TrackerFeed, listener: Listener) -> None:
        """Begin for the tracker where it was left, and for the listener at what is new."""
        super().__init__(daemon=True, name="watch")
        self._tail = EventTail(log, feed.delivered)
        self._old = log.stat().st_size if log.exists() else 0
        self._feed, self._listener = feed, listener
        self._ending = threading.Event()

    def run(self) -> None:
        """Read until told to end, then once more."""
        polls_a_delivery = max(1, round(DELIVERY_SECONDS / POLL_SECONDS))
        polls = 0
        while not self._ending.wait(POLL_SECONDS):
            self._read()
            polls += 1
            if polls % polls_a_delivery == 0:
                self._feed.flush(self._tail.offset)

    def end(self, status: Status) -> None:
        """Read the rest, deliver it, and set the run's status with the tracker."""
        self._ending.set()
        self.join()
        self._read()
        self._feed.finish(status, self._tail.offset)

    def _read(self) -> None:
        for event in self._tail.read():
            self._feed.add(event)
            if self._tail.offset > self._old:
                self._listener.event(event)


def replay(log: Path, feed: TrackerFeed, status: Status) -> None:
    """Deliver what an earlier launch could not."""
    tail = EventTail(log, feed.delivered)
    for event in tail.read():
        feed.add(event)
    feed.finish(status, tail.offset)
