"""Submits launches to a cluster as Ray jobs, reads their status and logs, and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobSubmissionClient

from runner.errors import RequirementError, StepError
from runner.execute.ray.cluster_and_reservations import (
    check_reachable,
    check_token_present,
    token_message,
    unreachable_message,
)
from runner.status.running_launches import JOB_VARIABLE

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray uses this variable before any address that its client is given; so the named address is put there."""

STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "1800"}
"""Ray stops a job as Ctrl-C does, and gives it half an hour to save; by default it kills after three seconds."""

VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Ray's loggers that report every file that is sent and every connection that is closed."""

EXPERIMENT, STORAGE = "runner_experiment", "runner_storage"
"""Keys in a job's metadata, by which launches of this project are recognized."""

START_SECONDS = 60.0
"""How long to wait for a job to start; after that it may start later."""
POLL_SECONDS = 0.3

INTERRUPTED, NOT_FOUND = 130, 127
"""Exit statuses: of an interrupted launch, and of a shell that does not find the command."""


@dataclass(frozen=True)
class Job:
    """A launch on a cluster.

    Attributes:
        name: Its name, by which it is followed and stopped.
        experiment: The spec's name.
        storage: The folder of all runs, on the cluster.
        status: `pending`, `running`, `finished`, `failed`, `interrupted`.
        started: When it started, in seconds since 1970; None before that.
        ended: When it ended, in seconds since 1970; None before that.
    """

    name: str
    experiment: str
    storage: str
    status: str
    started: float | None
    ended: float | None

    @classmethod
    def from_details(cls, details: JobDetails) -> Self:
        """Create a job from Ray's description."""
        metadata: Mapping[str, str] = details.metadata or {}
        return cls(
            str(details.submission_id),
            metadata[EXPERIMENT],
            metadata[STORAGE],
            _status(str(details.status.value), details.driver_exit_code),
            _seconds(details.start_time),
            _seconds(details.end_time),
        )

    def as_json(self) -> dict[str, Any]:
        """The job as docs/interface.md's `status --json` lists it."""
        return dict(vars(self))


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _status(ray_status: str, exit_status: int | None) -> str:
    if ray_status == "STOPPED" or (ray_status == "FAILED" and exit_status == INTERRUPTED):
        return "interrupted"
    return {"SUCCEEDED": "finished"}.get(ray_status, ray_status.lower())


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to a cluster.

        Args:
            address: The address of the dashboard (`http://head:8265`, or `https://…` behind a proxy), or of the head
                (`head:6379`), which knows that of the dashboard.

        Raises:
            RequirementError: Nothing answers there, or it requires a token that this machine lacks.
        """
        self.address = address
        check_reachable(address)
        check_token_present()
        os.environ[ADDRESS_VARIABLE] = address
        for name in VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._translate_errors():
            self._client = JobSubmissionClient(address, verify=os.environ.get("RAY_TLS_CA_CERT") or True)

    def launch(self, experiment: str, storage: str, spec: str, flags: Sequence[str]) -> str:
        """Launch a spec on the head, wait until it runs, and return the job's name.

        Args:
            experiment: The spec's name.
            storage: The folder of all runs, on the cluster.
            spec: The spec's text; see `runner.execute.submitted_spec`.
            flags: Flags of `runner launch`.

        Raises:
            RequirementError: The project is not installed there, or the cluster cannot start the job.
        """
        name = f"{experiment}-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as folder, self._translate_errors():
            file = Path(folder) / f"{experiment}.json"
            file.write_text(spec, encoding="utf-8")
            self._client.submit_job(
                submission_id=name,
                entrypoint=f"exec {shlex.join(['runner', 'launch', file.name, *flags])}",
                runtime_env={"working_dir": folder, "env_vars": {**STOP, JOB_VARIABLE: name}},
                metadata={EXPERIMENT: experiment, STORAGE: storage},
            )
        self._check_started(name)
        return name

    def _check_started(self, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._details(name).status == "PENDING" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        # A shell that does not find the command ends right after its start.
        time.sleep(POLL_SECONDS)
        details = self._details(name)
        if details.driver_exit_code == NOT_FOUND:
            raise RequirementError(
                f"the head of {self.address} has no command `runner`: install this project on every node, in the "
                "environment in which `ray start` is called"
            )
        if details.status == "FAILED":
            raise RequirementError(f"the cluster did not start the launch: {_last_line(details.message)}")

    def find(self, name: str) -> Job | None:
        """Find a launch by its name or the beginning of it; None if there is none, as for an experiment's name.

        Raises:
            RequirementError: Several launches match; they are listed.
        """
        jobs = [job for job in self.list_jobs() if job.name.startswith(name) and name.startswith(f"{job.experiment}-")]
        if len(jobs) > 1 and name not in {job.name for job in jobs}:
            known = ", ".join(job.name for job in jobs)
            raise RequirementError(f"{name!r} matches {len(jobs)} jobs; write more of the name: {known}")
        return next((job for job in jobs if job.name == name or len(jobs) == 1), None)

    def list_jobs(self) -> list[Job]:
        """List all launches that the cluster knows, the oldest first."""
        with self._translate_errors():
            all_details = self._client.list_jobs()
        jobs = [Job.from_details(details) for details in all_details if EXPERIMENT in (details.metadata or {})]
        return sorted(jobs, key=lambda job: job.started or 0)

    def stop(self, job: Job) -> None:
        """Ask a launch to stop, as Ctrl-C does.

        Raises:
            RequirementError: It has ended.
        """
        with self._translate_errors():
            was_running = self._client.stop_job(job.name)
        if not was_running:
            raise RequirementError(f"{job.name} is not running: it is {job.status}")

    def follow_logs(self, name: str, show: Callable[[str], None]) -> None:
        """Show the output of a job until it ends."""

        async def read() -> None:
            async for text in self._client.tail_job_logs(name):
                show(text)

        with self._translate_errors():
            asyncio.run(read())

    def show_logs(self, name: str, show: Callable[[str], None]) -> None:
        """Show the output of a job so far."""
        with self._translate_errors():
            show(self._client.get_job_logs(name))

    def run_command(self, arguments: Sequence[str], show: Callable[[str], None]) -> int:
        """Run a short `runner` command on the head, show its output, and return its exit status."""
        with self._translate_errors():
            name = self._client.submit_job(entrypoint=f"exec {shlex.join(['runner', *arguments])}")
        try:
            self.follow_logs(name, skip_preface(show))
        finally:
            details = self._remove(name)
        if details.driver_exit_code is None:
            raise StepError(f"the head did not answer: {_last_line(details.message)}")
        return details.driver_exit_code

    def _remove(self, name: str) -> JobDetails:
        """Stop a job if it still runs, wait for its end, and remove it from the list; return its last description."""
        with self._translate_errors():
            self._client.stop_job(name)
            while not (details := self._details(name)).status.is_terminal():
                time.sleep(POLL_SECONDS)
            self._client.delete_job(name)
        return details

    def _details(self, name: str) -> JobDetails:
        with self._translate_errors():
            return self._client.get_job_info(name)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn Ray's exceptions into messages of one line with a remedy."""
        try:
            yield
        except AuthenticationError as error:
            raise RequirementError(token_message(self.address)) from error
        except (OSError, RayError, ValueError) as error:
            raise RequirementError(unreachable_message(self.address, _last_line(str(error)))) from error
        except RuntimeError as error:
            raise RequirementError(f"the cluster at {self.address} refuses: {_last_line(str(error))}") from error


def _last_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


PREFACE = "Running entrypoint for job "
"""How the line of a job's log begins after which the command's own output follows."""


def skip_preface(show: Callable[[str], None]) -> Callable[[str], None]:
    """Omit the lines that Ray itself writes at the beginning of a job's log.

    Args:
        show: Called with the rest of the log, piece by piece.

    Returns:
        A function to call with the pieces of the log.
    """
    pending: list[str] | None = []

    def receive(text: str) -> None:
        nonlocal pending
        if pending is None:
            show(text)
            return
        pending.append(text)
        _, marker, after = "".join(pending).partition(PREFACE)
        _, end, rest = after.partition("\n")
        if marker and end:
            pending = None
            if rest:
                show(rest)

    return receive
