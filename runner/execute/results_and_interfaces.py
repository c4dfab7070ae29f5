"""The results of a launch, and the interfaces of an executor and of a display that follows a launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from runner.errors import RunnerError, StepError
from runner.resolved_plan import Plan, Trial
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.tracking.uploader import tracker_state
from runner.trial.run_directory_and_events import Event, RunDirectory
from runner.trial.run_trial import Outcome, Status

INTERRUPTED = 130
"""The exit status of a launch that the user stopped."""

Start = Literal["running", "resuming", "restarting"]
"""How a launch starts a trial: for the first time, from what an earlier launch has saved of it, or from its first step,
since an earlier launch has saved nothing of it."""

FROM_FIRST_STEP = "from its first step, as nothing of it was saved"


def describe_start(start: Start, trial: str) -> str:
    """Say that a trial, as it is described, starts, and whether work was lost."""
    return f"{start} {trial}" + (f" {FROM_FIRST_STEP}" if start == "restarting" else "")


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended, and where its files are.

    Attributes:
        trial: The trial.
        status: Finished, pruned, failed or interrupted.
        metrics: Its results by name.
        run_dir: Its run directory.
        tracker_run_id: The tracker's id of the run; None if the tracker never answered.
        link: Where a person can see the run.
        reused: Whether it had ended before this launch.
        objective: Its objective value, if the search has an objective.
        error: Why it failed.
        trace: The traceback, for `--debug`.
    """

    trial: Trial
    status: Status
    metrics: dict[str, float | None]
    run_dir: Path
    tracker_run_id: str | None
    link: str
    reused: bool = False
    objective: float | None = None
    error: RunnerError | None = None
    trace: str = field(default="", repr=False)

    def as_json(self) -> dict[str, Any]:
        """The trial as docs/interface.md's `launch --json` lists it."""
        return {
            "name": self.trial.name,
            "fingerprint": self.trial.plan.fingerprint,
            "status": self.status,
            "parameters": dict(self.trial.parameters),
            "group": self.trial.group,
            "seed": self.trial.seed,
            "objective": self.objective,
            "metrics": self.metrics,
            "run_dir": str(self.run_dir),
            "mlflow_run_id": self.tracker_run_id,
            **({"error": str(self.error)} if self.error else {}),
        }


@dataclass(frozen=True)
class LaunchResult:
    """How a launch ended.

    Attributes:
        plan: The plan that was launched.
        trials: The trials that were reached, in the order in which they ended.
        interrupted: Whether the user stopped the launch.
        sweep: The summary of the search; None without a sweep.
        tracker_run_id: The tracker's id of the sweep's run.
        link: Where a person can see the sweep.
        has_objective_values: False if the search has an objective, but no finished trial has a value of it.
    """

    plan: Plan = field(repr=False)
    trials: Sequence[TrialResult]
    interrupted: bool = False
    sweep: Mapping[str, Any] | None = None
    tracker_run_id: str | None = None
    link: str = ""
    has_objective_values: bool = True

    def as_json(self) -> dict[str, Any]:
        """The launch as docs/interface.md's `launch --json` holds it."""
        content: dict[str, Any] = {
            "experiment": self.plan.spec.name,
            "fingerprint": self.plan.fingerprint,
            "trials": [trial.as_json() for trial in self.trials],
        }
        if self.sweep is not None:
            content["sweep"] = {**self.sweep, "mlflow_run_id": self.tracker_run_id}
        return content

    @property
    def exit_status(self) -> int:
        """The highest exit status of its trials; at least that of an interruption if the launch was interrupted.

        A search that could compare nothing has failed.
        """
        statuses = [_exit_status(trial) for trial in self.trials]
        statuses += [] if self.has_objective_values else [StepError.exit_status]
        return max([*statuses, INTERRUPTED if self.interrupted else 0])


def make_result(
    trial: Trial, run: RunDirectory, outcome: Outcome, status: Status, objective: float | None
) -> TrialResult:
    """Create the result of a trial that has just ended; `add_tracker_run` adds the tracker's run later."""
    metrics = run.read_metrics() if status == "finished" else {}
    return TrialResult(
        trial, status, metrics, run.path, None, "", objective=objective, error=outcome.error, trace=outcome.trace
    )


def add_tracker_run(result: TrialResult) -> TrialResult:
    """Add the tracker's run id and link to a result."""
    state = tracker_state(result.run_dir)
    return replace(result, tracker_run_id=state.get("run_id"), link=str(state.get("link", "")))


def _exit_status(result: TrialResult) -> int:
    if result.status in {"finished", "pruned"}:
        return 0
    if result.status == "interrupted":
        return INTERRUPTED
    return result.error.exit_status if result.error else StepError.exit_status


class LaunchListener(Protocol):
    """Displays a launch. Some methods are called from another thread."""

    def trial_started(self, trial: Trial, folder: Path, start: Start) -> None:
        """A trial starts, or goes on after an earlier launch."""

    def trial_waiting(self, trial: Trial, reason: str) -> None:
        """A trial waits for resources; this is repeated, since the reason may change.

        Args:
            trial: The trial.
            reason: What it needs and, after a semicolon, what is free now.
        """

    def event(self, trial: str, event: Event) -> None:
        """A running trial wrote an event."""

    def trial_ended(self, result: TrialResult) -> None:
        """A trial has ended."""

    def search_updated(self, summary: Mapping[str, Any]) -> None:
        """The search has a new result; see `runner.sweep.trial_source.TrialSource.summary`."""

    def warn(self, message: str) -> None:
        """A problem occurred that does not stop the launch."""

    def stopping(self) -> None:
        """The user asked to stop, and the trials save their state."""


class ToldNeeds:
    """What trials are waiting for, as far as lines were printed: one line for all trials that need the same."""

    def __init__(self) -> None:
        """Start without any line."""
        self._told: set[str] = set()

    def is_new(self, reason: str) -> bool:
        """Return whether no earlier reason names the same need; see `LaunchListener.trial_waiting`."""
        needed = reason.partition(";")[0]
        is_new = needed not in self._told
        self._told.add(needed)
        return is_new


class RunningTrial(Protocol):
    """A trial that was started."""

    def outcome(self) -> Outcome | None:
        """The trial's outcome; None while it runs. A worker that died does not raise: the outcome is a failure."""

    def kill(self) -> None:
        """Kill the trial at once; what it has saved remains."""


class Executor(Protocol):
    """Runs trials in parallel. A request to stop reaches a trial through the stop file in its run directory."""

    def check_placeable(self, compute: ComputeOptions) -> None:
        """Check that a trial can be placed at some time.

        Raises:
            RequirementError: It never can; the message says what exists and what would fit.
        """

    def start(self, spec: ExperimentSpec, folder: Path, compute: ComputeOptions) -> RunningTrial | None:
        """Start the unfinished steps of a trial.

        Args:
            spec: The spec of the trial's plan.
            folder: Its run directory, which exists.
            compute: The resources that its workers need.

        Returns:
            The trial, or None if the resources are not free now.
        """

    def describe_wait(self, compute: ComputeOptions) -> str:
        """Describe what a trial is waiting for: "4 GPUs on one node; free now: 2 GPUs"."""

    def close(self) -> None:
        """Stop everything that was started."""
