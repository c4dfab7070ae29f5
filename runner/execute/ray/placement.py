"""Computes which resources a trial needs on a cluster's nodes, whether they exist or are free, and describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.errors import RequirementError
from runner.spec.experiment_spec import ComputeOptions

Resources = Mapping[str, float]
"""Amounts by Ray's names: `CPU`, `GPU`, `accelerator_type:A100`."""

TYPE = "accelerator_type:"
TYPE_AMOUNT = 0.001
"""What a worker takes of its node's `accelerator_type`. The node has 1 of it, which only says what its GPUs are."""
ROUNDING = 1e-6
MEMORY = "memory"
"""Ray's name for the main memory of a node or a worker, in bytes."""


@dataclass(frozen=True)
class PlacementRequest:
    """The resources of a trial, in bundles of which each lies on one node.

    Attributes:
        per_worker: What each worker takes.
        workers_per_bundle: The number of workers of each bundle.
        is_spread: Whether each bundle needs a node of its own.
    """

    per_worker: Resources
    workers_per_bundle: tuple[int, ...]
    is_spread: bool

    def bundles(self) -> list[dict[str, float]]:
        """The resources of each bundle."""
        return [self._resources_of(num_workers) for num_workers in self.workers_per_bundle]

    def fits(self, free: Iterable[Resources]) -> bool:
        """Whether nodes with these free resources can hold the request."""
        capacities = sorted((worker_capacity(node, self.per_worker) for node in free), reverse=True)
        if not self.is_spread:
            return sum(capacities) >= sum(self.workers_per_bundle)
        needed = sorted(self.workers_per_bundle, reverse=True)
        return len(capacities) >= len(needed) and all(
            capacity >= num_workers for capacity, num_workers in zip(capacities, needed, strict=False)
        )

    def __str__(self) -> str:
        """Describe the request: `4 GPUs and 8 CPUs on one node`."""
        if not self.is_spread:
            return f"{_describe(self._resources_of(sum(self.workers_per_bundle)))} on any nodes"
        return " and ".join(
            f"{_describe(self._resources_of(size))} on {f'each of {number} nodes' if number > 1 else 'one node'}"
            for size, number in Counter(self.workers_per_bundle).items()
        )

    def _resources_of(self, num_workers: int) -> dict[str, float]:
        return {name: num_workers * amount for name, amount in self.per_worker.items()}


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker runs, and its number among the workers of its trial.

    Attributes:
        rank: Its number among all workers.
        bundle: The bundle from which it takes its resources.
        node: The id of its node.
        local_rank: Its number among the workers on its node.
        local_world_size: How many workers its node has.
    """

    rank: int
    bundle: int
    node: str
    local_rank: int
    local_world_size: int


def worker_places(workers_per_bundle: Sequence[int], nodes: Sequence[str]) -> list[WorkerPlace]:
    """Number the workers so that those of a node follow each other, as torch's launcher does.

    Args:
        workers_per_bundle: The number of workers of each bundle.
        nodes: The id of each bundle's node. The workers of the first bundle's node come first.
    """
    bundles_by_node: dict[str, list[int]] = {}
    for bundle, (size, node) in enumerate(zip(workers_per_bundle, nodes, strict=True)):
        bundles_by_node.setdefault(node, []).extend([bundle] * size)
    places: list[WorkerPlace] = []
    for node, bundles in bundles_by_node.items():
        for local_rank, bundle in enumerate(bundles):
            places.append(WorkerPlace(len(places), bundle, node, local_rank, len(bundles)))
    return places


def sort_gpu_ids(gpu_ids: Iterable[str], visible: str | None) -> list[str]:
    """Sort GPUs in the order that they have on their node.

    Args:
        gpu_ids: Ray's ids: indices, or parts of `visible` if the node's Ray was started with it.
        visible: The variable `CUDA_VISIBLE_DEVICES` of the node's Ray; None if it is not set.
    """
    given = (visible or "").split(",")

    def position(gpu_id: str) -> tuple[int, str]:
        if gpu_id.isdecimal():
            return int(gpu_id), ""
        return given.index(gpu_id) if gpu_id in given else len(given), gpu_id

    return sorted(set(gpu_ids), key=position)


def worker_resources(compute: ComputeOptions, totals: Sequence[Resources]) -> dict[str, float]:
    """The resources of each worker.

    Without `cpus_per_worker`, a worker with GPUs gets the fraction of its node's cores that corresponds to its GPUs,
    and the workers of a trial without GPUs share all cores of a node. The suitable node with the fewest such cores
    counts.
    """
    accelerators: dict[str, float] = {}
    if compute.memory_bytes is not None:
        accelerators[MEMORY] = float(compute.memory_bytes)
    if compute.gpus_per_worker:
        accelerators["GPU"] = compute.gpus_per_worker
    if compute.accelerator:
        accelerators[f"{TYPE}{compute.accelerator}"] = TYPE_AMOUNT
    suitable = [node for node in totals if node.get("CPU", 0) and worker_capacity(node, accelerators)]
    cores = (_cores(node, compute) for node in suitable)
    return {"CPU": float(compute.cpus_per_worker or max(1, min(cores, default=1))), **accelerators}


def _cores(node: Resources, compute: ComputeOptions) -> int:
    fraction = compute.gpus_per_worker / node["GPU"] if compute.gpus_per_worker else 1 / compute.workers
    return int(node["CPU"] * fraction)


def plan_placement(compute: ComputeOptions, totals: Sequence[Resources], workers: int) -> PlacementRequest:
    """Compute the resources of a trial, on as few nodes as possible unless the spec allows any.

    Args:
        compute: The spec's `compute` section.
        totals: All resources of each node, free or not.
        workers: How many workers run: those of `compute`, or one when the training is finished.

    Raises:
        RequirementError: The cluster can never hold the trial; the message says what it has and what would fit.
    """
    per_worker = worker_resources(compute, totals)
    capacities = sorted((worker_capacity(node, per_worker) for node in totals), reverse=True)
    if sum(capacities) < workers:
        raise RequirementError(_refusal(compute, per_worker, workers, totals, sum(capacities)))
    if compute.placement == "any" and workers > 1:
        return PlacementRequest(per_worker, (1,) * workers, is_spread=False)
    sizes, num_left = [], workers
    for capacity in capacities:
        if num_left:
            sizes.append(min(capacity, num_left))
            num_left -= sizes[-1]
    return PlacementRequest(per_worker, tuple(sizes), is_spread=True)


def worker_capacity(node: Resources, per_worker: Resources) -> int:
    """How many such workers a node with these resources can hold."""
    return min((int(node.get(name, 0) / amount + ROUNDING) for name, amount in per_worker.items()), default=1)


def describe_shortage(request: PlacementRequest, free: Sequence[Resources]) -> str:
    """Describe what a trial is waiting for, and what is free."""
    return f"{request}; free now: {describe_nodes(free, memory=MEMORY in request.per_worker)}"


def describe_nodes(nodes: Sequence[Resources], *, memory: bool = False) -> str:
    """Describe nodes, with equal ones grouped: `2 × 4 GPUs, 8 CPUs, A100`.

    Args:
        nodes: The resources of each node.
        memory: Whether the main memory is stated.
    """
    shown = [node if memory else {name: node[name] for name in node if name != MEMORY} for node in nodes]
    counts = Counter(_describe(node, ", ") for node in shown)
    return "; ".join(f"{number} × {node}" if number > 1 else node for node, number in counts.items()) or "no node"


def _refusal(
    compute: ComputeOptions, per_worker: Resources, workers: int, totals: Sequence[Resources], capacity: int
) -> str:
    """The message for a trial that the cluster can never hold; `capacity` is how many of its workers it can hold."""
    if workers > 1:
        total = {name: workers * amount for name, amount in per_worker.items()}
        request = f"the trial needs {workers} workers of {_describe(per_worker)}, {_describe(total)} in total"
    else:
        request = f"the trial needs a worker of {_describe(per_worker)}"
    if capacity:
        remedy = f"compute.workers: {capacity} would fit"
    else:
        missing = [
            name
            for name, amount in per_worker.items()
            if not any(worker_capacity(node, {name: amount}) for node in totals)
        ]
        names = ", ".join(name.removeprefix(TYPE) for name in missing) or "all of it at once"
        remedy = f"no node has enough {names}; request less per worker"
    nodes = describe_nodes(totals, memory=MEMORY in per_worker)
    found = f"the cluster can hold {capacity or 'none'} of them. Its nodes: {nodes}"
    return f"{request}, but {found}; {remedy}"


def _describe(resources: Resources, separator: str = " and ") -> str:
    parts = [
        f"{resources[name]:g} {name}{'s' if resources[name] != 1 else ''}"
        for name in ("GPU", "CPU")
        if name in resources
    ]
    if MEMORY in resources:
        parts.append(f"{resources[MEMORY] / 1e9:.0f} GB of memory")
    types = [name.removeprefix(TYPE) for name in resources if name.startswith(TYPE)]
    if types and separator == " and ":
        return f"{separator.join(parts)} ({', '.join(types)})"
    return separator.join([*parts, *types])


NodeKind = tuple[str, frozenset[tuple[str, float]]]
"""The name of a node, and those of its resources that decide which workers it can hold."""


class NodeHistory:
    """The nodes that a launch has seen, so that a trial can wait for a node that is away.

    A node that returns has a new id. It is recognised by its name and resources; several nodes may have the same.
    """

    def __init__(self) -> None:
        """Initialize the history without nodes."""
        self._max_alive: Counter[NodeKind] = Counter()
        self._away: Counter[NodeKind] = Counter()
        self._away_since: dict[NodeKind, float] = {}

    def update(self, alive: Iterable[tuple[str, Resources]], now: float) -> None:
        """Compare the nodes that are alive with those that were alive before.

        Args:
            alive: Name and resources of each node that is alive.
            now: The time in seconds.
        """
        present = Counter(_kind(name, total) for name, total in alive)
        self._max_alive |= present
        self._away = self._max_alive - present
        self._away_since = {kind: self._away_since.get(kind, now) for kind in self._away}

    def away(self) -> list[Resources]:
        """The resources of the nodes that were alive before, but are not alive now."""
        return [dict(resources) for _, resources in self._away.elements()]

    def describe(self, now: float) -> str:
        """Describe the nodes that are away: `node-3 (10.0.0.3), away for 12 min`; empty if there are none."""
        parts = []
        for kind, number in self._away.items():
            count = f"{number} × " if number > 1 else ""
            parts.append(f"{count}{kind[0]}, away for {(now - self._away_since[kind]) / 60:.0f} min")
        return "; ".join(parts)


def _kind(name: str, total: Resources) -> NodeKind:
    return name, frozenset(item for item in total.items() if item[0] in {"CPU", "GPU"} or item[0].startswith(TYPE))
