"""Describes trials and sweeps to the tracker, from memory or from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError
from runner.plan import flatten, implement, read_plan, settings
from runner.secrets import without_passwords
from runner.spec.check import section
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_spec
from runner.stages import DatasetInfo, TrackedRun
from runner.status.sweep_folder import sweep_as_told
from runner.trial.run_directory import RunDirectory


def tracked_trial(spec: ExperimentSpec, dataset: DatasetInfo, run: RunDirectory, tags: Mapping[str, str]) -> TrackedRun:
    """Describe a trial; `tags` is what sets it apart in its sweep."""
    return TrackedRun(
        experiment=spec.name,
        trial=run.path.name,
        fingerprint=_fingerprint(spec),
        run_dir=run.path,
        parameters=parameters_of(spec),
        dataset=dataset,
        spec_file=run.spec,
        tags={"seed": str(spec.seed), **tags},
        chosen=frozenset(settings(spec)),
    )


def tracked_sweep(spec: ExperimentSpec, dataset: DatasetInfo, folder: Path) -> TrackedRun:
    """Describe the sweep that lies in a folder."""
    return TrackedRun(
        experiment=spec.name,
        trial=f"sweep-{_fingerprint(spec)[:8]}",
        fingerprint=f"sweep-{_fingerprint(spec)}",
        run_dir=folder,
        parameters=parameters_of(spec),
        dataset=dataset,
        spec_file=folder / "spec.yaml",
        chosen=frozenset(settings(spec)),
    )


def trial_from_folder(run: RunDirectory, entry: Mapping[str, Any]) -> tuple[ExperimentSpec, TrackedRun]:
    """Read a trial's folder.

    Args:
        run: The folder.
        entry: What its sweep's `sweep.json` says of it; nothing outside of a sweep.

    Raises:
        DataError: It holds no plan that this version can read.
    """
    spec = _plan(run.plan)
    names = {"group": "group", "arm": "arm", "number": "trial"}
    tags = {tag: str(entry[name]) for name, tag in names.items() if entry.get(name) not in (None, "")}
    return spec, tracked_trial(spec, _dataset(run.read_record().get("dataset"), spec), run, tags)


def sweep_from_folder(folder: Path) -> tuple[ExperimentSpec, TrackedRun]:
    """Read the folder of a sweep; see `trial_from_folder`."""
    spec = _plan(folder / "plan.json")
    return spec, tracked_sweep(spec, _dataset(sweep_as_told(folder).get("dataset"), spec), folder)


def parameters_of(spec: ExperimentSpec) -> dict[str, Any]:
    """A plan as dotted paths, without passwords of addresses; the tracker's own section says nothing of the run."""
    leaves = flatten({name: value for name, value in spec.as_json().items() if name != "tracker"})
    return {path: without_passwords(value) if isinstance(value, str) else value for path, value in leaves}


def store_of(spec: ExperimentSpec) -> str:
    """Which tracker a spec names, so that a run that moves to another one is told there from its beginning."""
    return without_passwords(json.dumps(spec.tracker.as_json(), sort_keys=True))


def _plan(file: Path) -> ExperimentSpec:
    try:
        return read_plan(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _fingerprint(spec: ExperimentSpec) -> str:
    assert spec.pinned is not None, "a plan is pinned"
    return spec.pinned.fingerprint


def _dataset(told: Mapping[str, Any] | None, spec: ExperimentSpec) -> DatasetInfo:
    """The data set as a launch noted it; of runs of earlier versions, what the plan says of it."""
    if told is None:
        assert spec.pinned is not None, "a plan is pinned"
        return DatasetInfo(spec.data.type, "", spec.pinned.data, (), {})
    return DatasetInfo(told["name"], told["location"], told["fingerprint"], tuple(told["labels"]), told["num_samples"])


def serve_command(spec: Path | None, host: str, port: int) -> Sequence[str]:
    """The command for a spec's store, or for the MLflow store under `runs/` of this folder.

    Raises:
        SpecError: There is no such store yet.
    """
    if spec is None:
        tracker, storage = section("tracker", {"type": "mlflow"}), Path("runs").resolve()
    else:
        loaded = load_spec(spec).spec
        tracker, storage = loaded.tracker, loaded.compute.storage or Path("runs").resolve()
    if not storage.is_dir():
        raise SpecError(f"{storage}: no runs here yet; `runner launch SPEC` makes them, or name a spec")
    served: Sequence[str] = implement(tracker, storage).serve_command(host, port)
    return served
