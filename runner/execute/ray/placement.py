"""Which places a trial needs on the nodes of a cluster: whether there ever are, and are now, and how to say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.errors import RequirementError
from runner.spec.experiment_spec import ComputeOptions

Resources = Mapping[str, float]
"""Amounts by Ray's names: `CPU`, `GPU`, `accelerator_type:A100`."""

TYPE = "accelerator_type:"
TYPE_SHARE = 0.001
"""What a worker takes of its node's `accelerator_type`, which is 1 and only says what kind the GPUs are."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class Shape:
    """The places of a trial.

    Attributes:
        worker: What each worker takes.
        sizes: Workers of each bundle; a bundle lies on one node.
        apart: Whether bundles lie on nodes of their own.
    """

    worker: Resources
    sizes: tuple[int, ...]
    apart: bool

    def bundles(self) -> list[dict[str, float]]:
        """What each bundle takes."""
        return [self._taken_by(size) for size in self.sizes]

    def fits(self, free: Iterable[Resources]) -> bool:
        """Whether nodes with these free resources have room."""
        places = sorted((num_places(node, self.worker) for node in free), reverse=True)
        if not self.apart:
            return sum(places) >= sum(self.sizes)
        wanted = sorted(self.sizes, reverse=True)
        return len(places) >= len(wanted) and all(have >= want for have, want in zip(places, wanted, strict=False))

    def __str__(self) -> str:
        """What is waited for: `4 GPUs and 8 CPUs on one node`."""
        if not self.apart:
            return f"{_told(self._taken_by(sum(self.sizes)))} on any nodes"
        return " and ".join(
            f"{_told(self._taken_by(size))} on {f'each of {number} nodes' if number > 1 else 'one node'}"
            for size, number in Counter(self.sizes).items()
        )

    def _taken_by(self, workers: int) -> dict[str, float]:
        return {name: workers * amount for name, amount in self.worker.items()}


def worker_resources(compute: ComputeOptions, totals: Sequence[Resources]) -> dict[str, float]:
    """What each worker takes.

    Without `cpus_per_worker` a worker with GPUs gets its share of the cores beside them, and the workers of a trial
    without GPUs share all cores of a node; the nodes with the fewest count.
    """
    asked: dict[str, float] = {}
    if compute.gpus_per_worker:
        asked["GPU"] = compute.gpus_per_worker
    if compute.accelerator:
        asked[f"{TYPE}{compute.accelerator}"] = TYPE_SHARE
    suitable = [node for node in totals if node.get("CPU", 0) and num_places(node, asked)]
    cores = (_cores(node, compute) for node in suitable)
    return {"CPU": float(compute.cpus_per_worker or max(1, min(cores, default=1))), **asked}


def _cores(node: Resources, compute: ComputeOptions) -> int:
    share = compute.gpus_per_worker / node["GPU"] if compute.gpus_per_worker else 1 / compute.workers
    return int(node["CPU"] * share)


def shape(compute: ComputeOptions, totals: Sequence[Resources], workers: int) -> Shape:
    """Work out the places of a trial.

    Args:
        compute: What the spec asks for.
        totals: What each node has, free or not.
        workers: How many are to run: those of `compute`, or one where the training is over.

    Raises:
        UnmetError: The cluster can never hold it: with what it has, and what would fit.
    """
    worker = worker_resources(compute, totals)
    places = sorted((num_places(node, worker) for node in totals), reverse=True)
    if sum(places) < workers:
        raise RequirementError(_refusal(compute, worker, workers, totals, sum(places)))
    if compute.placement == "any" and workers > 1:
        return Shape(worker, (1,) * workers, apart=False)
    sizes, left = [], workers
    for most in places:
        if left:
            sizes.append(min(most, left))
            left -= sizes[-1]
    return Shape(worker, tuple(sizes), apart=True)


def num_places(node: Resources, worker: Resources) -> int:
    """How many such workers a node with these resources holds."""
    return min((int(node.get(name, 0) / amount + ROUNDING) for name, amount in worker.items()), default=1)


def shortage(wanted: Shape, free: Sequence[Resources]) -> str:
    """What a trial waits for, and what is free."""
    return f"{wanted}; free now: {described(free)}"


def described(nodes: Sequence[Resources]) -> str:
    """Nodes in words, like ones together: `2 × 4 GPUs, 8 CPUs, A100`."""
    told = Counter(_told(node, ", ") for node in nodes)
    return "; ".join(f"{number} × {each}" if number > 1 else each for each, number in told.items()) or "no node"


def _refusal(compute: ComputeOptions, worker: Resources, workers: int, totals: Sequence[Resources], places: int) -> str:
    asked = f"a worker of {_told(worker)} is asked for"
    if workers > 1:
        total = {name: workers * amount for name, amount in worker.items()}
        asked = f"{workers} workers of {_told(worker)} are asked for, {_told(total)} in all"
    if places:
        fitting = f"compute.workers: {places} would fit"
    else:
        lacking = [name for name, amount in worker.items() if not any(num_places(n, {name: amount}) for n in totals)]
        short = ", ".join(name.removeprefix(TYPE) for name in lacking) or "all of it at once"
        fitting = f"no node has enough {short}; take less of it for each worker"
    have = described(totals)
    return f"{asked}, and the cluster can hold {places or 'none'} of them. Its nodes have {have}; {fitting}"


def _told(resources: Resources, comma: str = " and ") -> str:
    parts = [
        f"{resources[name]:g} {name}{'s' if resources[name] != 1 else ''}"
        for name in ("GPU", "CPU")
        if name in resources
    ]
    types = [name.removeprefix(TYPE) for name in resources if name.startswith(TYPE)]
    if types and comma == " and ":
        return f"{comma.join(parts)} ({', '.join(types)})"
    return comma.join([*parts, *types])
