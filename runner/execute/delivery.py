"""The one writer to the tracker: delivers each log once, across launches, whatever fails or is killed between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from runner.artifacts import write_json
from runner.events import EventTail
from runner.stages import TrackedRun, Tracker
from runner.steps.outcome import Status

DELIVERY_SECONDS = 2.0
"""A tracker is fed in batches of this length, since each delivery is a transaction."""
STATE_FILE = "tracker.json"
LOG_FILE = "events.jsonl"
FINAL = ("finished", "pruned")
"""How a run ended that nothing is added to any more."""
MISSES_AT_END = 2
"""After so many failures in turn a launch that is over waits no longer for the tracker."""


def tracker_state(folder: Path) -> dict[str, Any]:
    """How far the tracker is served with a run; or nothing.

    Returns:
        `run_id`, `link`, `delivered` (bytes of the log) and `complete`.
    """
    file = folder / STATE_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


class TrackerFeed:
    """Serves the tracker with one run out of its log; remembers how far it came, across launches."""

    def __init__(self, make_tracker: Callable[[], Tracker], run: TrackedRun) -> None:
        """Take up the run where an earlier launch left it; the tracker is made when it is first needed."""
        self._make_tracker, self._run = make_tracker, run
        self._tracker: Tracker | None = None
        state = tracker_state(run.run_dir)
        self.delivered = int(state.get("delivered", 0))
        self.complete = bool(state.get("complete", False))
        self.run_id: str | None = state.get("run_id")
        self.link = str(state.get("link", ""))

    def open(self) -> Tracker:
        """Begin the run with the tracker, or take it up there; whatever the tracker raises is raised."""
        if self._tracker is None:
            tracker = self._make_tracker()
            self.run_id = tracker.start(self._run)
            self.link = tracker.link()
            self.complete = False
            self._save()
            self._tracker = tracker
        return self._tracker

    @property
    def outstanding(self) -> bool:
        """Whether the tracker lacks something of the run."""
        log = self._run.run_dir / LOG_FILE
        return not self.complete or (log.exists() and log.stat().st_size > self.delivered)

    def serve(self) -> None:
        """Deliver what is new; whatever the tracker raises is raised, and what it missed comes with the next call."""
        tracker = self.open()
        tail = EventTail(self._run.run_dir / LOG_FILE, self.delivered)
        events = list(tail.read())
        if events:
            tracker.deliver(events)
        if tail.offset != self.delivered:
            self.delivered = tail.offset
            self._save()

    def finish(self, status: Status, results: Mapping[str, float]) -> None:
        """Deliver the rest, and results that no log holds, and set the run's final status; see `serve`."""
        self.serve()
        tracker = self.open()
        if results:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            tracker.deliver([{"time": now, "kind": "metrics", "step": None, "values": dict(results)}])
        tracker.finish(status)
        self.complete = status in FINAL
        self._save()

    def _save(self) -> None:
        state = {"run_id": self.run_id, "link": self.link, "delivered": self.delivered, "complete": self.complete}
        write_json(self._run.run_dir / STATE_FILE, state)


End = tuple[Status, Mapping[str, float]]


class Delivery(threading.Thread):
    """A thread that serves the tracker with all runs.

    A tracker that fails costs nothing but a warning: what it missed is delivered later, or when the spec is launched
    again.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Warn once where the tracker fails."""
        super().__init__(daemon=True, name="delivery")
        self._warn, self._warned = warn, False
        self._feeds: dict[TrackerFeed, End | None] = {}
        self._postponed: set[TrackerFeed] = set()
        self._held = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()

    def follow(self, feed: TrackerFeed) -> None:
        """Deliver what is told of a run from now on."""
        with self._held:
            self._feeds[feed] = None

    def finish(self, feed: TrackerFeed, status: Status, results: Mapping[str, float] | None = None) -> None:
        """Deliver the rest of a run that has ended, soon."""
        with self._held:
            self._feeds[feed] = (status, results or {})
        self._wake.set()

    def serves(self, feed: TrackerFeed) -> bool:
        """Whether there is still something to deliver of a run."""
        with self._held:
            return feed in self._feeds

    def run(self) -> None:
        """Deliver until told to close, then what is left."""
        while not self._closing.is_set():
            self._wake.wait(DELIVERY_SECONDS)
            self._wake.clear()
            self._round()
        self._round()

    def close(self, hurried: Callable[[], bool]) -> None:
        """Deliver what is left; not waited for where the user is in a hurry."""
        self._closing.set()
        self._wake.set()
        while self.is_alive() and not hurried():
            self.join(0.1)

    def _round(self) -> None:
        """Serve every run, those that have ended first; none more where the tracker seems to be away.

        An end that failed, of which a large file may be the cause, is tried once more when the launch closes.
        """
        with self._held:
            due = sorted(self._feeds.items(), key=lambda item: item[1] is None)
        if not self._closing.is_set():
            due = [(feed, end) for feed, end in due if feed not in self._postponed]
        misses = 0
        for feed, end in due:
            done = self._attempt(feed.serve if end is None else partial(feed.finish, *end))
            misses = 0 if done else misses + 1
            if end is not None and done:
                with self._held:
                    self._feeds.pop(feed, None)
            elif end is not None:
                self._postponed.add(feed)
            if misses >= MISSES_AT_END:
                return

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # a tracker's failure must never end a training
            if not self._warned:
                self._warn(
                    f"the tracker does not answer ({type(error).__name__}: {str(error).strip()[:200]}); the run goes "
                    "on, and what it misses is delivered when it answers or when this spec is launched again"
                )
            self._warned = True
            return False
        return True
