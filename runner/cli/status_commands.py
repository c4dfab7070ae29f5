"""Commands for running experiments: status, logs, stop; and a launch submitted to a cluster."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import RUN, AsJson, Debug, app

if TYPE_CHECKING:
    from runner.execute.ray.jobs import Jobs
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.load import LoadedSpec
    from runner.trial.run_directory import RunDirectory


Storage = Annotated[
    Path | None,
    typer.Option(help="The folder of all runs. Default: `runs` here; on a cluster, where its launches keep them."),
]
Address = Annotated[
    str | None, typer.Option(help="Ask a cluster: its dashboard (http://head:8265), or its head (head:6379).")
]

FOLLOW_SECONDS = 0.5


@app.command(rich_help_panel=RUN)
def status(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT|TRIAL]...", help="By name, its beginning, or folder. Default: all."),
    ] = None,
    storage: Storage = None,
    address: Address = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show how trials stand: step, last figures, and how long ago each told anything."""
    from runner.cli.status_display import jobs_table, status_lines, status_table
    from runner.cli.tables import print_tables

    if address:
        jobs = _jobs(address)
        told = {"experiments": list(_standing_there(jobs, names or (), storage)), "jobs": _listed(jobs)}
    else:
        told = {"experiments": _standing_here(names or (), storage)}
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
        return
    print_tables([jobs_table(told["jobs"])] if told.get("jobs") else [])
    for each in told["experiments"]:
        print_tables([status_table(each)])
        for line in status_lines(each):
            print(line)
    if not told["experiments"] and not told.get("jobs"):
        print("no runs here yet" if not address else "the cluster knows of no launch")


def _standing_here(names: Sequence[str], storage: Path | None) -> list[dict[str, Any]]:
    from runner.status.status import experiment_status, find

    return [experiment_status(found).as_json() for found in find(names, _here(storage))]


def _standing_there(jobs: Jobs, names: Sequence[str], storage: Path | None) -> Iterator[dict[str, Any]]:
    places = [_there(jobs, storage)] if names or storage else _places(jobs)
    for place in places:
        pieces: list[str] = []
        named = [_experiment_of(jobs, name) for name in names]
        _ask(jobs, ["status", *named, "--storage", place, "--json"], pieces.append)
        yield from json.loads("".join(pieces))["experiments"]


