"""Uploads event logs to the tracker in a background thread, with retries; resumable by any later process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runner.errors import DataError, RequirementError, RunnerError, StepError
from runner.files import read_json_object, write_json
from runner.redaction import redact_passwords
from runner.stages import TrackedRun, Tracker
from runner.trial.run_directory_and_events import TRACKER_LOCK, TRACKER_STATE, EventTail
from runner.trial.run_trial import Status

LOG_FILE = "events.jsonl"
FINAL_STATUSES = ("finished", "pruned")
"""Statuses of a run to which nothing is added later."""
EVENTS_PER_UPLOAD = 2_000
"""Events per upload, after each of which the progress is saved. A tracker that fails then misses no more than this."""
MAX_CONSECUTIVE_FAILURES = 2
"""After this many failed runs in a row the tracker counts as unreachable, and no other run is tried for now."""


class DeletedRunError(StepError):
    """A user has deleted the run in the tracker."""


class UploadedElsewhereError(StepError):
    """Another process uploads the run, and will complete it."""


def tracker_state(folder: Path) -> dict[str, Any]:
    """Read how much of a run the tracker has received.

    Returns:
        `run_id`, `link`, `delivered` (bytes of the log), `complete`, `status` (the last one that was sent), and
        `store` (which tracker it is). Empty if nothing was uploaded yet, or if the file is damaged: the tracker then
        finds the run by its tags and receives the whole log again.
    """
    try:
        state = read_json_object(folder / TRACKER_STATE, "")
    except (FileNotFoundError, DataError):
        return {}
    types = {"run_id": (str, type(None)), "delivered": (int,), "status": (str, type(None)), "link": (str,)}
    return state if all(isinstance(state.get(name), type_) for name, type_ in types.items()) else {}


MAX_ERROR_CHARACTERS = 300
"""Length of the part of a tracker's error that a message shows. The errors of databases contain the whole statement."""


