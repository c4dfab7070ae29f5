"""What can run trials."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome


class Running(Protocol):
    """A trial that was started."""

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs. Never raises: a worker that died is an outcome that failed."""

    def end(self) -> None:
        """End it at once; what it saved stays."""


class Executor(Protocol):
    """Runs trials side by side; a request to stop reaches a trial by its run directory's stop file."""

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """Refuse what can never be placed.

        Raises:
            UnmetError: With what there is and what would fit.
        """

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> Running | None:
        """Begin the unfinished steps of a trial.

        Args:
            plan: The trial's plan as JSON.
            folder: Its run directory, which has been begun.
            compute: What the trial's workers need.

        Returns:
            The trial, or None where there is no room for it now.
        """

    def waits_for(self, compute: ComputeOptions) -> str:
        """What a trial that found no room waits for: "4 GPUs on one node; at most 2 are free on one"."""

    def close(self) -> None:
        """Let go of what was started."""


def make_executor(address: str | None, *, local: bool, smoke: bool) -> Executor:
    """Choose what runs the trials of a launch.

    Args:
        address: A Ray cluster; None for this machine.
        local: In this process.
        smoke: A smoke run, which has one worker without GPUs: on this machine Ray would have nothing to place, and its
            processes take longer to start than such a trial to run.

    Raises:
        UnmetError: No cluster answers, or a node has other software than this machine.
    """
    if local:
        from runner.execute.local import LocalExecutor

        return LocalExecutor()
    if smoke and not address:
        from runner.execute.forked import ForkedExecutor

        return ForkedExecutor()
    from runner.execute.ray.executor import RayExecutor

    return RayExecutor(address)