@app.command(rich_help_panel=RUN)
def logs(
    trial: Annotated[str, typer.Argument(metavar="TRIAL|JOB", help="A trial by name, its beginning, or folder.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it is at its end.")] = False,
    storage: Storage = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Print what a trial told: its states, figures and warnings, and its workers' output; or what a job printed."""
    if address is None:
        _logs_here(trial, storage, follow=follow)
        return
    from runner.execute.ray.jobs import without_preface

    jobs = _jobs(address)
    job = jobs.find(trial)
    if job is not None:
        (jobs.follow if follow else jobs.printed)(job.name, without_preface(_show))
        return
    _ask(jobs, ["logs", trial, *(["--follow"] if follow else []), "--storage", _there(jobs, storage)], _show)


def _logs_here(trial: str, storage: Path | None, *, follow: bool) -> None:
    from runner.cli.status_display import EventLines
    from runner.status.status import find_trial
    from runner.trial.events import EventTail
    from runner.trial.run_directory import RunDirectory

    run = RunDirectory(find_trial(trial, _here(storage)))
    tail, lines = EventTail(run.events), EventLines()
    while True:
        # Looked at before the log is read, so that nothing is missed that it told at its end.
        going = follow and _is_underway(run)
        for event in tail.read():
            for line in lines.of(event):
                print(line, flush=True)
        if not going:
            break
        time.sleep(FOLLOW_SECONDS)
    for file in sorted(file for file in run.path.glob("*.log") if file.stat().st_size):
        print(f"--- {file.name}\n{file.read_text(encoding='utf-8', errors='replace')}", end="")


def _is_underway(run: RunDirectory) -> bool:
    from runner.status.process_registry import launch_records

    return run.read_record().get("status") == "running" and any(note.alive for note in launch_records(run.path.parent))


@app.command(rich_help_panel=RUN)
def stop(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT|TRIAL|JOB", help="By name, its beginning, or folder.")],
    now: Annotated[bool, typer.Option("--now", help="At once: what is not saved yet is done again.")] = False,
    storage: Storage = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Ask a launch, or one trial, to save and end; `runner launch` goes on from there."""
    if address is None:
        _stop_here(name, storage, now=now)
        return
    jobs = _jobs(address)
    job = jobs.find(name)
    if job is None:
        _ask(jobs, ["stop", name, *(["--now"] if now else []), "--storage", _there(jobs, storage)], _show)
    elif now:
        _ask(jobs, ["stop", job.name, "--now", "--storage", job.storage], _show)
    else:
        jobs.stop(job)
        print(f"{job.name} was asked to stop: its trials save and end")


def _stop_here(name: str, storage: Path | None, *, now: bool) -> None:
    from runner.status.status import stop

    for line in stop(name, _here(storage), now=now):
        print(line)


def launch_detached(
    loaded: LoadedSpec[ExperimentSpec], address: str | None, *, local: bool, smoke: bool, as_json: bool
) -> None:
    """Hand a launch over to a cluster, and say how it is followed.

    Raises:
        SpecError: The spec does not say where on the cluster its runs go, or would give away a password.
        UnmetError: There is no cluster, or it cannot launch.
    """
    from runner.errors import RequirementError
    from runner.execute.ray.jobs import serialize_spec
    from runner.plan import smoke as smoke_of

    if local or not address:
        wrong = "--local runs here" if local else "no cluster was named"
        raise RequirementError(
            f"--detach hands a launch over to a cluster, and {wrong}: name one, as --address http://head:8265"
        )
    text = serialize_spec(loaded)
    name, storage = (smoke_of(loaded.spec) if smoke else loaded.spec).name, str(loaded.spec.compute.storage)
    job = _jobs(address).launch(name, storage, text, ["--smoke"] if smoke else [])
    if as_json:
        print(json.dumps({"job": job, "address": address, "experiment": name, "storage": storage}))
        return
    print(f"job: {job}")
    print(f"what it prints: runner logs {job} --follow --address {address}")
    print(f"its trials: runner status {name} --address {address}")
    print(f"to end it: runner stop {job} --address {address}")


def _jobs(address: str) -> Jobs:
    from runner.execute.ray.jobs import Jobs

    return Jobs(address)


def _listed(jobs: Jobs) -> list[dict[str, Any]]:
    return [job.as_json() for job in jobs.listed()]


def _experiment_of(jobs: Jobs, name: str) -> str:
    """What a name means to the head: a job's stands for its experiment."""
    job = jobs.find(name)
    return job.experiment if job else name


def _ask(jobs: Jobs, arguments: Sequence[str], show: Callable[[str], None]) -> None:
    """Have the head run a command. It failed there as it would have here, and has said why."""
    pieces: list[str] = []

    def shown(text: str) -> None:
        pieces.append(text)
        show(text)

    found = jobs.ask(arguments, shown)
    if found:
        if show is not _show:
            print("".join(pieces), end="", file=sys.stderr)
        raise typer.Exit(found)


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _here(storage: Path | None) -> Path:
    return storage or Path("runs")


def _there(jobs: Jobs, storage: Path | None) -> str:
    """The folder of all runs on a cluster: as it was named, or where its launches keep them."""
    from runner.errors import RequirementError

    places = [str(storage)] if storage else _places(jobs)
    if len(places) != 1:
        known = ": " + ", ".join(places) if places else ""
        raise RequirementError(
            f"the cluster's launches keep runs in {len(places)} folders{known}; name one with --storage"
        )
    return places[0]


def _places(jobs: Jobs) -> list[str]:
    return list(dict.fromkeys(job.storage for job in jobs.listed()))
