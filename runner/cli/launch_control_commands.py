"""Commands for running experiments: status, logs, stop."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import RUN, AsJson, Debug, app
from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.execute.ray.jobs import Jobs
    from runner.trial.run_directory_and_events import RunDirectory


Storage = Annotated[
    Path | None,
    typer.Option(
        help="The folder of all runs. Default: runs/ in the current folder; with --address, the folder that the "
        "launches on the cluster use."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster: of its dashboard (http://head:8265) or of its head node (head:6379). "
        "Default: this machine."
    ),
]

FOLLOW_SECONDS = 0.5

SLURM_FOLLOW_SECONDS = 2.0
"""Seconds between two questions to Slurm, whose server answers all users of a cluster."""


@app.command(rich_help_panel=RUN)
def status(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT|TRIAL]...",
            help="Experiments or trials: a name, the start of a trial's name, or a folder. Default: all experiments.",
        ),
    ] = None,
    storage: Storage = None,
    address: Address = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the status of trials: step, remaining time, GPU use, latest metrics, time since the last update."""
    from runner.cli.results_display import print_tables
    from runner.cli.status_display import jobs_table, status_lines, status_table

    result: dict[str, Any]
    if address:
        jobs = _connect(address)
        experiments = list(_cluster_experiments(jobs, names or (), storage))
        result = {"experiments": experiments, "jobs": [job.as_json() for job in jobs.list_jobs()]}
    else:
        result = _local_status(names or (), storage)
    if as_json:
        print_json(result)
        return
    print_tables([jobs_table(result["jobs"])] if result.get("jobs") else [])
    for experiment in result["experiments"]:
        print_tables([status_table(experiment)])
        for line in status_lines(experiment):
            print_text(line)
    if not result["experiments"] and not result.get("jobs"):
        print_text("the cluster has no launches" if address else "no runs here yet")


def _local_status(names: Sequence[str], storage: Path | None) -> dict[str, Any]:
    """The experiments in a folder of all runs, and the launches that were submitted from there to Slurm."""
    from runner.execute.slurm import list_jobs
    from runner.status.status import experiment_status, find_experiments, list_experiments

    folder = _local_storage(storage)
    jobs = [job for job in list_jobs(folder) if not names or {job.name, job.experiment} & set(names)]
    # An experiment has no trials while its first job waits.
    with_trials = {experiment.name for experiment in list_experiments(folder)}
    experiments = {job.name: job.experiment for job in jobs}
    without = {job.experiment for job in jobs} - with_trials
    chosen = [name for name in dict.fromkeys(experiments.get(name, name) for name in names) if name not in without]
    selections = find_experiments(chosen, folder) if chosen or not names else []
    found = {"experiments": [experiment_status(selection).as_json() for selection in selections]}
    return found | ({"jobs": [job.as_json() for job in jobs]} if jobs else {})


def _cluster_experiments(jobs: Jobs, names: Sequence[str], storage: Path | None) -> Iterator[dict[str, Any]]:
    folders = [_cluster_storage(jobs, storage)] if names or storage else _job_folders(jobs)
    for folder in folders:
        output: list[str] = []
        experiments = [_experiment_of(jobs, name) for name in names]
        _run_on_head(jobs, ["status", *experiments, "--storage", folder, "--json"], output.append)
        yield from json.loads("".join(output))["experiments"]


