"""The executor that runs trials in this process, one after another."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from runner.errors import RequirementError, RunnerError
from runner.execute.fork_executor import plugin_modules
from runner.preflight.resources import check_torch_gpus
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.trial.run_trial import Outcome, outcome_of_trial


class LocalTrial:
    """A trial in this process, which runs to its end when its outcome is requested; see `RunningTrial`."""

    def __init__(self, spec: ExperimentSpec, folder: Path, num_gpus: int = 0) -> None:
        """Set the spec of the plan, the run directory, and the number of GPUs that the spec requests."""
        self._spec, self._folder, self._num_gpus = spec, folder, num_gpus
        self._outcome: Outcome | None = None

    def outcome(self) -> Outcome:
        """Run the trial, unless it has run, and return its outcome.

        Raises:
            KeyboardInterrupt: The user stopped it at once.
        """
        if self._outcome is None:
            self._outcome = Outcome("interrupted")
            self._outcome = self._run()
        return self._outcome

    def _run(self) -> Outcome:
        if self._num_gpus:
            for module in plugin_modules(self._spec):
                with suppress(Exception):  # the trial reports a module that cannot be imported
                    import_module(module)
            try:
                check_torch_gpus(sys.modules.get("torch"), self._num_gpus, os.environ)
            except RunnerError as error:
                return Outcome("failed", error)
        return outcome_of_trial(self._spec, self._folder)

    @property
    def is_done(self) -> bool:
        """Whether the trial has run."""
        return self._outcome is not None

    def kill(self) -> None:
        """Do nothing: a trial of this process no longer runs when this is called."""


class LocalExecutor:
    """Runs trials in this process, one after another; see `Executor`."""

    def __init__(self) -> None:
        """Initialize the executor without a trial."""
        self._running: LocalTrial | None = None

    def check_placeable(self, compute: ComputeOptions) -> None:
        """See `Executor.check_placeable`.

        Raises:
            RequirementError: The spec asks for several workers, which need several processes.
        """
        if compute.workers > 1:
            raise RequirementError(
                f"compute.workers is {compute.workers}, but --local runs in one process: "
                "omit --local, or add --set compute.workers=1"
            )

    def start(self, spec: ExperimentSpec, folder: Path, compute: ComputeOptions) -> LocalTrial | None:
        """Accept a trial unless another one is still to run; see `Executor.start`."""
        if self._running is not None and not self._running.is_done:
            return None
        self._running = LocalTrial(spec, folder, math.ceil(compute.gpus_per_worker))
        return self._running

    def describe_wait(self, compute: ComputeOptions) -> str:
        """A trial waits for the one that is running; see `Executor.describe_wait`."""
        return "the trial that is running in this process"

    def close(self) -> None:
        """Do nothing: no process was started."""
