"""Submits launches to a cluster as Ray jobs, and asks their status, logs and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
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

from runner.errors import Problem, RequirementError, SpecError, SpecPath, StepError
from runner.execute.ray.cluster import nobody, refuse_missing_token, refuse_unreachable, token_advice
from runner.secrets import holds_password
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import LoadedSpec
from runner.status.process_registry import JOB_VARIABLE


def serialize_spec(loaded: LoadedSpec[ExperimentSpec]) -> str:
    """Write a spec so that it means the same anywhere: `extends`, `--set`, the environment and defaults filled in.

    Its paths are absolute, and mean the cluster's files.

    Raises:
        SpecError: It does not say where on the cluster its runs go; or it holds a password, which is no secret in what
            a cluster is sent.
    """
    told = loaded.spec.as_json()
    problems = [Problem(_HIDE, path) for path, text in _texts(told, ()) if holds_password(text)]
    if loaded.spec.compute.storage is None:
        problems.append(
            Problem(
                "is missing: a launch that is detached keeps its runs on the cluster; name a folder that all nodes "
                "share, such as --set compute.storage=/shared/runs",
                ("compute", "storage"),
            )
        )
    if problems:
        raise loaded.located(SpecError(problems))
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


_HIDE = (
    "holds a password, and everybody who may see the cluster sees what it was sent; leave it out here and set it in "
    "the environment of the head's `ray start` (for MLflow MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
)


def _texts(value: Any, path: SpecPath) -> Iterator[tuple[SpecPath, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, (*path, index))
    elif isinstance(value, str):
        yield path, value


ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""What Ray takes for the address, whatever it is called with; so an address that was named is put there."""

STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "1800"}
"""Ray stops a job as Ctrl-C does, and leaves it half an hour to save; by default it kills after three seconds."""

TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Ray's loggers that tell of every file that is sent and every connection that is closed."""

EXPERIMENT, STORAGE = "runner_experiment", "runner_storage"
"""What a job of ours is known by, in its metadata."""

START_SECONDS = 60.0
"""A job that the head has not begun by then is left to itself."""
POLL_SECONDS = 0.3

INTERRUPTED, NOT_FOUND = 130, 127
"""Exit statuses: our own, and the shell's for a command that it does not find."""


