"""Uploads the event log of one run to the tracker, and stores how far it came so that any process can continue."""

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
FINAL_STATUSES = ("finished", "pruned")
"""Statuses of a run to which nothing is added later."""
EVENTS_PER_UPLOAD = 2_000
"""Events per upload, after each of which the progress is saved. A tracker that fails then misses no more than this."""
MAX_CONSECUTIVE_FAILURES = 2
"""After this many failed runs in a row the tracker counts as unreachable, and no other run is tried for now."""


class UploadedElsewhereError(StepError):
    """Another process uploads the run, and will complete it."""


def tracker_state(folder: Path) -> dict[str, Any]:
    """Read how much of a run the tracker has received.

    Returns:
        `run_id`, `link`, `delivered` (bytes of the log), `complete`, `status` (the last one that was sent), and
        `store` (which tracker it is). Empty if nothing was uploaded yet.
    """
    file = folder / TRACKER_STATE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


class RunSync:
    """Uploads the event log of one run to the tracker, and remembers its progress across launches.

    Attributes:
        delivered: Bytes of the log that the tracker has received.
        complete: Whether the run has a final status there.
        status: The last status that was sent; None if none was.
        run_id: The tracker's id of the run; None before it was opened there.
        link: Where a person can see the run.
    """

    def __init__(
        self,
        make_tracker: Callable[[], Tracker],
        run: TrackedRun,
        parent: RunSync | None = None,
        store: str | None = None,
    ) -> None:
        """Read the state that an earlier launch left; the tracker is opened when it is first needed.

        Args:
            make_tracker: Opens the tracker.
            run: Describes the run; its `existing_run_id` and `parent` are set here.
            parent: The sync of the sweep that the run belongs to, which is opened first.
            store: Identifies the tracker. The state of another tracker is ignored.
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
        """Start the run at the tracker, or continue it there.

        Raises:
            UploadedElsewhereError: Another process uploads this run.
            Exception: Whatever the tracker raises.
        """
        if self._tracker is None:
            self._acquire_lock()
            tracker = self._make_tracker()
            run = replace(self._run, existing_run_id=self.run_id)
            if self._parent is not None:
                if self._parent.run_id is None:
                    self._parent.open()
                run = replace(run, parent=self._parent.run_id)
            run_id = tracker.start(run)
            if run_id != self.run_id:
                self.delivered = 0  # This is a new run: the earlier one, with what it received, no longer exists.
            self.run_id, self.link = run_id, tracker.link()
            self.complete, self.status = False, "running"
            self._save()
            self._tracker = tracker
        return self._tracker

    def needs_upload(self, status: Status) -> bool:
        """Whether the tracker lacks anything of a run that ended with this status."""
        has_status = self.complete if self.status is None else self.status == status
        return self.run_id is None or not has_status or self._log_size > self.delivered

    def upload(self) -> int:
        """Upload new events. Whatever the tracker raises is raised; the next call sends what is missing.

        Returns:
            The number of events.
        """
        tracker, num_events = self.open(), 0
        tail = EventTail(self._run.run_dir / LOG_FILE, self.delivered)
        reader = tail.read()
        while events := list(islice(reader, EVENTS_PER_UPLOAD)):
            tracker.log_events(events)
            num_events += len(events)
            self._save_offset(tail.offset)
        self._save_offset(tail.offset)
        return num_events

    def finish(self, status: Status, results: Mapping[str, float]) -> int:
        """Upload the remaining events and results that no log holds, then set the run's final status; see `upload`."""
        num_events = self.upload()
        tracker = self.open()
        if results:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            tracker.log_events([{"time": now, "kind": "metrics", "step": None, "values": dict(results)}])
        tracker.finish(status)
        self.complete, self.status = status in FINAL_STATUSES, status
        self._save()
        return num_events

    def release(self) -> None:
        """Release the lock, so that other processes can upload the run."""
        self._lock.release(force=True)

    @property
    def _log_size(self) -> int:
        log = self._run.run_dir / LOG_FILE
        return log.stat().st_size if log.exists() else 0

    def _acquire_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UploadedElsewhereError(
                f"{self._run.run_dir}: another process is uploading this run to the tracker"
            ) from error

    def _save_offset(self, offset: int) -> None:
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
