"""Describes trials and sweeps to the tracker, from memory or from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError
from runner.plan import create_plugin, flatten_json, non_default_options, read_plan
from runner.secrets import redact_passwords
from runner.spec.check import make_section
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_spec
from runner.spec.sweep_section import SweepOptions
from runner.stages import DatasetInfo, TrackedRun
from runner.status.experiment_folder import read_sweep
from runner.trial.run_directory import RunDirectory

SWEPT = "swept"
"""Value of a parameter on a sweep's run where the trials have different values."""


def tracked_trial(spec: ExperimentSpec, dataset: DatasetInfo, run: RunDirectory, tags: Mapping[str, str]) -> TrackedRun:
    """Describe a trial; `tags` distinguish it within its sweep."""
    return TrackedRun(
        experiment=spec.name,
        trial=run.path.name,
        fingerprint=_fingerprint(spec),
        run_dir=run.path,
        parameters=logged_parameters(spec),
        dataset=dataset,
        spec_file=run.spec,
        tags={"seed": str(spec.seed), **tags},
        non_default=frozenset(non_default_options(spec)),
    )


def tracked_sweep(spec: ExperimentSpec, dataset: DatasetInfo, folder: Path) -> TrackedRun:
    """Describe the sweep of a folder."""
    return TrackedRun(
        experiment=spec.name,
        trial=f"sweep-{_fingerprint(spec)[:8]}",
        fingerprint=f"sweep-{_fingerprint(spec)}",
        run_dir=folder,
        parameters=_mark_swept(logged_parameters(spec), spec.sweep),
        dataset=dataset,
        spec_file=folder / "spec.yaml",
        non_default=frozenset(non_default_options(spec)),
    )


def trial_from_folder(run: RunDirectory, entry: Mapping[str, Any]) -> tuple[ExperimentSpec, TrackedRun]:
    """Read the description of a trial from its folder.

    Args:
        run: The trial's folder.
        entry: Its entry in the `sweep.json` of its sweep; empty outside of a sweep.

    Raises:
        DataError: The folder has no plan that this version can read.
    """
    spec = _plan(run.plan)
    names = {"group": "group", "arm": "arm", "number": "trial"}
    tags = {tag: str(entry[name]) for name, tag in names.items() if entry.get(name) not in (None, "")}
    return spec, tracked_trial(spec, _dataset(run.read_record().get("dataset"), spec), run, tags)


def sweep_from_folder(folder: Path) -> tuple[ExperimentSpec, TrackedRun]:
    """Read the description of a sweep from its folder; see `trial_from_folder`."""
    spec = _plan(folder / "plan.json")
    return spec, tracked_sweep(spec, _dataset(read_sweep(folder).get("dataset"), spec), folder)


def _mark_swept(parameters: Mapping[str, Any], sweep: SweepOptions | None) -> dict[str, Any]:
    """Replace the values of paths that the trials set, which the sweep's run would otherwise show as its own."""
    if sweep is None:
        return dict(parameters)
    swept = {*sweep.space, *(path for arm in sweep.arms.values() for path in arm), *(("seed",) if sweep.seeds else ())}
    return {
        leaf: SWEPT if any(leaf == path or leaf.startswith(f"{path}.") for path in swept) else value
        for leaf, value in parameters.items()
    }


def logged_parameters(spec: ExperimentSpec) -> dict[str, Any]:
    """Flatten a plan to dotted paths, without passwords in addresses and without the tracker's own section."""
    leaves = flatten_json({name: value for name, value in spec.as_json().items() if name != "tracker"})
    return {path: redact_passwords(value) if isinstance(value, str) else value for path, value in leaves}


def tracker_identity(spec: ExperimentSpec) -> str:
    """Identify the tracker of a spec, so that a run is uploaded from its beginning when the tracker changes."""
    return redact_passwords(json.dumps(spec.tracker.as_json(), sort_keys=True))


def _plan(file: Path) -> ExperimentSpec:
    try:
        return read_plan(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _fingerprint(spec: ExperimentSpec) -> str:
    assert spec.pinned is not None, "a plan is pinned"
    return spec.pinned.fingerprint


def _dataset(recorded: Mapping[str, Any] | None, spec: ExperimentSpec) -> DatasetInfo:
    """The data set as the launch recorded it; for runs of earlier versions, what the plan says about it."""
    if recorded is None:
        assert spec.pinned is not None, "a plan is pinned"
        return DatasetInfo(spec.data.type, "", spec.pinned.data, (), {})
    return DatasetInfo(
        recorded["name"],
        recorded["location"],
        recorded["fingerprint"],
        tuple(recorded["labels"]),
        recorded["num_samples"],
    )


def serve_command(spec: Path | None, host: str, port: int) -> Sequence[str]:
    """The command that serves the tracker's pages, for a spec's store or the MLflow store under `runs/` here.

    Raises:
        SpecError: There is no such store yet.
    """
    if spec is None:
        tracker, storage = make_section("tracker", {"type": "mlflow"}), Path("runs").resolve()
    else:
        loaded = load_spec(spec).spec
        tracker, storage = loaded.tracker, loaded.compute.storage or Path("runs").resolve()
    if not storage.is_dir():
        raise SpecError(f"{storage}: no runs here yet. Start one with `runner launch SPEC`, or name a spec")
    command: Sequence[str] = create_plugin(tracker, storage).serve_command(host, port)
    return command
