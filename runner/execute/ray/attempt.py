"""One attempt at a trial on reserved resources, and its retries after failures that are not its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import LostWorkerError, OutOfMemoryError, StepError
from runner.execute.executor import plugin_modules
from runner.execute.ray.cluster import Reservation
from runner.execute.ray.node import Work, work_on
from runner.spec.experiment_spec import ComputeOptions
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after cluster.py, which sets what Ray reads when it is imported
from collections.abc import Callable
from typing import Protocol

from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from runner.errors import RunnerError
from runner.plan import plan_with, read_plan
from runner.trial.events import EventLog
from runner.trial.run_directory import RunDirectory, steps_of

TRAIN = "train"
"""The step that several workers share; one of them does the others."""

GRACE_SECONDS = 10.0
"""How long the other workers of a trial may take to end when one has; the one that lost another says the least."""


class Attempt:
    """Workers at the steps of a trial: first all at the training, then one at what comes after."""

    def __init__(
        self,
        plan: str,
        folder: Path,
        steps: Sequence[str],
        compute: ComputeOptions,
        held: Reservation,
        actors: Mapping[str, Any],
    ) -> None:
        """Begin.

        Args:
            plan: The trial's plan as JSON.
            folder: Its run directory.
            steps: What is unfinished.
            compute: What each worker was promised.
            held: The places.
            actors: The `NodeActor` of each node there, by its id.
        """
        self._plan, self._folder, self._compute = plan, folder, compute
        self._held, self._actors = held, actors
        self._modules = plugin_modules(plan)
        together = [step for step in steps if step == TRAIN and compute.workers > 1]
        alone = [step for step in steps if step not in together]
        self._phases = [(each, num) for each, num in ((together, compute.workers), (alone, 1)) if each]
        self._running: list[Any] = []
        self._meeting: Any = None
        self._failed_at = 0.0
        self._begin_phase()

    def outcome(self) -> Outcome | None:
        """How the attempt ended; None while it goes on."""
        try:
            return self._look()
        except RayError as error:
            return Outcome("failed", LostWorkerError(f"the worker or its node was lost: {_first_line(error)}"))

    def _look(self) -> Outcome | None:
        if not self._phases:  # all was done before a worker was lost
            return Outcome("finished")
        if not self._running:
            if ray.wait([self._meeting], timeout=0)[0]:
                self._start_workers(*ray.get(self._meeting))
            return None
        ended, going = ray.wait(self._running, num_returns=len(self._running), timeout=0)
        told = [_outcome(each) for each in ended]
        failed = [each for each in told if each.status != "finished"]
        if failed:
            self._failed_at = self._failed_at or time.monotonic()
            waits = going and time.monotonic() - self._failed_at < GRACE_SECONDS
            return None if waits else min(failed, key=precedence)
        if going:
            return None
        self._phases.pop(0)
        self._begin_phase()
        return None if self._phases else Outcome("finished")

    def _begin_phase(self) -> None:
        """Start the next phase's one worker, or ask where several are to meet."""
        self._running, self._failed_at = [], 0.0
        if not self._phases:
            return
        _, workers = self._phases[0]
        if workers > 1:
            self._meeting = self._actors[self._held.nodes[0]].meeting_point.remote()
        else:
            bundle, node = next(self._held.workers())
            self._running = [self._start_worker(bundle, node, {})]

    def _start_workers(self, address: str, port: int) -> None:
        _, workers = self._phases[0]
        # Each worker sees its own GPUs alone, so that for each the first one is its own.
        here = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        group = {"WORLD_SIZE": str(workers), "MASTER_ADDR": address, "MASTER_PORT": str(port), **here}
        for rank, (bundle, node) in enumerate(self._held.workers()):
            self._running.append(self._start_worker(bundle, node, {**group, "RANK": str(rank)}))

    def _start_worker(self, bundle: int, node: str, group: Mapping[str, str]) -> Any:
        steps, _ = self._phases[0]
        asked = dict(self._held.shape.worker)
        cores = asked.pop("CPU")
        place = PlacementGroupSchedulingStrategy(self._held.group, placement_group_bundle_index=bundle)
        options = {"num_cpus": cores, "num_gpus": asked.pop("GPU", 0), "resources": asked, "scheduling_strategy": place}
        compute = self._compute.model_dump(mode="json")
        work = Work(self._plan, str(self._folder), list(steps), self._modules, int(cores), compute, group)
        return work_on.options(**options).remote(self._actors[node], work)


