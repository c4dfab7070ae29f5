"""Finds the runs that a user names, and refuses those that cannot be set side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.artifacts import RunDirectory
from runner.compare.run import FINISHED, Run, read_run
from runner.errors import SpecError
from runner.standing.standing import Found, find
from runner.standing.sweep_folder import FOLDER, sweep_as_told

PRUNED = "pruned"
SHOWN = 5
"""So many names stand in a message."""


@dataclass(frozen=True)
class Selection:
    """The runs to compare.

    Attributes:
        runs: Finished ones, all over the same test split.
        warnings: What was left out.
    """

    runs: Sequence[Run]
    warnings: Sequence[str]


def select(names: Sequence[str], storage: Path, *, finished: bool = False) -> Selection:
    """Read the runs that names stand for; see `runner.standing.standing.find`.

    Of a sweep these are the trials that its `sweep.json` lists: its folder may hold some of an earlier sweep. Trials
    that the sweep has pruned are left out.

    Args:
        names: Experiments and trials.
        storage: The folder of all runs.
        finished: Leave runs out that are not finished, instead of refusing them.

    Raises:
        SpecError: Nothing is found, something is not finished, or the test splits differ.
        DataError: A file of a run is missing or broken.
    """
    found = [each for name in names for each in find([name], storage)]
    chosen = {folder: place for each in found for folder, place in _members(each)}
    ends = {folder: str(RunDirectory(folder).read_record().get("status", "not begun")) for folder in chosen}
    left = [folder for folder in chosen if ends[folder] not in {FINISHED, PRUNED}]
    if left and not finished:
        raise SpecError(_unfinished(left, ends, len(chosen)))
    runs = [read_run(folder, *place) for folder, place in chosen.items() if ends[folder] == FINISHED]
    if not runs:
        raise SpecError(f"{', '.join(names)}: no run is finished; `runner status` shows how they stand")
    out = Counter(end for end in ends.values() if end != FINISHED)
    warnings = [f"left out: {number} that {'was' if number == 1 else 'were'} {end}" for end, number in out.items()]
    refuse_other_tests(runs)
    return Selection(runs, warnings)


def _members(found: Found) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The trials that a name stands for, with the group and the arm of each in its sweep."""
    listed: list[dict[str, Any]] = sweep_as_told(found.experiment / FOLDER).get("trials", [])
    groups = {each["name"]: str(each.get("group", "")) for each in listed}
    places = {each["name"]: (groups[each["name"]], str(each.get("arm") or groups[each["name"]])) for each in listed}
    order = {name: place for place, name in enumerate(places)}
    for trial in sorted(found.trials, key=lambda each: order.get(each.name, len(order))):
        if not (found.whole and places) or trial.name in places:
            yield trial, places.get(trial.name, ("", ""))


def _unfinished(left: Sequence[Path], ends: dict[Path, str], number: int) -> str:
    told = ", ".join(f"{RunDirectory(folder).name} ({ends[folder]})" for folder in left[:SHOWN])
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    return (
        f"{len(left)} of {number} runs are not finished: {told}{more}. Launch the spec again, which goes on with them; "
        "or compare the finished ones alone with --finished"
    )


def refuse_other_tests(runs: Sequence[Run]) -> None:
    """Refuse runs whose figures are of different test samples.

    Raises:
        SpecError: Their data sets differ by fingerprint, or the ids of their test samples do.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(run.data, []).append(run)
    if len(by_data) > 1:
        told = "; ".join(f"{data[:12]} of {_named(members)}" for data, members in by_data.items())
        raise SpecError(
            f"these runs have {len(by_data)} different data sets, by fingerprint: {told}. Figures of different test "
            "samples do not compare: name runs of one data set, or launch the others on it"
        )
    first = runs[0]
    for run in runs[1:]:
        if list(run.rows) != list(first.rows):
            alone = sorted(run.rows.keys() ^ first.rows.keys())
            told = (
                f"ids that one of them alone has: {len(alone)}, such as {alone[0]!r}" if alone else "in another order"
            )
            raise SpecError(
                f"{first.name} and {run.name} were not scored on the same test samples: {told}. Launch both again "
                "on one data set"
            )


def _named(runs: Sequence[Run]) -> str:
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return ", ".join(run.name for run in runs[:SHOWN]) + more


def parse_mode(runs: Sequence[Run], wanted: str | None) -> str:
    """The way of reading answers that all runs are compared in.

    Raises:
        SpecError: They were read in different ways and none was chosen, or the chosen one is not among those of all.
    """
    shared = [mode for mode in runs[0].modes if all(mode in run.modes for run in runs)]
    if wanted is not None:
        if wanted not in shared:
            known = ", ".join(filter(None, shared)) or "none has a name"
            raise SpecError(f"--parse {wanted}: not all runs were read in that way; those that all share: {known}")
        return wanted
    own: dict[str, list[Run]] = {}
    for run in runs:
        own.setdefault(run.own_mode, []).append(run)
    if len(own) > 1:
        told = "; ".join(f"{mode} of {_named(members)}" for mode, members in own.items())
        choice = " or ".join(f"--parse {mode}" for mode in shared)
        raise SpecError(
            f"the answers of these runs were read in different ways (adapter.parse): {told}. "
            + (f"Compare them in one way: {choice}" if choice else "Launch them with one way of reading")
        )
    return runs[0].own_mode
