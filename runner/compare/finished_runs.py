"""Selects finished runs, reads them from their folders, and rejects runs that cannot be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.code_identity import changed_modules
from runner.errors import DataError, SpecError
from runner.files import check_is_file, read_jsonl
from runner.status.status import ExperimentSelection, find_experiments
from runner.sweep.sweep_folder import SWEEP_FOLDER, read_sweep
from runner.trial.run_directory_and_events import RunDirectory

ScoreRow = Mapping[str, Any]
"""A line of `scores.jsonl`."""
FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: The run directory; its last two names are experiment and trial.
        plan: The content of `plan.json`.
        scores: The lines of `scores.jsonl` by sample id, in the order of the data set.
        metrics: The content of `metrics.json`.
        group: The group of its sweep, an arm or a point, of which it is a repetition; empty outside of a sweep.
        arm: The arm of its sweep; the group where the sweep has no arms.
        prompts: The hash of its test prompts for each task; empty if an earlier version scored it.
    """

    folder: Path
    plan: Mapping[str, Any] = field(repr=False)
    scores: Mapping[str, ScoreRow] = field(repr=False)
    metrics: Mapping[str, float | None] = field(repr=False)
    group: str = ""
    arm: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Experiment and trial: `tiny_mmre/trial-aa1055e9`."""
        return RunDirectory(self.folder).name

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.folder.parent.name

    @property
    def seed(self) -> int:
        """The random seed of the run."""
        return int(self.plan["seed"])

    @property
    def data_fingerprint(self) -> str:
        """The fingerprint of the data set."""
        return str(self.plan["pinned"]["data"])

    @property
    def metric_sections(self) -> Mapping[str, Mapping[str, Any]]:
        """The sections of its metrics in the plan, by type."""
        return {section["type"]: section for section in self.plan["metrics"]}

    @property
    def scoring_code(self) -> Mapping[str, Mapping[str, str]]:
        """The part of its `pinned.code` that parsed and scored the answers."""
        return {
            unit: modules
            for unit, modules in self.plan["pinned"].get("code", {}).items()
            if unit.startswith("metric.") or unit.endswith(".parse") or unit == "engine.score"
        }

    @property
    def parse_mode(self) -> str:
        """The parse mode of its main metrics (`adapter.parse`); empty where the adapter has only one mode."""
        return str(self.plan["adapter"].get("parse", ""))

    @property
    def parse_modes(self) -> Sequence[str]:
        """All parse modes that its answers were scored in, the main one first."""
        row: ScoreRow = next(iter(self.scores.values()), {})
        others = [name for name, value in row.items() if isinstance(value, dict) and "counts" in value]
        return [self.parse_mode, *others]

    def counts(self, metric: str, mode: str) -> list[Mapping[str, Any] | None]:
        """Return the counts of a metric for each sample in a parse mode; None where the metric does not apply."""
        rows = self.scores.values()
        return [(row if mode == self.parse_mode else row[mode])["counts"].get(metric) for row in rows]

    def metric_value(self, name: str, mode: str) -> float | None:
        """Return a metric of `metrics.json` in a parse mode."""
        return self.metrics.get(name if mode == self.parse_mode else f"{mode}/{name}")


def read_run(folder: Path, group: str = "", arm: str = "") -> Run:
    """Read a finished run.

    Raises:
        DataError: A file is missing, broken or incomplete; the message names it and the command that restores it.
    """
    directory = RunDirectory(folder)
    remedy = f"score its answers again (runner launch {directory.plan} --rerun score)"
    for file in (directory.scores, directory.metrics):
        if not file.exists():
            raise DataError(f"{directory.name}: {file.name} is missing; {remedy}")
    try:
        check_is_file(directory.plan, "Launch the spec again")
        plan = json.loads(directory.plan.read_text(encoding="utf-8"))
        scores = {str(row["id"]): row for row in read_jsonl(directory.scores)}
        record = directory.read_record()
        num_samples, prompts = int(record["dataset"]["num_samples"]["test"]), dict(record.get("prompts", {}))
        run = Run(folder, plan, scores, directory.read_metrics(), group, arm, prompts)
        _check_fields(run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{directory.name}: is not a readable run of this version ({reason}); {remedy}") from error
    if len(scores) != num_samples:
        raise DataError(
            f"{directory.name}: scores.jsonl has the scores of {len(scores)} samples, but by record.json the test "
            f"split has {num_samples} samples; {remedy}"
        )
    return run


def _check_fields(run: Run) -> None:
    """Access the fields that a comparison needs, so that an error in a file is reported with its run."""
    assert run.data_fingerprint
    assert run.seed >= 0
    assert "model" in run.plan["pinned"]
    assert all("type" in section.keys() for section in (run.plan["data"], run.plan["adapter"]))  # noqa: SIM118
    assert run.metric_sections is not None
    changed_modules(run.scoring_code, run.scoring_code)
    for row in run.scores.values():
        row["counts"].keys()
        row.get("reference", {})


PRUNED = "pruned"
MAX_NAMES_LISTED = 5
"""Number of runs that a message names."""


@dataclass(frozen=True)
class Selection:
    """The runs to compare.

    Attributes:
        runs: Finished runs, all with the same test split.
        warnings: Which runs were skipped.
    """

    runs: Sequence[Run]
    warnings: Sequence[str]


def select_runs(names: Sequence[str], storage: Path, *, finished_only: bool = False) -> Selection:
    """Read the runs with these names; see `runner.status.status.find_experiments`.

    Of a sweep, these are the trials that its `sweep.json` lists, because the folder may hold trials of an earlier
    sweep. Trials that the sweep has pruned are skipped.

    Args:
        names: Experiments and trials.
        storage: The folder of all runs.
        finished_only: Skip unfinished runs instead of raising an error.

    Raises:
        SpecError: No run is found, a run is not finished, or the test splits differ.
        DataError: A file of a run is missing or broken.
    """
    experiments = [experiment for name in names for experiment in find_experiments([name], storage)]
    sweep_places = {folder: place for experiment in experiments for folder, place in _trials(experiment)}
    status = {folder: str(RunDirectory(folder).read_record().get("status", "not started")) for folder in sweep_places}
    unfinished = [folder for folder in sweep_places if status[folder] not in {FINISHED, PRUNED}]
    if unfinished and not finished_only:
        raise SpecError(_unfinished_message(unfinished, status, len(sweep_places)))
    runs = [read_run(folder, *place) for folder, place in sweep_places.items() if status[folder] == FINISHED]
    if not runs:
        raise SpecError(f"{', '.join(names)}: no run is finished; `runner status` shows their state")
    skipped = Counter(value for value in status.values() if value != FINISHED)
    warnings = [f"skipped {number} {value} run{'' if number == 1 else 's'}" for value, number in skipped.items()]
    check_same_test_samples(runs)
    return Selection(runs, [*warnings, *_scoring_warnings(runs), *_prompt_warnings(runs)])


def _scoring_warnings(runs: Sequence[Run]) -> list[str]:
    """Warn if the answers were not all parsed and scored by the same code, so that metrics differ for that reason."""
    first = runs[0].scoring_code
    changes = sorted({change for run in runs for change in changed_modules(run.scoring_code, first)})
    if not changes:
        return []
    names = [run.name for run in runs if changed_modules(run.scoring_code, first)]
    return [
        f"{_name_first(names)}: not scored by the same code as {runs[0].name} ({'; '.join(changes)}); launch the specs "
        "again, which scores the cached answers, before you compare the metrics"
    ]


def _prompt_warnings(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a warning for each task that runs were asked with different prompts at test."""
    for task in dict.fromkeys(task for run in runs for task in run.prompts):
        asked = [run for run in runs if task in run.prompts]
        others = [run.name for run in asked if run.prompts[task] != asked[0].prompts[task]]
        if others:
            yield (
                f"{_name_first(others)}: asked {task} with other prompts than {asked[0].name}, so that metrics can "
                "differ for this reason"
            )


