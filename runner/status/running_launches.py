"""Records of running launches: who runs them, whether they are alive, and how to stop them."""

from __future__ import annotations

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

from runner.errors import DataError, RequirementError
from runner.files import read_json_object, write_json

JOB_VARIABLE = "RUNNER_JOB"
"""Environment variable with the job's name, set for a launch that runs as a job of a cluster."""

SLURM_PREFIX = "slurm-"
"""How the name of a job under Slurm begins; its number follows."""


SAME_PROCESS_SECONDS = 2.0
"""A process is the recorded one if its start is this near to the recorded time; the clock is read twice and rounded."""


STOP_SECONDS = 20.0
"""How long a launch that is stopped at once may still upload to the tracker before it is killed."""


@dataclass(frozen=True)
class LaunchRecord:
    """The record of a launch.

    Attributes:
        file: The record's file.
        host: The machine that the launch runs on.
        pid: Its process id there.
        born: When that process started, in seconds since 1970.
        started: When the launch started, in ISO 8601.
        job: The name of the cluster job that the launch runs as, if any.
    """

    file: Path
    host: str
    pid: int
    born: float
    started: str
    job: str | None

    @property
    def is_local(self) -> bool:
        """Whether the launch runs, or ran, on this machine."""
        return self.host == platform.node()

    @property
    def is_alive(self) -> bool:
        """Whether the launch still runs. This is assumed for one on another machine, which cannot be checked here."""
        if not self.is_local:
            return True
        try:
            process = psutil.Process(self.pid)
            return bool(
                abs(process.create_time() - self.born) < SAME_PROCESS_SECONDS
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.Error, ValueError, OverflowError, TypeError):  # also for a number that is no process id
            return False

    def stop(self, *, now: bool) -> None:
        """Stop the launch.

        Args:
            now: False asks it to save and stop, as Ctrl-C does. True stops it at once, as a second Ctrl-C does, and
                kills it if it does not react.

        Raises:
            RequirementError: It runs on another machine, or belongs to another user; or the process is no launch.
        """
        if not self.is_local:
            job = f" as job {self.job}" if self.job else ""
            command = "the same command there"
            if self.job:
                address = "" if self.job.startswith(SLURM_PREFIX) else " --address …"
                command = f"`runner stop {self.job}{address}`"
            raise RequirementError(
                f"the launch runs on {self.host} (process {self.pid}{job}), not on this machine: use {command}"
            )
        if not self.is_alive:
            return
        self._require_launch()
        self._interrupt()
        if now:
            self._interrupt_or_kill()

    def _require_launch(self) -> None:
        """Require that the recorded process has this record open, as `registered_launch` does.

        Others can write a record into a shared folder, and name any process in it.

        Raises:
            RequirementError: It has not, or belongs to another user.
        """
        try:
            opened = [Path(file.path) for file in psutil.Process(self.pid).open_files()]
        except psutil.AccessDenied as error:
            raise self._other_user_error() from error
        except psutil.NoSuchProcess:
            return
        if self.file.parent.resolve() / self.file.name not in opened:
            raise RequirementError(
                f"{self.file}: names process {self.pid}, which is not the launch of this record; the process is not "
                "stopped. Remove the file if no launch runs here"
            )

    def _other_user_error(self) -> RequirementError:
        return RequirementError(f"the launch (process {self.pid}) belongs to another user; only that user can stop it")

    def _interrupt(self) -> None:
        try:
            os.kill(self.pid, signal.SIGINT)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise self._other_user_error() from error

    def _interrupt_or_kill(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_alive and time.monotonic() < deadline:
            time.sleep(1.0)
            self._interrupt()
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)


@contextmanager
def registered_launch(folder: Path) -> Iterator[None]:
    """Register this process as a launch in an experiment's folder while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for launch in launch_records(folder):
        if not launch.is_alive:
            launch.file.unlink(missing_ok=True)
    file = folder / f".launch-{platform.node()}-{os.getpid()}.json"
    record = {
        "host": platform.node(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": os.environ.get(JOB_VARIABLE),
    }
    write_json(file, record)
    try:
        with file.open("rb"):  # by which `LaunchRecord.stop` recognises this process
            yield
    finally:
        file.unlink(missing_ok=True)


def launch_records(folder: Path) -> list[LaunchRecord]:
    """Read the records of launches in an experiment's folder, including those of launches that were killed.

    Damaged records are left out; see `damaged_launch_records`.
    """
    return [record for record in _read_records(folder) if isinstance(record, LaunchRecord)]


def damaged_launch_records(folder: Path) -> list[str]:
    """Describe the damaged records of launches in an experiment's folder."""
    return [str(record) for record in _read_records(folder) if isinstance(record, DataError)]


def _read_records(folder: Path) -> Iterator[LaunchRecord | DataError]:
    for file in sorted(folder.glob(".launch-*.json")):
        remedy = "Remove it, if no launch of this experiment is running"
        try:
            record = LaunchRecord(file, **read_json_object(file, remedy))
        except FileNotFoundError:
            continue  # The launch has ended in the meantime.
        except TypeError as error:
            yield DataError(f"{file}: the file is damaged ({error}). {remedy}")
        except DataError as error:
            yield error
        else:
            types = {"host": str, "pid": int, "born": (int, float), "started": str, "job": (str, type(None))}
            wrong = [name for name, type_ in types.items() if not isinstance(getattr(record, name), type_)]  # type: ignore[arg-type]
            if wrong:
                yield DataError(f"{file}: the file is damaged (`{wrong[0]}` has the wrong type). {remedy}")
            else:
                yield record
