"""One attempt at a trial on reserved resources, and retries after failures that the trial did not cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from runner.errors import LostWorkerError, OutOfMemoryError, RunnerError, StepError
from runner.execute.fork_executor import needed_keys, plugin_modules
from runner.execute.ray.cluster_and_reservations import Reservation
from runner.execute.ray.node_worker import LOOPBACK, WorkerTask, run_worker
from runner.execute.ray.placement import MEMORY
from runner.resolved_plan import plan_json, with_changed_options
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.trial.run_directory_and_events import EventLog, RunDirectory, steps_of
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after cluster.py, which sets what Ray reads when it is imported
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

TRAIN = "train"
"""The step that runs on all workers; the other steps run on one."""

GRACE_SECONDS = 10.0
"""How long the other workers of a trial may take to end after one has failed. A worker that only lost the connection to
another one does not know the cause."""


class Attempt:
    """The workers of a trial's steps: in the first phase all of them train, in the second one runs the other steps."""

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
        distributed = [step for step in steps if step == TRAIN and compute.workers > 1]
        single = [step for step in steps if step not in distributed]
        phases = ((distributed, compute.workers), (single, 1))
        self._phases = [(phase_steps, num_workers) for phase_steps, num_workers in phases if phase_steps]
        self._running: list[Any] = []
        self._rendezvous: Any = None
        self._failed_at = 0.0
        self._begin_phase()

    def outcome(self) -> Outcome | None:
        """The outcome of the attempt; None while it runs."""
        try:
            return self._poll()
        except RayError as error:
            return Outcome("failed", LostWorkerError(f"the worker or its node was lost: {_first_line(error)}"))

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
        self._running, self._failed_at = [], 0.0
        if not self._phases:
            return
        _, num_workers = self._phases[0]
        if num_workers > 1:
            nodes = self._reservation.nodes
            self._rendezvous = self._actors[nodes[0]].rendezvous_address.remote(is_only_node=len(set(nodes)) == 1)
        else:
            bundle, node = next(self._reservation.workers())
            self._running = [self._start_worker(bundle, node, {})]

    def _start_workers(self, address: str, port: int) -> None:
        _, num_workers = self._phases[0]
        # Each worker sees only its own GPUs, so that its local rank is 0.
        local = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        if address == LOOPBACK:
            local |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        group = {"WORLD_SIZE": str(num_workers), "MASTER_ADDR": address, "MASTER_PORT": str(port), **local}
        for rank, (bundle, node) in enumerate(self._reservation.workers()):
            self._running.append(self._start_worker(bundle, node, {**group, "RANK": str(rank)}))

    def _start_worker(self, bundle: int, node: str, group: Mapping[str, str]) -> Any:
        steps, _ = self._phases[0]
        resources = dict(self._reservation.request.per_worker)
        cores = resources.pop("CPU")
        options = {
            "num_cpus": cores,
            "num_gpus": resources.pop("GPU", 0),
            MEMORY: resources.pop(MEMORY, None),
            "resources": resources,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._reservation.group, placement_group_bundle_index=bundle
            ),
        }
        compute = self._compute.model_dump(mode="json")
        keys = needed_keys(self._spec, steps)
        task = WorkerTask(self._plan, str(self._folder), list(steps), self._modules, int(cores), compute, keys, group)
        return run_worker.options(**options).remote(self._actors[node], task)


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
        return Outcome("failed", LostWorkerError(f"the worker or its node was lost: {_first_line(error)}"))


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
    ) -> None:
        """Initialize the trial.

        Args:
            spec: The spec of the trial's plan.
            folder: Its run directory.
            compute: The spec's `compute` section.
            start_attempt: Starts another attempt.
            first: The first attempt, which has been started.
        """
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
            return None
        outcome = self._attempt.outcome()
        if outcome is None or not self._prepare_retry(outcome):
            return outcome
        self._release()
        return None

    def _release(self) -> None:
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.release()

    def _prepare_retry(self, outcome: Outcome) -> bool:
        """Return whether another attempt may succeed; if so, count the retry, and change the plan if necessary."""
        if not isinstance(outcome.error, LostWorkerError | OutOfMemoryError) or not self._retries_left:
            return False
        change = "from its last checkpoint"
        if isinstance(outcome.error, OutOfMemoryError):
            options = self._reduced_options()
            if not options:
                return False
            self._spec = with_changed_options(self._spec, {"trainer": options})
            change = f"with {', '.join(f'trainer.{name} {value}' for name, value in options.items())}"
        self._retries_left -= 1
        number = f"{self._compute.max_retries - self._retries_left} of {self._compute.max_retries}"
        EventLog(self._run.events).warning(f"{outcome.error}; the trial is retried {change} (retry {number})")
        return True

    def _reduced_options(self) -> Mapping[str, Any]:
        """Trainer options with which a training needs less memory; empty if none may or can be changed."""
        spec = self._spec
        if not self._compute.reduce_micro_batch_on_oom or TRAIN not in steps_of(spec) or self._run.is_finished(TRAIN):
            return {}
        assert spec.trainer is not None
        return spec.trainer.options.with_less_memory(self._compute.workers)
