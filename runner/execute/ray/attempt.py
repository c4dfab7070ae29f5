"""One attempt at a trial on reserved resources, and retries after failures that the trial did not cause."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from runner.errors import LostConnectionError, LostWorkerError, OutOfMemoryError, RunnerError, StepError
from runner.execute.fork_executor import needed_keys, plugin_modules
from runner.execute.ray.cluster_and_reservations import Reservation
from runner.execute.ray.node_worker import LOOPBACK, WorkerTask, run_worker
from runner.execute.ray.placement import MEMORY, WorkerPlace
from runner.execute.results_and_interfaces import FROM_FIRST_STEP
from runner.resolved_plan import plan_json, with_changed_options
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.trial.run_directory_and_events import EventLog, RunDirectory, steps_of
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after cluster.py, which sets what Ray reads when it is imported
from ray.exceptions import NodeDiedError, RayError, RayTaskError
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

TRAIN = "train"


def uses_all_workers(spec: ExperimentSpec, step: str) -> bool:
    """Whether a step runs on all workers of a trial; the other steps run on one."""
    return step == TRAIN or (step == "generate" and spec.generator_options.divides_prompts)


def phases(spec: ExperimentSpec, steps: Sequence[str], num_workers: int) -> list[tuple[list[str], int]]:
    """Group steps by the processes that run them.

    Each step of several workers is a phase of its own: the next step needs what all of them have written.

    Returns:
        The steps of each phase, and its number of workers.
    """
    grouped: list[tuple[list[str], int]] = []
    for step in steps:
        size = num_workers if uses_all_workers(spec, step) else 1
        if size == 1 and grouped and grouped[-1][1] == 1:
            grouped[-1][0].append(step)
        else:
            grouped.append(([step], size))
    return grouped


GRACE_SECONDS = 10.0
"""How long the other workers of a trial may take to end after one has failed. A worker that only lost the connection to
another one does not know the cause."""


WAIT_WARNING_SECONDS = 60.0
"""A retry that waits for resources longer than this time causes a warning."""


class Attempt:
    """The workers of a trial's steps, phase by phase; see `phases`."""

    def __init__(
        self,
        spec: ExperimentSpec,
        folder: Path,
        steps: Sequence[str],
        compute: ComputeOptions,
        reservation: Reservation,
        actors: Mapping[str, Any],
    ) -> None:
        """Start the first phase.

        Args:
            spec: The spec of the trial's plan.
            folder: Its run directory.
            steps: The unfinished steps.
            compute: The resources of each worker.
            reservation: The reserved resources.
            actors: The `NodeActor` of each of their nodes, by the node's id.
        """
        self._plan, self._folder, self._compute = plan_json(spec), folder, compute
        self._reservation, self._actors = reservation, actors
        self._modules, self._spec = plugin_modules(spec), spec
        self._phases = phases(spec, steps, compute.workers)
        self._running: list[Any] = []
        self._rendezvous: Any = None
        self._failed_at = 0.0
        self._begin_phase()

    def outcome(self) -> Outcome | None:
        """The outcome of the attempt; None while it runs."""
        try:
            return self._poll()
        except RayError as error:
            return Outcome("failed", lost_worker(error))

    def nodes(self) -> set[str]:
        """The ids of the nodes on which workers run now."""
        num_workers = self._phases[0][1] if self._phases else 0
        return {place.node for place in self._reservation.workers()[:num_workers]}

    def _poll(self) -> Outcome | None:
        if not self._phases:  # everything was done before a worker was lost
            return Outcome("finished")
        if not self._running:
            if ray.wait([self._rendezvous], timeout=0)[0]:
                self._start_workers(*ray.get(self._rendezvous))
            return None
        ended, running = ray.wait(self._running, num_returns=len(self._running), timeout=0)
        outcomes = [_outcome(task) for task in ended]
        unfinished = [outcome for outcome in outcomes if outcome.status != "finished"]
        if unfinished:
            self._failed_at = self._failed_at or time.monotonic()
            is_in_grace = running and time.monotonic() - self._failed_at < GRACE_SECONDS
            return None if is_in_grace else min(unfinished, key=failure_precedence)
        if running:
            return None
        self._phases.pop(0)
        self._begin_phase()
        return None if self._phases else Outcome("finished")

    def _begin_phase(self) -> None:
        """Start the worker of the next phase; if it has several, first ask for an address where they can meet."""
        self._running, self._failed_at, self._group_id = [], 0.0, uuid.uuid4().hex
        if not self._phases:
            return
        _, num_workers = self._phases[0]
        if num_workers > 1:
            nodes = self._reservation.nodes
            self._rendezvous = self._actors[nodes[0]].rendezvous_address.remote(is_only_node=len(set(nodes)) == 1)
        else:
            first = self._reservation.workers()[0]
            self._running = [self._start_worker(replace(first, local_world_size=1), {})]

    def _start_workers(self, address: str, port: int) -> None:
        _, num_workers = self._phases[0]
        group = {"WORLD_SIZE": str(num_workers), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
        if address == LOOPBACK:
            group |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        for place in self._reservation.workers():
            # Accelerate uses the GPU with the number LOCAL_RANK among those that the worker sees.
            ranks = {
                "RANK": str(place.rank),
                "LOCAL_RANK": str(place.local_rank),
                "LOCAL_WORLD_SIZE": str(place.local_world_size),
            }
            self._running.append(self._start_worker(place, group | ranks))

    def _start_worker(self, place: WorkerPlace, group: Mapping[str, str]) -> Any:
        steps, _ = self._phases[0]
        resources = dict(self._reservation.request.per_worker)
        cores = resources.pop("CPU")
        options = {
            "num_cpus": cores,
            "num_gpus": resources.pop("GPU", 0),
            MEMORY: resources.pop(MEMORY, None),
            "resources": resources,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._reservation.group, placement_group_bundle_index=place.bundle
            ),
        }
        compute = self._compute.model_dump(mode="json")
        keys = needed_keys(self._spec, steps)
        task = WorkerTask(
            plan=self._plan,
            folder=str(self._folder),
            steps=list(steps),
            modules=self._modules,
            cores=int(cores),
            compute=compute,
            keys=keys,
            group=group,
            group_id=self._group_id,
            local_rank=place.local_rank,
            local_world_size=place.local_world_size,
        )
        return run_worker.options(**options).remote(self._actors[place.node], task)


