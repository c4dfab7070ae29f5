"""Finds the runs that a user names, reads them from their folders, and refuses runs that cannot be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError
from runner.files import read_lines
from runner.status.status import FoundExperiment, find
from runner.status.sweep_folder import FOLDER, sweep_as_told
from runner.trial.run_directory import RunDirectory

Row = Mapping[str, Any]
"""A line of `scores.jsonl`."""
FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its own, with experiment and trial as its last two names.
        plan: Its `plan.json`.
        rows: Its `scores.jsonl`, by sample id, in the data set's order.
        metrics: Its `metrics.json`.
        group: The arm or point of its sweep that it repeats; empty outside of one.
        arm: The arm of its sweep; its group where the sweep has none.
    """

    folder: Path
    plan: Mapping[str, Any]
    rows: Mapping[str, Row]
    metrics: Mapping[str, float | None]
    group: str = ""
    arm: str = ""

    @property
    def name(self) -> str:
        """Experiment and trial: `tiny_mmre/trial-aa1055e9`."""
        return RunDirectory(self.folder).name

    @property
    def experiment(self) -> str:
        """The folder of its experiment."""
        return self.folder.parent.name

    @property
    def seed(self) -> int:
        """What its weights and the order of its samples were drawn from."""
        return int(self.plan["seed"])

    @property
    def data(self) -> str:
        """The fingerprint of its data set."""
        return str(self.plan["pinned"]["data"])

    @property
    def sections(self) -> Mapping[str, Mapping[str, Any]]:
        """Its metrics' sections, by type."""
        return {section["type"]: section for section in self.plan["metrics"]}

    @property
    def own_mode(self) -> str:
        """How its answers were read first; empty where its adapter reads in one way alone."""
        return str(self.plan["adapter"].get("parse", ""))

    @property
    def modes(self) -> Sequence[str]:
        """All ways in which its answers were read: its own, then those reported beside it."""
        first: Row = next(iter(self.rows.values()), {})
        beside = [name for name, told in first.items() if isinstance(told, dict) and "counts" in told]
        return [self.own_mode, *beside]

    def counts(self, metric: str, mode: str) -> list[Mapping[str, Any] | None]:
        """What a metric counted of each sample, with the answers read in one way; None where it was not asked."""
        rows = self.rows.values()
        return [(row if mode == self.own_mode else row[mode])["counts"].get(metric) for row in rows]

    def figure(self, name: str, mode: str) -> float | None:
        """A figure of its `metrics.json`, with the answers read in one way."""
        return self.metrics.get(name if mode == self.own_mode else f"{mode}/{name}")


def read_run(folder: Path, group: str = "", arm: str = "") -> Run:
    """Read a finished run.

    Raises:
        DataError: A file is missing or broken; the message says which, and what makes it anew.
    """
    run = RunDirectory(folder)
    again = f"launch it again (runner launch {run.plan}), which does only what is missing"
    for file in (run.scores, run.metrics):
        if not file.exists():
            raise DataError(f"{run.name}: {file.name} is not there; {again}")
    try:
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        rows = {str(row["id"]): row for row in read_lines(run.scores)}
        found = Run(folder, plan, rows, run.read_metrics(), group, arm)
        _check(found)
    except (ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"{run.name}: cannot be read as a run of this version ({told}); {again}") from error
    if not rows:
        raise DataError(f"{run.name}: scores.jsonl has no sample; {again}")
    return found


def _check(run: Run) -> None:
    """Touch what comparing needs, so that a broken file is told about here."""
    assert run.data
    assert run.seed >= 0
    for row in run.rows.values():
        row["counts"].keys()
        row.get("reference", {})


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
    """Read the runs that names stand for; see `runner.status.status.find`.

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


def _members(found: FoundExperiment) -> Iterator[tuple[Path, tuple[str, str]]]:
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