def describe_tracker_error(error: Exception) -> str:
    """Describe an exception of a tracker in one line, without passwords; the first of its lines may not say why."""
    text = redact_passwords(" ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= MAX_ERROR_CHARACTERS else f"{text[:MAX_ERROR_CHARACTERS]}…"


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

    def look_up(self) -> None:
        """Check that the tracker still has a run that is complete; upload it again if the tracker's store was lost.

        Raises:
            DeletedRunError: A user has deleted the run; the message says how it comes back.
            Exception: Whatever the tracker raises.
        """
        if self.run_id is None:
            return
        state = self._make_tracker().find_run(self.run_id)
        if state == "deleted":
            raise DeletedRunError(
                f"{self._run.run_dir}: its run {self.run_id} was deleted in the tracker. Restore the run there, or "
                f"remove {self._run.run_dir / TRACKER_STATE} to upload it again"
            )
        if state == "missing":
            self.run_id, self.delivered, self.complete, self.status = None, 0, False, None
            if self._parent is not None:
                self._parent.look_up()

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


UPLOAD_SECONDS = 2.0
"""Time between uploads. Events are sent in batches, since each upload is a transaction."""
OPENING_SECONDS = 30.0
"""How long a launch waits for the tracker before its first trial; a tracker without an error by then is only slow."""
MAX_BACKOFF_SECONDS = 300.0
"""The longest pause between two attempts at a run that fails; each pause is twice the one before."""
PATIENCE_SECONDS = 5.0
"""If the end of a launch waits longer than this for the tracker, a message says so."""
FINAL_UPLOAD_SECONDS = 5.0
"""How long a launch that is stopped at once still tries to upload."""

End = tuple[Status, Mapping[str, float]]
"""How a run ended, and its results that no log holds."""


@dataclass
class Backoff:
    """The pause of a run after failed uploads.

    Attributes:
        num_failures: Failures in a row.
        until: When the run is tried again, in seconds of the monotonic clock.
    """

    num_failures: int = 0
    until: float = -math.inf

    def increase(self) -> None:
        """Count one more failure, and extend the pause."""
        self.num_failures += 1
        self.until = time.monotonic() + min(UPLOAD_SECONDS * 2**self.num_failures, MAX_BACKOFF_SECONDS)


class TrackerUploader(threading.Thread):
    """A thread that uploads all runs to the tracker; nothing else calls the tracker while it runs.

    If the tracker fails, a warning says so and the launch continues. What is missing is uploaded later: by a retry, by
    `runner sync`, or when the spec is launched again.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Initialize the thread; `warn` is called at the first failure."""
        super().__init__(daemon=True, name="uploader")
        self._warn, self._has_warned = warn, False
        self._syncs: dict[RunSync, End | None] = {}
        self._backoffs: dict[RunSync, Backoff] = {}
        self._lock = threading.Lock()
        self._wake, self._closing, self._opened = threading.Event(), threading.Event(), threading.Event()
        self._opening_error: Exception | None = None

    def add(self, sync: RunSync) -> None:
        """Upload the events of a run from now on."""
        with self._lock:
            self._syncs.setdefault(sync, None)

    def wait_until_open(self, is_stopping: Callable[[], bool]) -> None:
        """Wait until the tracker has accepted or refused the first run, at most `OPENING_SECONDS`.

        Args:
            is_stopping: Whether the user has asked to stop, which ends the wait.

        Raises:
            RunnerError: The tracker refused the run, so that no run of this launch could be shown there.
        """
        deadline = time.monotonic() + OPENING_SECONDS
        self._wake.set()
        while not self._opened.wait(0.05) and self.is_alive() and not is_stopping():
            if time.monotonic() > deadline:
                self._opened.set()
                self._warn_once(f"the tracker has not answered within {OPENING_SECONDS:.0f} s")
        if isinstance(self._opening_error, RunnerError):
            raise self._opening_error
        if self._opening_error is not None:
            cause = describe_tracker_error(self._opening_error)
            raise RequirementError(f"the tracker cannot be opened: {cause}") from self._opening_error

    def finish(self, sync: RunSync, status: Status, results: Mapping[str, float] | None = None) -> None:
        """Upload the rest of a run that has ended, and its final status, soon."""
        with self._lock:
            self._syncs[sync] = (status, results or {})
        self._wake.set()

    def has_pending(self, sync: RunSync) -> bool:
        """Whether part of a run is still to be uploaded."""
        with self._lock:
            return sync in self._syncs

    def run(self) -> None:
        """Upload until `close` is called, then once more."""
        while not self._closing.is_set():
            self._wake.wait(UPLOAD_SECONDS)
            self._wake.clear()
            with suppress(Exception):  # The warning could not be displayed; without this thread nothing is uploaded.
                self._upload_due()
        self._upload_due()

    def close(self, is_hurried: Callable[[], bool]) -> None:
        """Upload what is left, and warn about what could not be uploaded.

        Args:
            is_hurried: Whether the user has asked to stop at once; then this takes at most `FINAL_UPLOAD_SECONDS`.
        """
        self._closing.set()
        self._wake.set()
        started, deadline = time.monotonic(), math.inf if self._opening_error is None else -math.inf
        has_said_waiting = False
        while self.is_alive() and time.monotonic() < deadline:
            self.join(0.1)
            if is_hurried():
                deadline = min(deadline, time.monotonic() + FINAL_UPLOAD_SECONDS)
            elif not has_said_waiting and time.monotonic() - started > PATIENCE_SECONDS:
                has_said_waiting = True
                self._warn("waiting for the tracker; press Ctrl-C twice to leave the rest to `runner sync --to SPEC`")
        with self._lock:
            unfinished = [sync for sync, end in self._syncs.items() if end is not None]
        for sync in unfinished:
            sync.release()
        if unfinished and self._opening_error is None and not self._has_warned:
            self._warn(
                f"{len(unfinished)} run(s) are not complete at the tracker: `runner sync --to SPEC` uploads the rest"
            )

    def _upload_due(self) -> None:
        """Upload every run that is due, until the tracker seems to be unreachable.

        Runs whose last upload succeeded come first, so that one that always fails does not delay the others. Among
        them, those that have ended come first.
        """
        if self._opening_error is not None:
            return  # The launch ends with this error.
        num_failures = 0
        for sync, end in self._due():
            is_done = self._try_upload(sync, end)
            num_failures = 0 if is_done else num_failures + 1
            if end is not None and is_done:
                sync.release()
                with self._lock:
                    self._syncs.pop(sync, None)
            if num_failures >= MAX_CONSECUTIVE_FAILURES:
                return

    def _due(self) -> list[tuple[RunSync, End | None]]:
        is_closing, now = self._closing.is_set(), time.monotonic()
        with self._lock:
            due = [(sync, end) for sync, end in self._syncs.items() if is_closing or now >= self._backoff(sync).until]
        return sorted(due, key=lambda item: (self._backoff(item[0]).num_failures, item[1] is None))

    def _backoff(self, sync: RunSync) -> Backoff:
        return self._backoffs.setdefault(sync, Backoff())

    def _try_upload(self, sync: RunSync, end: End | None) -> bool:
        try:
            sync.open()
            self._opened.set()
            (sync.upload if end is None else partial(sync.finish, *end))()
        except UploadedElsewhereError:
            self._backoff(sync).increase()
            return False
        except Exception as error:  # a failure of the tracker must never end a training
            if not self._opened.is_set():
                self._opening_error = error
                self._opened.set()
                return False
            self._warn_once(f"the tracker does not answer ({describe_tracker_error(error)})")
            self._backoff(sync).increase()
            return False
        self._backoffs.pop(sync, None)
        return True

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"{problem}; the run continues. What is missing is uploaded when the tracker "
                "answers, by `runner sync --to SPEC`, or when this spec is launched again"
            )