@dataclass(frozen=True)
class Job:
    """A launch on a cluster.

    Attributes:
        name: By which it is followed and stopped.
        experiment: The spec's name.
        storage: The folder of all runs, on the cluster.
        status: `pending`, `running`, `finished`, `failed`, `interrupted`.
        started: Seconds since 1970.
        ended: The same, or None.
    """

    name: str
    experiment: str
    storage: str
    status: str
    started: float | None
    ended: float | None

    @classmethod
    def of(cls, told: JobDetails) -> Self:
        """Read what Ray tells."""
        metadata: Mapping[str, str] = told.metadata or {}
        return cls(
            str(told.submission_id),
            metadata[EXPERIMENT],
            metadata[STORAGE],
            _status(str(told.status.value), told.driver_exit_code),
            _seconds(told.start_time),
            _seconds(told.end_time),
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
        """Reach a cluster.

        Args:
            address: The dashboard's (`http://head:8265`, or `https://…` behind a proxy), or the cluster's own
                (`head:6379`), which is asked for the dashboard's.

        Raises:
            UnmetError: Nothing answers there, or it asks for a token that this machine lacks.
        """
        self.address = address
        refuse_unreachable(address)
        refuse_missing_token()
        os.environ[ADDRESS_VARIABLE] = address
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._answered():
            self._client = JobSubmissionClient(address, verify=os.environ.get("RAY_TLS_CA_CERT") or True)

    def launch(self, experiment: str, storage: str, spec: str, flags: Sequence[str]) -> str:
        """Launch a spec on the head and return the job's name, once it runs.

        Args:
            experiment: The spec's name.
            storage: The folder of all runs, on the cluster.
            spec: The spec's text; see `runner.execute.ray.jobs`.
            flags: Of `runner launch`.

        Raises:
            UnmetError: The project is not installed there, or the cluster cannot start the job.
        """
        name = f"{experiment}-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as folder, self._answered():
            file = Path(folder) / f"{experiment}.json"
            file.write_text(spec, encoding="utf-8")
            self._client.submit_job(
                submission_id=name,
                entrypoint=f"exec {shlex.join(['runner', 'launch', file.name, *flags])}",
                runtime_env={"working_dir": folder, "env_vars": {**STOP, JOB_VARIABLE: name}},
                metadata={EXPERIMENT: experiment, STORAGE: storage},
            )
        self._refuse_unstarted(name)
        return name

    def _refuse_unstarted(self, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (told := self._details(name)).status == "PENDING" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        # A shell that does not find the command is at its end as soon as it has begun.
        time.sleep(POLL_SECONDS)
        told = self._details(name)
        if told.driver_exit_code == NOT_FOUND:
            raise RequirementError(
                f"the head of {self.address} has no command `runner`: install this project there, in the environment "
                "that `ray start` is called in, on every node"
            )
        if told.status == "FAILED":
            raise RequirementError(f"the cluster did not start the launch: {_last_line(told.message)}")

    def find(self, name: str) -> Job | None:
        """The launch of this name, or whose name begins so; None where there is none, as for an experiment's name.

        Raises:
            UnmetError: Several begin so; they are listed.
        """
        fitting = [job for job in self.listed() if job.name.startswith(name) and name.startswith(f"{job.experiment}-")]
        if len(fitting) > 1 and name not in {job.name for job in fitting}:
            known = ", ".join(job.name for job in fitting)
            raise RequirementError(f"{name!r} can be {len(fitting)} jobs; write more of one's name: {known}")
        return next((job for job in fitting if job.name == name or len(fitting) == 1), None)

    def listed(self) -> list[Job]:
        """All launches that the cluster knows of, the oldest first."""
        with self._answered():
            told = self._client.list_jobs()
        ours = [Job.of(each) for each in told if EXPERIMENT in (each.metadata or {})]
        return sorted(ours, key=lambda job: job.started or 0)

    def stop(self, job: Job) -> None:
        """Ask a launch to stop, as Ctrl-C does.

        Raises:
            UnmetError: It is at its end.
        """
        with self._answered():
            running = self._client.stop_job(job.name)
        if not running:
            raise RequirementError(f"{job.name} does not run: it is {job.status}")

    def follow(self, name: str, show: Callable[[str], None]) -> None:
        """Show what a job prints, until it is at its end."""

        async def read() -> None:
            async for text in self._client.tail_job_logs(name):
                show(text)

        with self._answered():
            asyncio.run(read())

    def printed(self, name: str, show: Callable[[str], None]) -> None:
        """Show what a job has printed so far."""
        with self._answered():
            show(self._client.get_job_logs(name))

    def ask(self, arguments: Sequence[str], show: Callable[[str], None]) -> int:
        """Run a short command of `runner` on the head, show what it prints, and return its exit status."""
        with self._answered():
            name = self._client.submit_job(entrypoint=f"exec {shlex.join(['runner', *arguments])}")
        try:
            self.follow(name, without_preface(show))
        finally:
            told = self._ended(name)
        if told.driver_exit_code is None:
            raise StepError(f"the head did not answer: {_last_line(told.message)}")
        return told.driver_exit_code

    def _ended(self, name: str) -> JobDetails:
        """Wait for a command's end, stopping it if it was left in the middle, and remove it from the list."""
        with self._answered():
            self._client.stop_job(name)
            while not (told := self._details(name)).status.is_terminal():
                time.sleep(POLL_SECONDS)
            self._client.delete_job(name)
        return told

    def _details(self, name: str) -> JobDetails:
        with self._answered():
            return self._client.get_job_info(name)

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        """Turn what Ray raises into one line that says what would be right."""
        try:
            yield
        except AuthenticationError as error:
            raise RequirementError(token_advice(self.address)) from error
        except (OSError, RayError, ValueError) as error:
            raise RequirementError(nobody(self.address, _last_line(str(error)))) from error
        except RuntimeError as error:
            raise RequirementError(f"the cluster at {self.address} refuses: {_last_line(str(error))}") from error


def _last_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


PREFACE = "Running entrypoint for job "
"""How the line begins, in a job's log, after which the command's own lines stand."""


def without_preface(show: Callable[[str], None]) -> Callable[[str], None]:
    """Leave out what Ray itself writes at the beginning of a job's log.

    Args:
        show: Called with what follows, piece by piece.

    Returns:
        What is to be called with the pieces of the log.
    """
    held: list[str] | None = []

    def pass_on(text: str) -> None:
        nonlocal held
        if held is None:
            show(text)
            return
        held.append(text)
        _, marker, after = "".join(held).partition(PREFACE)
        _, end, rest = after.partition("\n")
        if marker and end:
            held = None
            if rest:
                show(rest)

    return pass_on
