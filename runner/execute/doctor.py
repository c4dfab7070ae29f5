"""Gathers what `runner doctor` finds: this machine, and the storage, tracker and cluster of a spec."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from runner.errors import RunnerError
from runner.execute.slurm import list_partitions
from runner.preflight.doctor import Finding, check_gpus, check_machine, check_software, check_storage
from runner.resolved_plan import create_plugin
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec, Section
from runner.stages import DescribesStore


def examine(spec: ExperimentSpec | None, address: str | None) -> Iterator[Finding]:
    """Find out what a launch would need, one finding at a time, because some take seconds.

    Args:
        spec: The spec; None checks what every launch needs, with the default folder of all runs.
        address: The address of the cluster on which the trials would run; None for this machine.
    """
    compute = spec.compute if spec is not None else ComputeOptions()
    storage = compute.storage or Path("runs").resolve()
    tracker = spec.tracker if spec is not None else None
    keeps_database = bool(getattr(tracker.options, "stays_in_storage", False)) if tracker is not None else True
    yield from check_software()
    yield from check_machine()
    if address is None:
        yield from check_gpus(compute)
        yield from check_slurm()
    yield from check_storage(storage, keeps_database=keeps_database)
    if tracker is not None:
        yield from check_tracker(tracker, storage, keeps_database=keeps_database)
    if address is not None:
        yield from _check_cluster(address, compute, storage)


def check_slurm() -> Iterator[Finding]:
    """Describe the partitions of Slurm; nothing on a machine without it."""
    try:
        partitions = list_partitions()
    except RunnerError as error:
        yield Finding("slurm", "warning", str(error), "`runner launch --slurm` needs it")
        return
    if partitions:
        yield Finding("slurm", "ok", "partitions: " + "; ".join(partitions))


def check_tracker(tracker: Section, storage: Path, *, keeps_database: bool) -> Iterator[Finding]:
    """Open the tracker, and describe its store.

    Args:
        tracker: The section `tracker`.
        storage: The folder of all runs.
        keeps_database: Whether the tracker's store lies in the folder of all runs. If that folder does not exist, the
            tracker is tried in a temporary folder, because this command creates nothing.
    """
    with ExitStack() as stack:
        folder = storage
        if not storage.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runner-doctor-")))
        try:
            opened = create_plugin(tracker, folder)
            described = opened.describe_store() if isinstance(opened, DescribesStore) else None
        except RunnerError as error:
            yield Finding("tracker", "problem", str(error), "the message says what to do")
            return
        if described is None:
            yield Finding("tracker", "ok", f"the tracker {tracker.type} can be opened")
        elif described.warning:
            remedy = "use the same version on both sides, if something fails"
            yield Finding("tracker", "warning", f"{described.text}: {described.warning}", remedy)
        elif keeps_database and folder != storage:
            yield Finding("tracker", "ok", f"the first launch creates a database in {storage}")
        else:
            yield Finding("tracker", "ok", described.text)


def _check_cluster(address: str, compute: ComputeOptions, storage: Path) -> Iterator[Finding]:
    # Ray is imported only where it is needed.
    if address.startswith(("http://", "https://")):
        from runner.execute.ray.cluster_check import check_dashboard  # noqa: PLC0415

        yield from check_dashboard(address)
        return
    from runner.execute.ray.cluster_check import check_cluster  # noqa: PLC0415

    existing = next(folder for folder in (storage, *storage.parents) if folder.exists())
    probe_folder = existing / f".runner-doctor-{uuid4().hex}"
    try:
        probe_folder.mkdir()  # with the permissions of the umask, so that nodes can write as they could into a run
    except OSError:  # `check_storage` has reported it
        yield from check_cluster(address, compute, None)
        return
    try:
        yield from check_cluster(address, compute, probe_folder)
    finally:
        shutil.rmtree(probe_folder, ignore_errors=True)
