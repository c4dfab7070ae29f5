"""Submits launches to Slurm, reads the states of their jobs, and stops them."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from runner.errors import DataError, RequirementError
from runner.files import read_json_object, write_json
from runner.spec.experiment_spec import ComputeOptions
from runner.status.running_launches import SLURM_PREFIX

FOLDER = "slurm"
"""The folder of an experiment that holds the submitted specs, a record for each job, and what the jobs print."""

SCRIPT = "slurm.sbatch"
RESOURCES = ("--nodes", "--gpus-per-node", "--exclusive")
"""Options in the script's `#SBATCH` lines that the spec decides."""

RAY_BYTES = 2 * 10**9
"""Main memory that a node needs beside its workers. `sacct` counted (MaxRSS) 0.3 GB for a launch, and 2.0 GB for Ray on
the first node together with a small worker, of which the worker has some 0.5 GB."""

GPU_OPTIONS = {"--gpus-per-node", "--gpus", "--gpus-per-task", "--gpus-per-socket", "--gres", "-G"}
CORE_OPTIONS = {"--cpus-per-task", "--cpus-per-gpu", "--exclusive", "-c"}
MEMORY_OPTIONS = {"--mem", "--mem-per-cpu", "--mem-per-gpu"}
NODE_OPTIONS = {"--nodes", "-N"}
OWN_OPTIONS = {"--array", "-a", "--output", "-o", "--chdir", "-D", "--wrap"}
"""Options by which the record of a job would be wrong."""

PENDING, RUNNING, ENDED, UNKNOWN = "pending", "running", "ended", "unknown"
STATUSES = {
    "PENDING": PENDING,
    "CONFIGURING": PENDING,
    "REQUEUED": PENDING,
    "REQUEUE_HOLD": PENDING,
    "RUNNING": RUNNING,
    "COMPLETING": RUNNING,
    "SUSPENDED": RUNNING,
    "COMPLETED": "finished",
    "CANCELLED": "interrupted",
    "TIMEOUT": "interrupted",
    "PREEMPTED": "interrupted",
}
"""Slurm's states in the words that trials have; any other state is a failure."""

INTERRUPTED = 130
"""Exit status of a launch whose trials have saved."""
EXIT_STATUS_BITS = 8
"""`squeue` shows the status as `wait` returns it: the signal in these bits, the exit status above them."""


@dataclass(frozen=True)
class SlurmJob:
    """A launch that was submitted to Slurm.

    Attributes:
        number: Slurm's number of the job.
        experiment: The spec's name.
        storage: The folder of all runs.
        output: The file with what the job prints.
        submitted: When it was submitted, in ISO 8601; None if this is not on record.
        status: `pending`, `running`, `finished`, `failed`, `interrupted`; `ended` if Slurm has forgotten it; `unknown`
            if Slurm cannot be asked here.
        reason: Why it waits, in Slurm's words; empty if it does not wait.
        started: When it started last, in seconds since 1970; None before that.
    """

    number: str
    experiment: str
    storage: str
    output: str
    submitted: str | None
    status: str = UNKNOWN
    reason: str = ""
    started: float | None = None

    @property
    def name(self) -> str:
        """The name by which it is followed and stopped."""
        return f"{SLURM_PREFIX}{self.number}"

    def as_json(self) -> dict[str, Any]:
        """The job as docs/interface.md's `status --json` lists it."""
        content = {"name": self.name, **vars(self), "ended": None}
        del content["number"]
        return content


def resource_options(compute: ComputeOptions, given: Sequence[str], *, is_sweep: bool) -> list[str]:
    """Return the options of `sbatch` for the resources that a spec asks for.

    The workers of a single trial are spread over the nodes; of a sweep, each node can hold a whole trial.

    Args:
        compute: The section `compute`.
        given: Options of `sbatch` that the user gives; they replace those of the spec.
        is_sweep: Whether the spec has several trials.
    """
    names = option_names(given)
    num_nodes = _num_nodes(given)
    workers = compute.workers if is_sweep else math.ceil(compute.workers / num_nodes)
    options = [] if names & NODE_OPTIONS else [f"--nodes={num_nodes}"]
    if compute.gpus_per_worker and not names & GPU_OPTIONS:
        options.append(f"--gpus-per-node={math.ceil(workers * compute.gpus_per_worker)}")
    if compute.cpus_per_worker is not None and not names & CORE_OPTIONS:
        options.append(f"--cpus-per-task={workers * compute.cpus_per_worker}")
    if compute.memory_bytes is not None and not names & MEMORY_OPTIONS:
        options.append(f"--mem={math.ceil((workers * compute.memory_bytes + RAY_BYTES) / 2**20)}M")
    return options