@app.command(rich_help_panel=RUN)
def logs(
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL|JOB", help="The name of a trial or job, the start of a trial's name, or a trial's folder."
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue to print new output until the trial or job ends.")
    ] = False,
    storage: Storage = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Print states, metrics, warnings and worker output of a trial, or the output of a job (a launch on a cluster)."""
    if address is None:
        if not _print_slurm_logs(trial, storage, follow=follow):
            _print_local_logs(trial, storage, follow=follow)
        return
    from runner.execute.ray.jobs import skip_preface

    jobs = _connect(address)
    job = jobs.find(trial)
    if job is not None:
        (jobs.follow_logs if follow else jobs.show_logs)(job.name, skip_preface(_print))
        return
    flags = ["--follow"] if follow else []
    _run_on_head(jobs, ["logs", trial, *flags, "--storage", _cluster_storage(jobs, storage)], _print)


def _print_local_logs(trial: str, storage: Path | None, *, follow: bool) -> None:
    from runner.cli.status_display import EventLines
    from runner.status.status import find_trial
    from runner.trial.run_directory_and_events import EventTail, RunDirectory

    run = RunDirectory(find_trial(trial, _local_storage(storage)))
    tail, lines = EventTail(run.events), EventLines()
    while True:
        # This is checked before the log is read, so that the trial's last events are not missed.
        is_running = follow and _is_running(run)
        for event in tail.read():
            for line in lines.format(event):
                print_text(line, flush=True)
        if not is_running:
            break
        time.sleep(FOLLOW_SECONDS)
    for file in sorted(file for file in run.path.glob("*.log") if file.stat().st_size):
        print_text(f"--- {file.name}\n{file.read_text(encoding='utf-8', errors='replace')}", end="")


def _print_slurm_logs(name: str, storage: Path | None, *, follow: bool) -> bool:
    """Print what a launch under Slurm has printed; False if the name is not that of a job."""
    from runner.errors import RequirementError
    from runner.execute.slurm import PENDING, RUNNING, find_job
    from runner.status.running_launches import SLURM_PREFIX

    job = find_job(name, _local_storage(storage)) if name.startswith(SLURM_PREFIX) else None
    if job is None or not job.output:
        return False
    output = Path(job.output)
    if not follow and not output.exists():
        raise RequirementError(f"{job.name} has printed nothing yet: it is {job.status} {job.reason}".rstrip())
    position = 0
    while True:
        # This is checked before the file is read, so that the last lines are not missed.
        is_queued = follow and job is not None and job.status in {PENDING, RUNNING}
        if output.exists():
            with output.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                _print(file.read())
                position = file.tell()
        if not is_queued:
            return True
        time.sleep(SLURM_FOLLOW_SECONDS)
        job = find_job(name, _local_storage(storage))


def _is_running(run: RunDirectory) -> bool:
    from runner.status.running_launches import launch_records

    launches = launch_records(run.path.parent)
    return run.read_record().get("status") == "running" and any(launch.is_alive for launch in launches)


@app.command(rich_help_panel=RUN)
def stop(
    name: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT|TRIAL|JOB",
            help="An experiment, trial or job: a name, the start of a trial's name, or a folder.",
        ),
    ],
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="Stop a launch at once, without saving; a single trial cannot be stopped in this way. The next "
            "launch repeats the work since the last checkpoint.",
        ),
    ] = False,
    storage: Storage = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Ask a launch or a trial to save and stop. The next `runner launch` of the spec continues the work."""
    if address is None:
        _stop_locally(name, storage, now=now)
        return
    jobs = _connect(address)
    job = jobs.find(name)
    if job is None:
        flags = ["--now"] if now else []
        _run_on_head(jobs, ["stop", name, *flags, "--storage", _cluster_storage(jobs, storage)], _print)
    elif now:
        _run_on_head(jobs, ["stop", job.name, "--now", "--storage", job.storage], _print)
    else:
        jobs.stop(job)
        print_text(f"{job.name} was asked to stop: its trials save and end")


def _stop_locally(name: str, storage: Path | None, *, now: bool) -> None:
    from runner.execute.slurm import find_job, stop_job
    from runner.status.status import stop

    job = find_job(name, _local_storage(storage))
    if job is not None:
        print_text(stop_job(job, now=now))
        return
    for line in stop(name, _local_storage(storage), now=now):
        print_text(line)


def _connect(address: str) -> Jobs:
    from runner.execute.ray.jobs import Jobs

    return Jobs(address)


def _experiment_of(jobs: Jobs, name: str) -> str:
    """The experiment of a job; any other name is returned as it is."""
    job = jobs.find(name)
    return job.experiment if job else name


def _run_on_head(jobs: Jobs, arguments: Sequence[str], show: Callable[[str], None]) -> None:
    """Run a command on the cluster's head; if it fails there, exit with its status and its error message."""
    output: list[str] = []

    def collect(text: str) -> None:
        output.append(text)
        show(text)

    exit_status = jobs.run_command(arguments, collect)
    if exit_status:
        if show is not _print:
            print_text("".join(output), end="", file=sys.stderr)
        raise typer.Exit(exit_status)


def _print(text: str) -> None:
    print_text(text, end="", flush=True)


def _local_storage(storage: Path | None) -> Path:
    return storage or Path("runs")


def _cluster_storage(jobs: Jobs, storage: Path | None) -> str:
    """The folder of all runs on a cluster: the one that was named, or the only one that its launches use."""
    from runner.errors import RequirementError

    folders = [str(storage)] if storage else _job_folders(jobs)
    if len(folders) != 1:
        known = ": " + ", ".join(folders) if folders else ""
        raise RequirementError(f"the cluster's launches use {len(folders)} run folders{known}; name one with --storage")
    return folders[0]


def _job_folders(jobs: Jobs) -> list[str]:
    return list(dict.fromkeys(job.storage for job in jobs.list_jobs()))
