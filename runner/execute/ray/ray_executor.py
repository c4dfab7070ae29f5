"""Runs trials on Ray: on this machine, or on the nodes of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RequirementError
from runner.execute.ray.attempt import TRAIN, Attempt, RetryingTrial
from runner.execute.ray.cluster import Node, Reservation, ReservationPool, connect, disconnect, nodes
from runner.execute.ray.node import NodeActor, differences, software
from runner.execute.ray.placement import Shape, shape, shortage
from runner.plan import read_plan
from runner.spec.experiment_spec import ComputeOptions
from runner.trial.run_directory import RunDirectory, steps_of
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after cluster.py, which sets what Ray reads when it is imported
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SOFTWARE_SECONDS = 120.0
"""In which a node is to tell its software; its worker processes are started for it."""


class RayExecutor:
    """Places trials on nodes; see `Executor`.

    Worker processes are forked from a server on each node that has loaded the plugins, those of a trial with several
    workers too: that costs milliseconds where Ray Train starts and imports anew, leaves one way to place and to retry
    for any number of workers, and needs nothing of Ray Train's, as accelerate joins the workers by `RANK`,
    `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect.

        Raises:
            UnmetError: No cluster answers, or a node has other software than this machine.
        """
        connect(address)
        self._places = ReservationPool()
        self._actors: dict[str, Any] = {}
        self._is_elsewhere = address is not None
        try:
            self._meet_nodes()
        except RequirementError:
            disconnect()
            raise

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """Refuse at once what can never be placed; see `Executor.refuse_unplaceable`."""
        self._shape(compute, compute.workers)

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> RetryingTrial | None:
        """Begin a trial, or find no room for it now; see `Executor.start`."""
        first = self._attempt(plan, folder, compute)
        return RetryingTrial(plan, folder, compute, self._attempt, first) if first else None

    def waits_for(self, compute: ComputeOptions) -> str:
        """Say what a trial that found no room waits for; see `Executor.waits_for`."""
        return shortage(self._shape(compute, compute.workers), self._places.free())

    def close(self) -> None:
        """Leave the cluster, and with it what still runs."""
        disconnect()

    def _attempt(self, plan: str, folder: Path, compute: ComputeOptions) -> PlacedAttempt | None:
        together = compute.workers > 1 and TRAIN in _unfinished(plan, folder)
        held = self._places.reserve(self._shape(compute, compute.workers if together else 1))
        if held is None:
            return None
        try:
            self._meet_nodes()
            attempt = Attempt(plan, folder, _unfinished(plan, folder), compute, held, self._actors)
            return PlacedAttempt(attempt, self._places, held)
        except BaseException:
            self._places.release(held)
            raise

    def _shape(self, compute: ComputeOptions, workers: int) -> Shape:
        return shape(compute, [node.total for node in self._places.nodes()], workers)

    def _meet_nodes(self) -> None:
        """Put an actor onto each node that is new, and compare its software with this machine's."""
        new = [node for node in nodes() if node.id not in self._actors]
        actors = {node.id: _actor_on(node) for node in new}
        if self._is_elsewhere:
            _refuse_other_software({node.name: actors[node.id] for node in new})
        self._actors |= actors


@dataclass(frozen=True)
class PlacedAttempt:
    """An attempt, and how its places are given back; see `Holding`."""

    attempt: Attempt
    places: ReservationPool
    held: Reservation

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""
        return self.attempt.outcome()

    def release(self) -> None:
        """Give the places back; what still runs there is killed."""
        self.places.release(self.held)


def _unfinished(plan: str, folder: Path) -> list[str]:
    """The steps that are left of a trial."""
    run = RunDirectory(folder)
    return [step for step in steps_of(read_plan(plan)) if not run.finished(step)]


def _actor_on(node: Node) -> Any:
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return NodeActor.options(scheduling_strategy=place).remote()  # type: ignore[attr-defined]


def _refuse_other_software(actors: dict[str, Any]) -> None:
    """Compare nodes with this machine.

    Raises:
        UnmetError: By node and package, with both versions.
    """
    ours = software()
    asked = {name: actor.software.remote() for name, actor in actors.items()}
    found = {name: differences(ours, ray.get(each, timeout=SOFTWARE_SECONDS)) for name, each in asked.items()}
    told = [f"node {name}: {'; '.join(lines)}" for name, lines in found.items() if lines]
    if told:
        raise RequirementError(
            f"{' | '.join(told)}. Trials on it would compute something else: install there what is here, or here what "
            "is there"
        )
