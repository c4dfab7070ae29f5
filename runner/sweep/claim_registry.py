"""The registry of claims: `claims.jsonl` of a sweep, which shows whether a claim was made before its results.

Each line is a state of the section `claims`, of the criterion, and of the experiment's results. A launch appends a line
if the state differs from that of the last line, and never changes an earlier line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from runner.errors import DataError
from runner.fingerprint_and_provenance import fingerprint
from runner.spec.claims_section import Claim, Criterion, single_task_candidates
from runner.spec.experiment_spec import NONE, ExperimentSpec
from runner.sweep.sweep_folder import SWEEP_FOLDER
from runner.trial.run_directory_and_events import Event, EventLog, EventTail

CLAIMS_FILE = "claims.jsonl"
"""The registry's name in the folder of the sweep."""
CLAIMS = "claims"
"""The kind of an event that registers claims; also the section of the spec."""
CRITERION = "criterion"
REMEDY = "Restore the file from a copy, such as the one in the tracker"

Change = Literal["added", "changed", "removed"]


@dataclass(frozen=True)
class Standing:
    """When a claim, or the criterion, was registered.

    Attributes:
        content: The claim as in the spec, with every default; the last one, if it was removed.
        time: When this content was first registered, in ISO 8601 (UTC); None if it is not registered yet.
        sha256: The hash of all claims and the criterion at that time; None if it is not registered yet.
        late_change: The last change after a result of the experiment existed; None if there was none. The claim counts
            as changed although a later change restored an earlier content.
        is_removed: Whether the spec no longer has it.
    """

    content: Mapping[str, Any]
    time: str | None
    sha256: str | None
    late_change: Change | None = None
    is_removed: bool = False

    def __str__(self) -> str:
        """Describe the standing in a few words: `before results, 2026-12-01 13:25 UTC`."""
        late = f"{self.late_change} after results" if self.late_change else ""
        if self.time is None:
            return f"not registered yet{f' ({late})' if late else ''}"
        return f"{late or 'before results'}, {self.time[:10]} {self.time[11:16]} UTC"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        state = f"{self.late_change}_after_results" if self.late_change else "before_results"
        return {"state": state, "is_registered": self.time is not None, "time": self.time, "sha256": self.sha256}


@dataclass(frozen=True)
class Registry:
    """What was registered for an experiment.

    Attributes:
        claims: The standing of each claim by name. A claim that was removed before any result is left out.
        criterion: The standing of the criterion; None if there is none.
        sha256: The hash of the last state; None if nothing is registered.
    """

    claims: Mapping[str, Standing] = field(default_factory=dict)
    criterion: Standing | None = None
    sha256: str | None = None

    @property
    def metric_names(self) -> list[str]:
        """The metrics that the claims and the criterion name."""
        claims = [Claim.model_validate(standing.content) for standing in self.claims.values()]
        criterion = self.criterion.content["metrics"].values() if self.criterion else ()
        return list(dict.fromkeys([*(metric for claim in claims for metric in claim.baselines), *criterion]))


def claims_state(spec: ExperimentSpec) -> dict[str, Any]:
    """Return the claims of a spec and its criterion, in which the single-task arm of each task is written out."""
    criterion = None
    if spec.criterion is not None and spec.sweep is not None:
        arms, adapter = spec.sweep.arms, spec.adapter.as_json()
        trainer = spec.trainer.as_json() if spec.trainer else NONE
        derived = {
            task: arm for task in spec.criterion.metrics for arm in single_task_candidates(task, arms, adapter, trainer)
        }
        single_task_arms = {**derived, **spec.criterion.single_task_arms}
        criterion = {**spec.criterion.model_dump(mode="json"), "single_task_arms": single_task_arms}
    claims = {name: claim.model_dump(mode="json") for name, claim in spec.claims.items()}
    return {CLAIMS: claims, CRITERION: criterion}


def has_results(experiment: Path) -> bool:
    """Return whether a trial of an experiment has finished scoring, in whichever launch."""
    return any(experiment.glob("trial-*/metrics.json"))


def register_claims(spec: ExperimentSpec, sweep: Path) -> bool:
    """Append the claims of a spec to the registry, if they, or whether results exist, have changed.

    The sweep's event log receives the same event, so that the tracker lacks something until it has the registry.

    Args:
        spec: The spec that is launched.
        sweep: The folder of the sweep, which is locked.

    Returns:
        Whether a line was appended. Without claims and criterion, none is appended to an empty registry.

    Raises:
        DataError: The registry is damaged.
    """
    state = claims_state(spec)
    lines = _read_lines(sweep)
    if not lines and not any(state.values()):
        return False
    # Once seen, results stay seen, although `--rerun score` removes them for a while.
    results_seen = has_results(sweep.parent) or bool(lines and lines[-1]["results_seen"])
    if lines and _content(lines[-1]) == state and lines[-1]["results_seen"] == results_seen:
        return False
    entry = {"sha256": fingerprint(state), "results_seen": results_seen}
    EventLog(sweep / CLAIMS_FILE).append(CLAIMS, **entry, **state)
    EventLog(sweep / "events.jsonl").append(CLAIMS, **entry)
    return True


