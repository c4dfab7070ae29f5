"""Runs a trial in an actor; one of several workers trains in a Ray Train worker group first."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import Any

from runner.artifacts import steps_of, write_json
from runner.errors import RunnerError, StepError
from runner.execute.ray.cluster import (
    connect,
    disconnect,
    nodes,
    refuse_unplaceable,
    remote_options,
    worker_resources,
)
from runner.plan import read_plan
from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome, outcome_of_trial

import ray  # isort: skip - after cluster.py, which sets what Ray reads when it is imported
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

TRAIN = "train"
"""The step that several workers share."""

POLL_SECONDS = 0.1
"""How long Ctrl-C waits at the most: Python hears of it only between two calls of Ray."""


@ray.remote
class TrialActor:
    """A worker process that runs the steps of a trial."""

    def run(self, plan: str, folder: str, steps: Sequence[str]) -> dict[str, Any]:
        """Run steps; see `outcome_of_trial`. Plain data goes in and comes out."""
        return outcome_of_trial(plan, Path(folder), steps).as_json()


class InThread:
    """A trial that a thread waits for; see `Running`."""

    def __init__(self, run: Callable[[], Outcome]) -> None:
        """Begin."""
        self._told: Outcome | None = None
        self._thread = Thread(target=self._keep, args=(run,), daemon=True)
        self._thread.start()

    def _keep(self, run: Callable[[], Outcome]) -> None:
        try:
            self._told = run()
        except RunnerError as error:
            self._told = Outcome("failed", error)

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        return self._told

    def end(self) -> None:
        """It ends with the cluster."""


class RayExecutor:
    """Runs trials on this machine's own Ray, or on a cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Connect; see `connect`."""
        connect(address)

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """See `Executor.refuse_unplaceable`."""
        refuse_unplaceable(compute, worker_resources(compute, nodes()))

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> InThread:
        """Begin a trial; see `Executor.start`."""
        return InThread(lambda: self._run(plan, folder, compute))

    def waits_for(self, compute: ComputeOptions) -> str:
        """See `Executor.waits_for`."""
        return "the trials that run"

    def _run(self, plan: str, folder: Path, compute: ComputeOptions) -> Outcome:
        asked = worker_resources(compute, nodes())
        steps = steps_of(read_plan(plan))
        if compute.workers > 1 and TRAIN in steps:
            trained = _train_on_group(plan, folder, compute, asked)
            if trained.status != "finished":
                return trained
            steps = tuple(step for step in steps if step != TRAIN)
        return _run_in_actor(plan, folder, asked, steps)

    def close(self) -> None:
        """Leave the cluster."""
        disconnect()


def _run_in_actor(plan: str, folder: Path, asked: dict[str, float], steps: Sequence[str]) -> Outcome:
    actor = TrialActor.options(**remote_options(asked)).remote()  # type: ignore[attr-defined]
    running = actor.run.remote(plan, str(folder), list(steps))
    try:
        while not ray.wait([running], timeout=POLL_SECONDS)[0]:
            pass
        return Outcome.from_json(ray.get(running))
    except RayError as error:
        raise StepError(f"the trial's worker died: {str(error).strip().splitlines()[0]}") from error
    finally:
        ray.kill(actor)


def _train_on_group(plan: str, folder: Path, compute: ComputeOptions, asked: dict[str, float]) -> Outcome:
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    _outcomes(folder)  # workers of a launch that was killed may have told how they ended with it
    trainer = TorchTrainer(
        _train_as_worker,
        train_loop_config={"plan": plan, "folder": str(folder)},
        scaling_config=ScalingConfig(
            num_workers=compute.workers, use_gpu=bool(compute.gpus_per_worker), resources_per_worker=asked
        ),
        run_config=RunConfig(name="workers", storage_path=str(folder / ".ray_train")),
    )
    try:
        _fit(trainer)
    except (RayError, TrainingFailedError) as error:
        told = _outcomes(folder)
        first = str(error).strip().splitlines()[0]
        return told[0] if told else Outcome("failed", StepError(f"the worker group died: {first}"))
    told = _outcomes(folder)
    return told[0] if told else Outcome("finished")


def _fit(trainer: TorchTrainer) -> None:
    """Run a worker group from another thread.

    In the main one Ray Train takes Ctrl-C for itself and ends the group at once, where the workers are to save first.
    A launch that is to end at once does not wait for the thread.
    """
    ended: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    Thread(target=fit, daemon=True).start()
    while not wait([ended], timeout=POLL_SECONDS).done:
        pass
    ended.result()


def _train_as_worker(config: dict[str, str]) -> None:
    folder = Path(config["folder"])
    outcome = outcome_of_trial(config["plan"], folder, (TRAIN,))
    if outcome.status == "finished":
        return
    write_json(_outcome_file(folder, os.environ["RANK"]), outcome.as_json())
    # Raising ends the whole group: the others may be waiting for this worker. Who was asked to stop has saved.
    raise StepError(f"{outcome.status}: {outcome.error}")


def _outcome_file(folder: Path, rank: str) -> Path:
    return folder / f".outcome-{rank}.json"


def _outcomes(folder: Path) -> list[Outcome]:
    """Read and remove what workers said that did not finish.

    Those that were asked to stop come first: when they end, others may lose them in the middle of something.
    """
    told = []
    for file in sorted(folder.glob(".outcome-*.json")):
        told.append(Outcome.from_json(json.loads(file.read_text(encoding="utf-8"))))
        file.unlink()
    return sorted(told, key=lambda outcome: outcome.status != "interrupted")