def _trials(experiment: ExperimentSelection) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the trials of an experiment, with the group and the arm of each in its sweep."""
    listed: list[dict[str, Any]] = read_sweep(experiment.experiment / SWEEP_FOLDER).get("trials", [])
    places = {}
    for entry in listed:
        group = str(entry.get("group", ""))
        places[entry["name"]] = (group, str(entry.get("arm") or group))
    order = {name: index for index, name in enumerate(places)}
    for trial in sorted(experiment.trials, key=lambda trial: order.get(trial.name, len(order))):
        if not (experiment.is_whole and places) or trial.name in places:
            yield trial, places.get(trial.name, ("", ""))


def _unfinished_message(unfinished: Sequence[Path], status: Mapping[Path, str], num_runs: int) -> str:
    names = [f"{RunDirectory(folder).name} ({status[folder]})" for folder in unfinished]
    return (
        f"{len(unfinished)} of {num_runs} runs are not finished: {_name_first(names)}. Launch the spec again, which "
        "continues them, or compare only the finished runs with --finished"
    )


def _name_first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_LISTED} more" if len(names) > MAX_NAMES_LISTED else ""
    return ", ".join(names[:MAX_NAMES_LISTED]) + more


def check_same_test_samples(runs: Sequence[Run]) -> None:
    """Check that all runs were scored on the same test samples.

    Raises:
        SpecError: The fingerprints of their data sets differ, or the ids of their test samples do.
    """
    names_by_data: dict[str, list[str]] = {}
    for run in runs:
        names_by_data.setdefault(run.data_fingerprint, []).append(run.name)
    if len(names_by_data) > 1:
        listed = "; ".join(f"{data[:12]} of {_name_first(names)}" for data, names in names_by_data.items())
        raise SpecError(
            f"these runs have {len(names_by_data)} different data sets, by fingerprint: {listed}. Metrics on different "
            "test samples are not comparable: name runs of one data set, or launch the others on it"
        )
    first = runs[0]
    for run in runs[1:]:
        if list(run.scores) != list(first.scores):
            unshared = sorted(run.scores.keys() ^ first.scores.keys())
            reason = (
                f"{len(unshared)} ids are only in one of them, such as {unshared[0]!r}"
                if unshared
                else "their order differs"
            )
            raise SpecError(
                f"{first.name} and {run.name} were not scored on the same test samples: {reason}. Launch both again "
                "on one data set"
            )


def choose_parse_mode(runs: Sequence[Run], requested: str | None) -> str:
    """Return the parse mode in which all runs are compared.

    Raises:
        SpecError: The runs have different parse modes and none was requested, or a run was not scored in that mode.
    """
    shared = [mode for mode in runs[0].parse_modes if all(mode in run.parse_modes for run in runs)]
    if requested is not None:
        if requested not in shared:
            known = ", ".join(filter(None, shared)) or "none"
            raise SpecError(
                f"--parse {requested}: not all runs were scored in this parse mode; modes that all runs have: {known}"
            )
        return requested
    names_by_mode: dict[str, list[str]] = {}
    for run in runs:
        names_by_mode.setdefault(run.parse_mode, []).append(run.name)
    if len(names_by_mode) > 1:
        listed = "; ".join(f"{mode} of {_name_first(names)}" for mode, names in names_by_mode.items())
        remedy = (
            f"Choose one for all: {' or '.join(f'--parse {mode}' for mode in shared)}"
            if shared
            else "Launch them with the same mode"
        )
        raise SpecError(f"these runs have different parse modes (adapter.parse): {listed}. {remedy}")
    return runs[0].parse_mode
