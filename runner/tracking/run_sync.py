"""What the tracker has received of one run, stored beside the run so that any process can continue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runner.errors import StepError
from runner.files import write_json
from runner.stages import TrackedRun, Tracker
from runner.trial.events import EventTail
from runner.trial.run_directory import TRACKER_LOCK, TRACKER_STATE
from runner.trial.run_trial import Status

LOG_FILE = "events.jsonl"
FINAL = ("finished", "pruned")
"""How a run ended that nothing is added to any more."""
BATCH = 2_000
"""So many events are delivered before it is noted that they were: a tracker that goes away then misses no more."""
MISSES_IN_TURN = 2
"""After so many runs in turn that the tracker does not take it seems to be away, and no others are tried for now."""


class UploadedElsewhereError(StepError):
    """Another process delivers the run, and will be done with it."""


def tracker_state(folder: Path) -> dict[str, Any]:
    """How far the tracker is served with a run; or nothing.

    Returns:
        `run_id`, `link`, `delivered` (bytes of the log), `complete`, `status` (the last one that it was told), and
        `store`, which tracker it is.
    """
    file = folder / TRACKER_STATE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


class RunSync:
    """Serves the tracker with one run out of its log; remembers how far it came, across launches."""

    def __init__(
        self,
        make_tracker: Callable[[], Tracker],
        run: TrackedRun,
        parent: RunSync | None = None,
        store: str | None = None,
    ) -> None:
        """Take up the run where an earlier launch left it; the tracker is made when it is first needed.

        Args:
            make_tracker: Opens the tracker.
            run: What it is told; its `known_as` and `parent` are filled in here.
            parent: The feed of the sweep that the run is shown under, opened before it.
            store: Names the tracker: what another one was told, this one was not.
        """
        self._make_tracker, self._run, self._parent, self._store = make_tracker, run, parent, store
        self._tracker: Tracker | None = None
        self._lock = FileLock(run.run_dir / TRACKER_LOCK, thread_local=False)
        state = tracker_state(run.run_dir)
        if state.get("store") not in {None, store}:
            state = {}
        self.delivered = int(state.get("delivered", 0))
        self.complete = bool(state.get("complete", False))
        self.status: str | None = state.get("status")
        self.run_id: str | None = state.get("run_id")
        self.link = str(state.get("link", ""))

    def open(self) -> Tracker:
        """Begin the run with the tracker, or take it up there; whatever the tracker raises is raised.

        Raises:
            DeliveredElsewhereError: Another process delivers this run.
        """
        if self._tracker is None:
            self._hold()
            tracker = self._make_tracker()
            run = replace(self._run, known_as=self.run_id)
            if self._parent is not None:
                if self._parent.run_id is None:
                    self._parent.open()
                run = replace(run, parent=self._parent.run_id)
            run_id = tracker.start(run)
            if run_id != self.run_id:
                self.delivered = 0  # What an earlier one was told, which is gone, this one was not.
            self.run_id, self.link = run_id, tracker.link()
            self.complete, self.status = False, "running"
            self._save()
            self._tracker = tracker
        return self._tracker

    @property
    def outstanding(self) -> bool:
        """Whether the tracker lacks something of the run."""
        return not self.complete or self._log_size > self.delivered

    def lacks(self, status: Status) -> bool:
        """Whether the tracker lacks something of a run that has ended so."""
        told = self.complete if self.status is None else self.status == status
        return self.run_id is None or not told or self._log_size > self.delivered

    def serve(self) -> int:
        """Deliver what is new; whatever the tracker raises is raised, and what it missed comes with the next call.

        Returns:
            How many events were new.
        """
        tracker, number = self.open(), 0
        tail = EventTail(self._run.run_dir / LOG_FILE, self.delivered)
        reading = tail.read()
        while events := list(islice(reading, BATCH)):
            tracker.deliver(events)
            number += len(events)
            self._note(tail.offset)
        self._note(tail.offset)
        return number

    def finish(self, status: Status, results: Mapping[str, float]) -> int:
        """Deliver the rest, and results that no log holds, and set the run's final status; see `serve`."""
        number = self.serve()
        tracker = self.open()
        if results:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            tracker.deliver([{"time": now, "kind": "metrics", "step": None, "values": dict(results)}])
        tracker.finish(status)
        self.complete, self.status = status in FINAL, status
        self._save()
        return number

    def release(self) -> None:
        """Let other processes deliver the run."""
        self._lock.release(force=True)

    @property
    def _log_size(self) -> int:
        log = self._run.run_dir / LOG_FILE
        return log.stat().st_size if log.exists() else 0

    def _hold(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UploadedElsewhereError(
                f"{self._run.run_dir}: another process delivers this run to the tracker"
            ) from error

    def _note(self, offset: int) -> None:
        if offset != self.delivered:
            self.delivered = offset
            self._save()

    def _save(self) -> None:
        state = {
            "run_id": self.run_id,
            "link": self.link,
            "delivered": self.delivered,
            "complete": self.complete,
            "status": self.status,
            "store": self._store,
        }
        write_json(self._run.run_dir / TRACKER_STATE, state)