def option_names(given: Iterable[str]) -> set[str]:
    """Return the names of command-line options without their values: `-N2` and `-N` are both `-N`."""
    return {word.partition("=")[0] if word.startswith("--") else word[:2] for word in given if word.startswith("-")}


def _num_nodes(given: Sequence[str]) -> int:
    """The number of nodes that options of `sbatch` ask for, the smaller one of a range; 1 if they do not say."""
    number = 1
    for word, following in pairwise([*given, ""]):
        if option_names([word]) & NODE_OPTIONS:
            value = word.partition("=")[2] if "=" in word else word.removeprefix("-N").removeprefix("--nodes")
            found = re.match(r"[1-9]\d*", value or following)
            number = int(found[0]) if found else number
    return number


def submit(
    experiment: str, storage: Path, spec: str, resources: Sequence[str], given: Sequence[str], flags: Sequence[str]
) -> SlurmJob:
    """Submit a launch; a record of the job is left in the experiment's folder.

    Args:
        experiment: The spec's name.
        storage: The folder of all runs, which the nodes share.
        spec: The spec's text; see `runner.execute.submitted_spec`. The job reads this copy, so that the spec's file may
            be edited while the job waits.
        resources: Options of `sbatch` from the spec.
        given: Options of `sbatch` that the user gives.
        flags: Flags of `runner launch`.

    Raises:
        RequirementError: This machine has no Slurm, or `sbatch` refuses the job.
    """
    if refused := sorted(option_names(given) & OWN_OPTIONS):
        raise RequirementError(
            f"--slurm excludes {refused[0]}, because it submits one launch, whose output stays in the experiment's "
            "folder; call `sbatch` itself with docs/cluster/slurm.sbatch"
        )
    folder = storage / experiment / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{experiment}-{secrets.token_hex(4)}.json"
    copy.write_text(spec, encoding="utf-8")
    own = [f"--job-name={experiment}", f"--output={folder}/%j.out", f"--chdir={folder}"]
    try:
        with tempfile.NamedTemporaryFile("w", suffix=SCRIPT, encoding="utf-8") as script:
            script.write(script_without_resources())
            script.flush()
            printed = _run("sbatch", "--parsable", *own, *resources, *given, script.name, str(copy), *flags)
    except RequirementError:
        copy.unlink()
        raise
    record = folder / f"{printed.strip().partition(';')[0]}.json"
    write_json(record, {"submitted": datetime.now(UTC).isoformat(timespec="seconds")})
    return _read_record(record)


def script_without_resources() -> str:
    """Read the script of a job, without the `#SBATCH` lines of `RESOURCES`."""
    installed = Path(__file__).with_name(SCRIPT)
    checkout = Path(__file__).parents[2] / "docs" / "cluster" / SCRIPT
    text = (installed if installed.is_file() else checkout).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(tuple(f"#SBATCH {name}" for name in RESOURCES)))


def list_jobs(storage: Path) -> list[SlurmJob]:
    """List the launches that were submitted from a folder of all runs, with their states, the oldest first."""
    records = [file for file in storage.absolute().glob(f"*/{FOLDER}/*.json") if file.stem.isdecimal()]
    jobs = [_read_record(record) for record in sorted(records, key=lambda record: int(record.stem))]
    return list(_with_states(jobs)) if jobs else []


def _read_record(record: Path) -> SlurmJob:
    """Describe the job of a record; a damaged one does not hide the job, as its path tells what is needed."""
    submitted = None
    with suppress(DataError, FileNotFoundError):
        submitted = read_json_object(record, "").get("submitted")
    experiment = record.parents[1]
    output = record.with_suffix(".out")
    return SlurmJob(record.stem, experiment.name, str(experiment.parent), str(output), submitted)


