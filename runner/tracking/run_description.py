"""Describes trials and sweeps to the tracker, from memory or from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.redaction import redact_tree
from runner.resolved_plan import flatten_json, non_default_options
from runner.spec.experiment_spec import NONE, ExperimentSpec, Section
from runner.spec.sweep_section import SweepOptions
from runner.stages import DatasetInfo, TrackedRun
from runner.sweep.claim_registry import describe_claims, read_registry
from runner.trial.run_directory_and_events import RunDirectory

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
    """Describe the sweep of a folder, with the standing of its registered claims.

    Raises:
        DataError: The registry of the claims is damaged.
    """
    return TrackedRun(
        experiment=spec.name,
        trial=f"sweep-{_fingerprint(spec)[:8]}",
        fingerprint=f"sweep-{_fingerprint(spec)}",
        run_dir=folder,
        parameters=_mark_swept(logged_parameters(spec), spec.sweep),
        dataset=dataset,
        spec_file=folder / "spec.yaml",
        tags=_claim_tags(folder),
        non_default=frozenset(non_default_options(spec)),
    )


def _claim_tags(sweep: Path) -> dict[str, str]:
    """Return the registered claims with their hash, as tags, because the spec can change them later."""
    registry = read_registry(sweep)
    if registry.sha256 is None:
        return {}
    lines = [f"{each['name']}: {each['statement']} [{each['standing']}]" for each in describe_claims(registry)]
    return {"claims": "\n".join(lines) or NONE, "claims_sha256": registry.sha256}


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
    """Flatten a plan to dotted paths, without passwords in addresses, and without tracker and claims.

    Trackers do not allow to change a parameter, but claims can change; they are tags of the sweep.
    """
    omitted = {"tracker", "claims", "criterion"}
    leaves = flatten_json({name: value for name, value in spec.as_json().items() if name not in omitted})
    return {path: redact_tree(value) for path, value in leaves}


def tracker_identity(tracker: Section) -> str:
    """Identify the tracker of a section, so that a run is uploaded from its beginning when the tracker changes."""
    return json.dumps(redact_tree(tracker.as_json()), sort_keys=True)


def _fingerprint(spec: ExperimentSpec) -> str:
    assert spec.pinned is not None, "a plan is pinned"
    return spec.pinned.fingerprint
