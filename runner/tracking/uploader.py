"""The background thread that uploads events to the tracker, with retries."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from runner.errors import RequirementError, RunnerError
from runner.secrets import redact_passwords
from runner.tracking.run_sync import MAX_CONSECUTIVE_FAILURES, RunSync, UploadedElsewhereError
from runner.trial.run_trial import Status

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
            cause = redact_passwords(f"{type(self._opening_error).__name__}: {self._opening_error}")
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
                self._warn("waiting for the tracker; press Ctrl-C twice to leave the rest to `runner sync`")
        with self._lock:
            unfinished = [sync for sync, end in self._syncs.items() if end is not None]
        for sync in unfinished:
            sync.release()
        if unfinished and self._opening_error is None and not self._has_warned:
            self._warn(f"{len(unfinished)} run(s) are not complete at the tracker: `runner sync` uploads the rest")

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
            self._warn_once(f"the tracker does not answer ({type(error).__name__}: {str(error).strip()[:200]})")
            self._backoff(sync).increase()
            return False
        self._backoffs.pop(sync, None)
        return True

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            self._warn(
                f"{redact_passwords(problem)}; the run continues. What is missing is uploaded when the tracker "
                "answers, by `runner sync`, or when this spec is launched again"
            )
        self._has_warned = True