def _with_states(jobs: Sequence[SlurmJob]) -> Iterator[SlurmJob]:
    if shutil.which("squeue") is None:
        yield from jobs
        return
    found = {}
    fields = "--Format=JobID:24,State:24,exit_code:12,StartTime:24,Reason:80"
    numbers = ",".join(job.number for job in jobs)
    try:
        shown = _run("squeue", "--noheader", "--states=all", fields, f"--jobs={numbers}")
    except RequirementError as error:
        if "Invalid job id" not in str(error):  # Slurm forgets jobs some minutes after their end
            yield from jobs
            return
        shown = ""
    for line in shown.splitlines():
        number, *words = line.split(maxsplit=4)
        found[number] = words
    for job in jobs:
        yield _with_state(job, *found[job.number]) if job.number in found else replace(job, status=ENDED)


def _with_state(job: SlurmJob, state: str, exit_status: str, start: str, reason: str = "") -> SlurmJob:
    status = STATUSES.get(state, "failed")
    if status == "failed" and exit_status.isdecimal() and int(exit_status) >> EXIT_STATUS_BITS == INTERRUPTED:
        status = "interrupted"
    started = None
    if status != PENDING:
        with suppress(ValueError):  # N/A
            started = datetime.fromisoformat(start).timestamp()
    return replace(job, status=status, reason=reason.strip() if status == PENDING else "", started=started)


def find_job(name: str, storage: Path) -> SlurmJob | None:
    """Find a job by its name, or by that of an experiment with one job that waits or runs; None if there is none.

    Raises:
        RequirementError: Several jobs of the experiment wait or run; they are listed.
    """
    jobs = list_jobs(storage)
    for job in jobs:
        if job.name == name:
            return job
    queued = [job for job in jobs if job.experiment == name and job.status in {PENDING, RUNNING}]
    if len(queued) > 1:
        raise RequirementError(f"{name!r} has {len(queued)} jobs; name one: {', '.join(job.name for job in queued)}")
    if not queued and re.fullmatch(rf"{SLURM_PREFIX}\d+", name):
        # Submitted with `sbatch` itself, which leaves no record.
        [job] = _with_states([SlurmJob(name.removeprefix(SLURM_PREFIX), "", str(storage), "", None)])
        return job
    return queued[0] if queued else None


def stop_job(job: SlurmJob, *, now: bool) -> str:
    """Stop a job; return what was done.

    Args:
        job: The job with its state.
        now: Whether to end it without saving.

    Raises:
        RequirementError: It does not wait or run, or Slurm refuses.
    """
    if job.status not in {PENDING, RUNNING}:
        raise RequirementError(f"{job.name} is not running: it is {job.status}")
    if job.status == PENDING or now:
        _run("scancel", job.number)
        return f"{job.name} was {'removed from the queue' if job.status == PENDING else 'ended'}"
    # The script passes it on to the launch, and does not put the job back into the queue.
    _run("scancel", "--batch", "--signal=USR2", job.number)
    return f"{job.name} was asked to stop: its trials save and end"


def _run(*command: str) -> str:
    """Run a command of Slurm; return what it prints.

    Raises:
        RequirementError: It is not installed, or fails; with the last line of its message.
    """
    if shutil.which(command[0]) is None:
        raise RequirementError(
            f"this machine has no `{command[0]}`: run this command where Slurm is, such as on a login node"
        )
    environment = {**os.environ, "RUNNER_ENVIRONMENT": sys.prefix}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        message = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise RequirementError(f"Slurm refuses: {message[-1]}")
    return done.stdout


def list_partitions() -> list[str]:
    """Describe the partitions of the Slurm cluster of which this machine is a login node; none without Slurm.

    Raises:
        RequirementError: Slurm does not answer.
    """
    if shutil.which("sbatch") is None:
        return []
    return _run("sinfo", "--noheader", "--format=%P %D x %c cores, %m MB, %G").splitlines()
