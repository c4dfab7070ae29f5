"""Runs trials on Ray: on this machine, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import LostWorkerError, RequirementError
from runner.execute.ray.attempt import Attempt, RetryingTrial, uses_all_workers
from runner.execute.ray.cluster_and_reservations import Node, Reservation, ReservationPool, connect, disconnect, nodes
from runner.execute.ray.node_worker import NodeActor, Versions, software_versions, version_differences
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.trial.run_directory_and_events import RunDirectory, steps_of
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after cluster.py, which sets what Ray reads when it is imported
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SOFTWARE_SECONDS = 120.0
"""How long a node may take to report its software versions; its worker processes are started for that."""


class RayExecutor:
    """Places trials on nodes; see `Executor`.

    Worker processes are forked from a server on each node that has loaded the plugins, also for a trial with several
    workers. A fork takes milliseconds, where Ray Train would start and import anew. There is one way to place and to
    retry for any number of workers. Nothing of Ray Train is needed, since accelerate joins the workers by `RANK`,
    `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect to a cluster, or start Ray on this machine.

        Raises:
            RequirementError: No cluster answers, or a node has other software than this machine.
        """
        connect(address)
        self._pool = ReservationPool()
        self._actors: dict[str, Any] = {}
        self._is_remote = address is not None
        try:
            self._add_new_nodes()
        except RequirementError:
            disconnect()
            raise

    def check_placeable(self, compute: ComputeOptions) -> None:
        """Check that the cluster can hold a trial at some time; see `Executor.check_placeable`."""
        self._pool.request(compute, compute.workers)

    def start(self, spec: ExperimentSpec, folder: Path, compute: ComputeOptions) -> RetryingTrial | None:
        """Start a trial if its resources are free; see `Executor.start`."""
        first = self._start_attempt(spec, folder, compute)
        return RetryingTrial(spec, folder, compute, self._start_attempt, first, self.describe_wait) if first else None

    def describe_wait(self, compute: ComputeOptions) -> str:
        """Describe what a trial is waiting for; see `Executor.describe_wait`."""
        return self._pool.describe_wait(self._pool.request(compute, compute.workers))

    def close(self) -> None:
        """Disconnect from the cluster, which ends what still runs."""
        disconnect()

    def _start_attempt(self, spec: ExperimentSpec, folder: Path, compute: ComputeOptions) -> PlacedAttempt | None:
        steps = _unfinished_steps(spec, folder)
        is_distributed = compute.workers > 1 and any(uses_all_workers(spec, step) for step in steps)
        reservation = self._pool.reserve(self._pool.request(compute, compute.workers if is_distributed else 1))
        if reservation is None:
            return None
        try:
            self._add_new_nodes()
            if not self._actors.keys() >= set(reservation.nodes):  # a node went away again at once
                self._pool.release(reservation)
                return None
            attempt = Attempt(spec, folder, steps, compute, reservation, self._actors)
            return PlacedAttempt(attempt, self._pool, reservation)
        except BaseException:
            self._pool.release(reservation)
            raise

    def _add_new_nodes(self) -> None:
        """Start an actor on each new node, and compare its software with this machine's.

        A node that is gone before it has answered is left out; it is new again when it comes back.

        Raises:
            RequirementError: A node has other software, or does not answer.
        """
        working_folder = None if self._is_remote else str(Path.cwd())
        new = {node.id: node for node in nodes() if node.id not in self._actors}
        actors = {node_id: _start_actor(node, working_folder) for node_id, node in new.items()}
        if self._is_remote:
            versions = _software_of(actors, new)
            _check_software({new[node_id].name: theirs for node_id, theirs in versions.items()})
            actors = {node_id: actors[node_id] for node_id in versions}
        self._actors |= actors


@dataclass(frozen=True)
class PlacedAttempt:
    """An attempt with its reservation; see `runner.execute.ray.attempt.ReservedAttempt`."""

    attempt: Attempt
    pool: ReservationPool
    reservation: Reservation

    def outcome(self) -> Outcome | None:
        """The attempt's outcome; None while it runs.

        If a host loses its power or its network, no connection ends: Ray knows within a minute that the node is gone,
        but it waits five minutes or more for the tasks that run there.
        """
        outcome = self.attempt.outcome()
        if outcome is not None or not (gone := self.pool.gone(self.attempt.nodes())):
            return outcome
        return Outcome("failed", LostWorkerError(f"the node was lost: {', '.join(gone)}"))

    def release(self) -> None:
        """Release the resources; what still runs there is killed."""
        self.pool.release(self.reservation)


def _unfinished_steps(spec: ExperimentSpec, folder: Path) -> list[str]:
    run = RunDirectory(folder)
    return [step for step in steps_of(spec) if not run.is_finished(step)]


def _start_actor(node: Node, working_folder: str | None) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return NodeActor.options(scheduling_strategy=strategy).remote(working_folder)  # type: ignore[attr-defined]


def _software_of(actors: Mapping[str, Any], nodes_by_id: Mapping[str, Node]) -> dict[str, Versions]:
    """Ask nodes for their software versions, by id; nodes that are gone are left out.

    Raises:
        RequirementError: A node is there, but does not answer.
    """
    requests = {node_id: actor.software_versions.remote() for node_id, actor in actors.items()}
    versions: dict[str, Versions] = {}
    for node_id, request in requests.items():
        try:
            versions[node_id] = ray.get(request, timeout=SOFTWARE_SECONDS)
        except RayActorError:
            continue
        except GetTimeoutError as error:
            raise RequirementError(
                f"node {nodes_by_id[node_id].name} has not started a process within {SOFTWARE_SECONDS:g} seconds; see "
                "Ray's logs there, /tmp/ray/session_latest/logs, or take the node out of the cluster"
            ) from error
    return versions


def _check_software(theirs: Mapping[str, Versions]) -> None:
    """Compare the software versions of nodes, by name, with those of this machine.

    Raises:
        RequirementError: They differ; the message lists nodes and packages with both versions.
    """
    ours = software_versions()
    differences = {name: version_differences(ours, versions) for name, versions in theirs.items()}
    problems = [f"node {name}: {'; '.join(lines)}" for name, lines in differences.items() if lines]
    if problems:
        raise RequirementError(
            f"{' | '.join(problems)}. Trials on these nodes would give different results: install the same versions "
            "there and here"
        )
