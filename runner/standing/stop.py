"""Stops what runs: a launch as Ctrl-C does, or one trial by its stop file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.artifacts import RunDirectory
from runner.errors import UnmetError
from runner.standing.standing import RUNNING, WAITING, Found, experiments, find, trial_standing
from runner.standing.underway import Note, notes


def stop(name: str, storage: Path, *, now: bool) -> list[str]:
    """Stop what is named.

    Args:
        name: A job, or what `find` takes.
        storage: The folder of all runs.
        now: Without saving first.

    Returns:
        What was done, a line each.

    Raises:
        SpecError: There is nothing of that name.
        UnmetError: It does not run, or not here.
    """
    launches = [note for folder in experiments(storage) for note in notes(folder) if note.job == name]
    if not launches:
        [found] = find([name], storage)
        if not found.whole:
            return [_stop_trial(found, now=now)]
        launches = notes(found.experiment)
    alive = [note for note in launches if note.alive]
    if not alive:
        raise UnmetError(f"no launch of {name} runs")
    return [_stop_launch(note, now=now) for note in alive]


def _stop_launch(note: Note, *, now: bool) -> str:
    note.stop(now=now)
    what = f"the launch of {note.file.parent.name} (process {note.pid})"
    return f"{what} was ended" if now else f"{what} was asked to stop: its trials save and end"


def _stop_trial(found: Found, *, now: bool) -> str:
    [folder] = found.trials
    launches: Sequence[Note] = [note for note in notes(found.experiment) if note.alive]
    status = trial_standing(folder, launched=bool(launches)).status
    if status not in {RUNNING, WAITING}:
        raise UnmetError(f"{folder.name} does not run: it is {status}")
    if now:
        raise UnmetError(
            f"one trial is not ended without saving: leave --now out, or end all of the launch with "
            f"`runner stop {found.experiment.name} --now`"
        )
    RunDirectory(folder).stop_request.touch()
    return f"{folder.name} was asked to stop: it saves and ends"
