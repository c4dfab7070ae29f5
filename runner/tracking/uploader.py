"""The background thread that uploads events to the tracker, with retries."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from runner.errors import RequirementError, RunnerError
from runner.secrets import without_passwords
from runner.tracking.run_sync import MISSES_IN_TURN, RunSync, UploadedElsewhereError
from runner.trial.run_trial import Status

UPLOAD_SECONDS = 2.0
"""A tracker is fed in batches of this length, since each delivery is a transaction."""
OPENING_SECONDS = 30.0
"""How long a launch waits for the tracker before its first trial; one that has refused nothing by then is slow."""
MAX_BACKOFF_SECONDS = 300.0
"""The longest between two attempts at a run that the tracker does not take; each pause is twice the one before."""
PATIENCE_SECONDS = 5.0
"""A launch that waits longer than this for the tracker at its end says so."""
FINAL_UPLOAD_SECONDS = 5.0
"""How long a launch that is ended at once still tries to tell the tracker."""

End = tuple[Status, Mapping[str, float]]


@dataclass
class Backoff:
    """How long a run is left alone that the tracker did not take: `misses` in turn, none again before `until`."""

    misses: int = 0
    until: float = -math.inf

    def grow(self) -> None:
        """After one more miss."""
        self.misses += 1
        self.until = time.monotonic() + min(UPLOAD_SECONDS * 2**self.misses, MAX_BACKOFF_SECONDS)


class TrackerUploader(threading.Thread):
    """A thread that serves the tracker with all runs; nothing else talks to the tracker while it lives.

    A tracker that fails costs nothing but a warning: what it missed is delivered later, or by `runner sync`, or when
    the spec is launched again.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Warn once where the tracker fails."""
        super().__init__(daemon=True, name="delivery")
        self._warn, self._warned = warn, False
        self._feeds: dict[RunSync, End | None] = {}
        self._pauses: dict[RunSync, Backoff] = {}
        self._held = threading.Lock()
        self._wake, self._closing, self._answered = threading.Event(), threading.Event(), threading.Event()
        self._refusal: Exception | None = None

    def follow(self, feed: RunSync) -> None:
        """Deliver what is told of a run from now on."""
        with self._held:
            self._feeds.setdefault(feed, None)

    def await_answer(self, hurried: Callable[[], bool]) -> None:
        """Wait until the tracker has taken or refused the first run; a slow one is not waited for long.

        Raises:
            RunnerError: It refused, so that the launch's runs could be shown nowhere.
        """
        deadline = time.monotonic() + OPENING_SECONDS
        self._wake.set()
        while not self._answered.wait(0.05) and self.is_alive() and not hurried():
            if time.monotonic() > deadline:
                self._answered.set()
                self._complain(f"the tracker has not answered in {OPENING_SECONDS:.0f} s")
        if isinstance(self._refusal, RunnerError):
            raise self._refusal
        if self._refusal is not None:
            told = without_passwords(f"{type(self._refusal).__name__}: {self._refusal}")
            raise RequirementError(f"the tracker cannot be opened: {told}") from self._refusal

    def finish(self, feed: RunSync, status: Status, results: Mapping[str, float] | None = None) -> None:
        """Deliver the rest of a run that has ended, soon."""
        with self._held:
            self._feeds[feed] = (status, results or {})
        self._wake.set()

    def serves(self, feed: RunSync) -> bool:
        """Whether there is still something to deliver of a run."""
        with self._held:
            return feed in self._feeds

    def run(self) -> None:
        """Deliver until told to close, then what is left."""
        while not self._closing.is_set():
            self._wake.wait(UPLOAD_SECONDS)
            self._wake.clear()
            self._round()
        self._round()

    def close(self, hurried: Callable[[], bool]) -> None:
        """Upload what is left, for at most `FINAL_UPLOAD_SECONDS` if the user is in a hurry; warn of the rest."""
        self._closing.set()
        self._wake.set()
        began, hurry = time.monotonic(), math.inf if self._refusal is None else -math.inf
        told = False
        while self.is_alive() and time.monotonic() < hurry:
            self.join(0.1)
            if hurried():
                hurry = min(hurry, time.monotonic() + FINAL_UPLOAD_SECONDS)
            elif not told and time.monotonic() - began > PATIENCE_SECONDS:
                told = True
                self._warn("waiting for the tracker; Ctrl-C, twice, leaves what it lacks to `runner sync`")
        with self._held:
            left = [feed for feed, end in self._feeds.items() if end is not None]
        for feed in left:
            feed.release()
        if left and self._refusal is None and not self._warned:
            self._warn(f"the tracker lacks something of {len(left)} run(s): `runner sync` delivers it")

    def _round(self) -> None:
        """Serve every run that is not left alone; none more where the tracker seems to be away.

        Those that it took last time come first, so that one that it never takes keeps nothing from the others; and
        before them, at the end, those that have ended.
        """
        if self._refusal is not None:
            return  # The launch ends by it.
        misses = 0
        for feed, end in self._due():
            done = self._attempt(feed, end)
            misses = 0 if done else misses + 1
            if end is not None and done:
                feed.release()
                with self._held:
                    self._feeds.pop(feed, None)
            if misses >= MISSES_IN_TURN:
                return

    def _due(self) -> list[tuple[RunSync, End | None]]:
        closing, now = self._closing.is_set(), time.monotonic()
        with self._held:
            due = [each for each in self._feeds.items() if closing or now >= self._pause(each[0]).until]
        return sorted(due, key=lambda each: (self._pause(each[0]).misses, each[1] is None))

    def _pause(self, feed: RunSync) -> Backoff:
        return self._pauses.setdefault(feed, Backoff())

    def _attempt(self, feed: RunSync, end: End | None) -> bool:
        try:
            feed.open()
            self._answered.set()
            (feed.serve if end is None else partial(feed.finish, *end))()
        except UploadedElsewhereError:
            self._pause(feed).grow()
            return False
        except Exception as error:  # a tracker's failure must never end a training
            if not self._answered.is_set():
                self._refusal = error
                self._answered.set()
                return False
            self._complain(f"the tracker does not answer ({type(error).__name__}: {str(error).strip()[:200]})")
            self._pause(feed).grow()
            return False
        self._pauses.pop(feed, None)
        return True

    def _complain(self, what: str) -> None:
        if not self._warned:
            self._warn(
                f"{without_passwords(what)}; the run goes on, and what it misses is delivered when it answers, by "
                "`runner sync`, or when this spec is launched again"
            )
        self._warned = True
