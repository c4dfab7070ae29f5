"""Launches that another machine runs: submitted to a Ray cluster (`--detach`), or to Slurm (`--slurm`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.load import LoadedSpec


def launch_detached(
    loaded: LoadedSpec[ExperimentSpec],
    address: str | None,
    *,
    local: bool,
    smoke: bool,
    rerun: str | None,
    as_json: bool,
) -> None:
    """Submit a launch to a cluster, and print the commands that follow it.

    Raises:
        SpecError: The spec does not name a folder for its runs on the cluster, or contains a password.
        RequirementError: There is no cluster, or it cannot start the launch.
    """
    from runner.errors import RequirementError
    from runner.execute.ray.jobs import Jobs
    from runner.execute.submitted_spec import serialize_spec
    from runner.resolved_plan import smoke_spec

    if local or not address:
        cause = "--local runs on this machine" if local else "no cluster was named"
        raise RequirementError(
            f"--detach submits a launch to a cluster, but {cause}: name one, such as --address http://head:8265"
        )
    text = serialize_spec(loaded)
    name, storage = (smoke_spec(loaded.spec) if smoke else loaded.spec).name, str(loaded.spec.compute.storage)
    flags = [*(["--smoke"] if smoke else []), *(["--rerun", rerun] if rerun else [])]
    job = Jobs(address).launch(name, storage, text, flags)
    if as_json:
        print_json({"job": job, "address": address, "experiment": name, "storage": storage})
        return
    print_text(f"job: {job}")
    print_text(f"output: runner logs {job} --follow --address {address}")
    print_text(f"status: runner status {name} --address {address}")
    print_text(f"stop: runner stop {job} --address {address}")


def launch_with_slurm(
    loaded: LoadedSpec[ExperimentSpec],
    options: Sequence[str],
    *,
    smoke: bool,
    conflicting: Sequence[str],
    as_json: bool,
) -> None:
    """Submit a launch to Slurm, and print the commands that follow it.

    Args:
        loaded: The spec.
        options: Options of `sbatch` that the user gives.
        smoke: Whether it is a smoke run.
        conflicting: Options that exclude this one.
        as_json: Whether one JSON document is printed.

    Raises:
        SpecError: The spec contains a password.
        RequirementError: Another option excludes this one, there is no Slurm, or it refuses the job.
    """
    from runner.errors import RequirementError
    from runner.execute.slurm import resource_options, submit
    from runner.execute.submitted_spec import SLURM_REMEDY, serialize_spec
    from runner.resolved_plan import smoke_spec

    if conflicting:
        reason = "a job that returns to the queue would run the step again" if "--rerun" in conflicting else ""
        raise RequirementError(f"--slurm excludes {conflicting[0]}{reason and f': {reason}'}")
    spec = smoke_spec(loaded.spec) if smoke else loaded.spec
    storage = loaded.spec.compute.storage or Path("runs").resolve()
    text = serialize_spec(loaded, SLURM_REMEDY, storage)
    resources = resource_options(spec.compute, options, is_sweep=spec.sweep is not None)
    job = submit(spec.name, storage, text, resources, options, ["--smoke"] if smoke else [])
    if as_json:
        asked = [*resources, *options]
        print_json(
            {
                "job": job.name,
                "experiment": job.experiment,
                "storage": job.storage,
                "output": job.output,
                "options": asked,
            }
        )
        return
    named = f" --storage {storage}" if loaded.spec.compute.storage else ""
    print_text(f"job: {job.name} ({' '.join([*resources, *options])})")
    print_text(f"output: runner logs {job.name} --follow{named}")
    print_text(f"status: runner status {job.experiment}{named}")
    print_text(f"stop: runner stop {job.name}{named}")