def read_registry(sweep: Path) -> Registry:
    """Read the standing of every registered claim of a sweep; empty if there is no registry.

    Raises:
        DataError: The registry is damaged, or a line was edited.
    """
    return _registry(_read_lines(sweep))


def preview_registry(spec: ExperimentSpec, experiment: Path) -> Registry:
    """Return the standing that the claims of a spec have now: those that no launch has registered have no time.

    Args:
        spec: The spec.
        experiment: The folder of the experiment, which need not exist.

    Raises:
        DataError: The registry is damaged.
    """
    lines = _read_lines(experiment / SWEEP_FOLDER)
    seen = has_results(experiment) or bool(lines and lines[-1]["results_seen"])
    return _registry([*lines, {"time": None, "sha256": None, "results_seen": seen, **claims_state(spec)}])


def _registry(lines: Sequence[Mapping[str, Any]]) -> Registry:
    histories: dict[str, Standing] = {}
    criterion: dict[str, Standing] = {}
    for line in lines:
        _apply(line[CLAIMS], line, histories)
        _apply({CRITERION: line[CRITERION]} if line[CRITERION] else {}, line, criterion)
    registered = [line["sha256"] for line in lines if line["sha256"]]
    return Registry(histories, criterion.get(CRITERION), registered[-1] if registered else None)


def _apply(current: Mapping[str, Any], line: Mapping[str, Any], standings: dict[str, Standing]) -> None:
    """Update the standings by one line of the registry."""
    seen = line["results_seen"]
    for name, content in current.items():
        before = standings.get(name)
        if before is not None and not before.is_removed and before.content == content:
            continue
        change: Change = "added" if before is None else "changed"
        late = change if seen else before.late_change if before else None
        standings[name] = Standing(content, line["time"], line["sha256"], late)
    for name in [name for name, standing in standings.items() if name not in current and not standing.is_removed]:
        if seen:
            content = standings[name].content
            standings[name] = Standing(content, line["time"], line["sha256"], "removed", is_removed=True)
        else:
            del standings[name]


def _content(line: Mapping[str, Any]) -> dict[str, Any]:
    return {CLAIMS: line[CLAIMS], CRITERION: line[CRITERION]}


def _read_lines(sweep: Path) -> list[Event]:
    return list(_checked_lines(sweep / CLAIMS_FILE))


def _checked_lines(file: Path) -> Iterator[Event]:
    """Yield the lines of a registry.

    Raises:
        DataError: A line is not a state of claims, or differs from its hash.
    """
    for number, line in enumerate(EventTail(file).read(), start=1):
        try:
            state, sha256, seen = _content(line), line["sha256"], line["results_seen"]
            for claim in state[CLAIMS].values():
                Claim.model_validate(claim)
            if state[CRITERION] is not None:
                Criterion.model_validate(state[CRITERION])
            is_edited = sha256 != fingerprint(state) or not isinstance(seen, bool)
        except (KeyError, AttributeError, ValidationError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DataError(f"{file}: entry {number} is damaged ({reason}). {REMEDY}") from error
        if is_edited:
            raise DataError(f"{file}: entry {number} was edited: its SHA-256 is another one. {REMEDY}")
        yield line


def describe_claims(registry: Registry) -> list[dict[str, Any]]:
    """Describe each claim, and then the criterion, as plain data: `name`, `statement` and `standing`."""
    claims = [
        {"name": name, "statement": str(Claim.model_validate(standing.content)), "standing": standing}
        for name, standing in registry.claims.items()
    ]
    if registry.criterion is not None:
        statement = str(Criterion.model_validate(registry.criterion.content))
        claims.append({"name": CRITERION, "statement": statement, "standing": registry.criterion})
    return claims


def plan_claims(spec: ExperimentSpec) -> list[dict[str, Any]]:
    """Describe the claims of a spec, and its criterion, as `plan --json` lists them.

    Raises:
        DataError: The registry of an earlier launch is damaged.
    """
    storage = spec.compute.storage or Path("runs").resolve()
    return [
        {**each, "standing": str(each["standing"]), **each["standing"].as_json()}
        for each in describe_claims(preview_registry(spec, storage / spec.name))
    ]