def _outcome(ended: Any) -> Outcome:
    try:
        return Outcome.from_json(ray.get(ended))
    except RayOutOfMemoryError as error:
        return Outcome("failed", OutOfMemoryError(f"Ray ended the worker, as memory ran out: {_first_line(error)}"))
    except RayTaskError as error:
        return Outcome("failed", StepError(f"the worker failed: {str(error).strip().splitlines()[-1]}"), str(error))
    except RayError as error:
        return Outcome("failed", LostWorkerError(f"the worker or its node was lost: {_first_line(error)}"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def precedence(outcome: Outcome) -> int:
    """Which of several ends says why a group ended: a worker that loses another one fails for no reason of its own."""
    if outcome.status == "interrupted":
        return 0
    if isinstance(outcome.error, OutOfMemoryError):
        return 1
    if isinstance(outcome.error, LostWorkerError):
        return 2
    return 4 if type(outcome.error) is StepError else 3


class ReservedAttempt(Protocol):
    """An attempt that holds its places."""

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""

    def release(self) -> None:
        """Give the places back; what still runs there is killed."""


Place = Callable[[str, Path, ComputeOptions], ReservedAttempt | None]
"""Takes places for a trial and begins an attempt; None where there is no room now."""


class RetryingTrial:
    """A trial that was started; see `Running`."""

    def __init__(self, plan: str, folder: Path, compute: ComputeOptions, place: Place, first: ReservedAttempt) -> None:
        """Take the trial, how to place it again, and its first attempt."""
        self._plan, self._compute, self._place = plan, compute, place
        self._run = RunDirectory(folder)
        self._attempt: ReservedAttempt | None = first
        self._retries_left = compute.max_retries
        self._told: Outcome | None = None

    def outcome(self) -> Outcome | None:
        """How the trial ended; None while it runs or waits for room to be taken up again."""
        if self._told is None:
            try:
                self._told = self._look()
            except RunnerError as error:
                self._told = Outcome("failed", error)
            except Exception as error:  # Ray itself; the other trials go on
                self._told = Outcome("failed", StepError(f"the cluster does not answer: {error}"))
            if self._told is not None:
                self._let_go()
        return self._told

    def end(self) -> None:
        """End it at once; what it saved stays."""
        self._told = self._told or Outcome("interrupted")
        self._let_go()

    def _look(self) -> Outcome | None:
        if self._attempt is None:
            if self._run.stop_request.exists():
                return Outcome("interrupted")
            self._attempt = self._place(self._plan, self._run.path, self._compute)
            return None
        told = self._attempt.outcome()
        if told is None or not self._taken_up_again(told):
            return told
        self._let_go()
        return None

    def _let_go(self) -> None:
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.release()

    def _taken_up_again(self, told: Outcome) -> bool:
        """Whether an end is one that another attempt may not come to; changes the plan where it must be."""
        if not isinstance(told.error, LostWorkerError | OutOfMemoryError) or not self._retries_left:
            return False
        change = "from its last checkpoint"
        if isinstance(told.error, OutOfMemoryError):
            smaller = self._smaller()
            if not smaller:
                return False
            self._plan = plan_with(self._plan, {"trainer": smaller})
            change = f"with {', '.join(f'trainer.{name} {value}' for name, value in smaller.items())}"
        self._retries_left -= 1
        number = f"{self._compute.max_retries - self._retries_left} of {self._compute.max_retries}"
        EventLog(self._run.events).warning(f"{told.error}; the trial is taken up again {change} (retry {number})")
        return True

    def _smaller(self) -> Mapping[str, Any]:
        """What changes for a training that ran out of memory; nothing where nothing may or can."""
        spec = read_plan(self._plan)
        if not self._compute.reduce_micro_batch_on_oom or TRAIN not in steps_of(spec) or self._run.finished(TRAIN):
            return {}
        assert spec.trainer is not None
        return spec.trainer.options.with_less_memory(self._compute.workers)
