"""Records of running launches, stored beside their trials: who runs them and how to signal them."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from runner.errors import RequirementError
from runner.files import write_json

JOB_VARIABLE = "RUNNER_JOB"
"""Tells a launch that runs as a job of a cluster the job's name."""

SAME_PROCESS_SECONDS = 2.0
"""A process that began so near to the noted time is the noted one: clocks are read twice, and one is rounded."""

STOP_SECONDS = 20.0
"""How long a launch that is ended at once may take to tell the tracker, before it is killed."""


@dataclass(frozen=True)
class LaunchRecord:
    """A launch as it was noted.

    Attributes:
        file: Where it is noted.
        host: The machine that the launch runs on.
        pid: Its process there.
        born: When that process began, in seconds since 1970.
        started: When the launch began, ISO 8601.
        job: The job of a cluster that it is, if it is one.
    """

    file: Path
    host: str
    pid: int
    born: float
    started: str
    job: str | None

    @property
    def here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == platform.node()

    @property
    def alive(self) -> bool:
        """Whether it still runs. Of another machine's launch that is taken for granted: nothing here can tell."""
        if not self.here:
            return True
        try:
            process = psutil.Process(self.pid)
            return bool(
                abs(process.create_time() - self.born) < SAME_PROCESS_SECONDS
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def stop(self, *, now: bool) -> None:
        """Ask it to stop, as Ctrl-C does; with `now`, as a second Ctrl-C does, and kill it if it does not hear.

        Raises:
            UnmetError: It runs on another machine.
        """
        if not self.here:
            job = f" as job {self.job}" if self.job else ""
            way = f"runner stop {self.job} --address …" if self.job else "the same command there"
            raise RequirementError(f"the launch runs on {self.host} (process {self.pid}{job}), and not here: use {way}")
        self._interrupt()
        if now:
            self._end()

    def _interrupt(self) -> None:
        try:
            os.kill(self.pid, signal.SIGINT)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise RequirementError(
                f"the launch (process {self.pid}) belongs to another user, who can stop it"
            ) from error

    def _end(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.alive and time.monotonic() < deadline:
            time.sleep(1.0)
            self._interrupt()
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)


@contextmanager
def registered_launch(folder: Path) -> Iterator[None]:
    """Note this process in an experiment's folder as a launch of it, for as long as the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for note in launch_records(folder):
        if not note.alive:
            note.file.unlink(missing_ok=True)
    file = folder / f".launch-{platform.node()}-{os.getpid()}.json"
    told = {
        "host": platform.node(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": os.environ.get(JOB_VARIABLE),
    }
    write_json(file, told)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def launch_records(folder: Path) -> list[LaunchRecord]:
    """The launches that are noted in an experiment's folder, those that were killed included."""
    found = []
    for file in sorted(folder.glob(".launch-*.json")):
        try:
            found.append(LaunchRecord(file, **json.loads(file.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            continue  # It came to its end meanwhile.
    return found