def _outcome(task: Any) -> Outcome:
    """The outcome of a Ray task that has ended."""
    try:
        return Outcome.from_json(ray.get(task))
    except RayOutOfMemoryError as error:
        return Outcome(
            "failed", OutOfMemoryError(f"Ray killed the worker because memory ran out: {_first_line(error)}")
        )
    except RayTaskError as error:
        return Outcome("failed", StepError(f"the worker failed: {str(error).strip().splitlines()[-1]}"), str(error))
    except RayError as error:
        return Outcome("failed", lost_worker(error))


def lost_worker(error: RayError) -> LostWorkerError:
    """Say that Ray lost a worker, and which node if Ray names one.

    Ray's own text about a lost node is a paragraph that advises commands of Ray.
    """
    node = re.search(r"\bNode IP: ([^\s,]+)", str(error)) if isinstance(error, NodeDiedError) else None
    if node is not None:
        return LostWorkerError(f"the node {node[1]}, on which a worker ran, was lost")
    return LostWorkerError(f"the worker or its node was lost: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def failure_precedence(outcome: Outcome) -> int:
    """Rank outcomes by how well they explain why a group of workers ended; the lowest is the most informative.

    A worker that lost the connection to another one fails with a consequence, not with the cause.
    """
    if outcome.status == "interrupted":
        return 0
    if isinstance(outcome.error, OutOfMemoryError):
        return 1
    if isinstance(outcome.error, LostConnectionError):
        return 5
    if isinstance(outcome.error, LostWorkerError):
        return 2
    return 4 if type(outcome.error) is StepError else 3


class ReservedAttempt(Protocol):
    """An attempt that holds its reserved resources."""

    def outcome(self) -> Outcome | None:
        """The attempt's outcome; None while it runs."""

    def release(self) -> None:
        """Release the resources; what still runs there is killed."""


StartAttempt = Callable[[ExperimentSpec, Path, ComputeOptions], ReservedAttempt | None]
"""Reserves resources for a trial and starts an attempt; returns None if the resources are not free now."""


class RetryingTrial:
    """A trial that was started, with its retries; see `RunningTrial`."""

    def __init__(
        self,
        spec: ExperimentSpec,
        folder: Path,
        compute: ComputeOptions,
        start_attempt: StartAttempt,
        first: ReservedAttempt,
        describe_wait: Callable[[ComputeOptions], str],
    ) -> None:
        """Initialize the trial.

        Args:
            spec: The spec of the trial's plan.
            folder: Its run directory.
            compute: The spec's `compute` section.
            start_attempt: Starts another attempt.
            first: The first attempt, which has been started.
            describe_wait: Describes what a trial is waiting for.
        """
        self._describe_wait = describe_wait
        self._waits_since: float | None = None
        self._spec, self._compute, self._start_attempt = spec, compute, start_attempt
        self._run = RunDirectory(folder)
        self._attempt: ReservedAttempt | None = first
        self._retries_left = compute.max_retries
        self._final: Outcome | None = None

    def outcome(self) -> Outcome | None:
        """The trial's outcome; None while it runs, or waits for resources for a retry."""
        if self._final is None:
            try:
                self._final = self._poll()
            except RunnerError as error:
                self._final = Outcome("failed", error)
            except Exception as error:  # an error of Ray itself; the other trials continue
                self._final = Outcome("failed", StepError(f"the cluster does not answer: {error}"))
            if self._final is not None:
                self._release()
        return self._final

    def kill(self) -> None:
        """Kill the trial at once; what it has saved remains."""
        self._final = self._final or Outcome("interrupted")
        self._release()

    def _poll(self) -> Outcome | None:
        if self._attempt is None:
            if self._run.stop_request.exists():
                return Outcome("interrupted")
            self._attempt = self._start_attempt(self._spec, self._run.path, self._compute)
            self._warn_of_wait()
            return None
        outcome = self._attempt.outcome()
        if outcome is None:
            return None
        if not self._prepare_retry(outcome):
            return self._explain_end(outcome)
        self._release()
        return None

    def _explain_end(self, outcome: Outcome) -> Outcome:
        """Add to a training that ran out of memory why it is not retried, and what would help."""
        if not isinstance(outcome.error, OutOfMemoryError) or not self._may_reduce_memory():
            return outcome
        options, trainer = self._reduced_options(), self._spec.trainer
        assert trainer is not None
        if options:
            advice = f"no retry is left (compute.max_retries: {self._compute.max_retries}); set {_describe(options)}"
        else:
            advice = (
                f"the trainer {trainer.type} has no option left that needs less memory; use more workers, "
                "GPUs with more memory, fewer pixels per image (model.max_pixels) or a smaller model"
            )
        return replace(outcome, error=OutOfMemoryError(f"{outcome.error}; {advice}"))

    def _warn_of_wait(self) -> None:
        """Warn once if a retry waits for resources for a while."""
        if self._attempt is not None:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = time.monotonic()
        elif time.monotonic() - self._waits_since > WAIT_WARNING_SECONDS:
            self._waits_since = math.inf
            EventLog(self._run.events).warning(f"the retry waits for {self._describe_wait(self._compute)}")

    def _release(self) -> None:
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.release()

    def _prepare_retry(self, outcome: Outcome) -> bool:
        """Return whether another attempt may succeed; if so, count the retry, and change the plan if necessary."""
        if not isinstance(outcome.error, LostWorkerError | OutOfMemoryError) or not self._retries_left:
            return False
        change = "from what it has saved" if self._run.has_saved_work() else FROM_FIRST_STEP
        if isinstance(outcome.error, OutOfMemoryError):
            options = self._reduced_options()
            if not options:
                return False
            self._spec = with_changed_options(self._spec, {"trainer": options})
            change = f"with {_describe(options)}"
        self._retries_left -= 1
        number = f"{self._compute.max_retries - self._retries_left} of {self._compute.max_retries}"
        EventLog(self._run.events).warning(f"{outcome.error}; the trial is retried {change} (retry {number})")
        return True

    def _may_reduce_memory(self) -> bool:
        spec = self._spec
        return self._compute.reduce_memory_on_oom and TRAIN in steps_of(spec) and not self._run.is_finished(TRAIN)

    def _reduced_options(self) -> Mapping[str, Any]:
        """Trainer options with which a training needs less memory; empty if none may or can be changed."""
        if not self._may_reduce_memory():
            return {}
        assert self._spec.trainer is not None
        return self._spec.trainer.options.with_less_memory(self._compute.workers)


def _describe(options: Mapping[str, Any]) -> str:
    """Describe changed options of the trainer, with the values as a spec has them."""
    return ", ".join(f"trainer.{name}: {str(value).lower()}" for name, value in options.items())
