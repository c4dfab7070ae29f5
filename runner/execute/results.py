"""Results of trials and of a launch, and the interface of a display that follows a launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from runner.errors import RunnerError, StepError
from runner.plan import Plan, Trial
from runner.tracking.run_sync import tracker_state
from runner.trial.events import Event
from runner.trial.run_directory import RunDirectory
from runner.trial.run_trial import Outcome, Status

INTERRUPTED = 130
"""The exit status of a launch that the user stopped."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended and where it lies.

    Attributes:
        trial: The trial.
        status: Finished, pruned, failed or interrupted.
        metrics: Its results by name.
        run_dir: Its folder.
        tracker_run_id: The tracker's id of the run; None where it never answered.
        link: Where a person looks at it.
        reused: It had ended before this launch.
        objective: The value that the search goes by, where there is one.
        error: What went wrong.
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
    trace: str = ""

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
        plan: What was launched.
        trials: Those that were reached, in the order in which they began.
        interrupted: The user stopped it.
        sweep: What the search tells of itself; None where nothing is swept.
        tracker_run_id: The tracker's id of the sweep's run.
        link: Where a person looks at the sweep.
    """

    plan: Plan
    trials: Sequence[TrialResult]
    interrupted: bool = False
    sweep: Mapping[str, Any] | None = None
    tracker_run_id: str | None = None
    link: str = ""

    def as_json(self) -> dict[str, Any]:
        """The launch as docs/interface.md's `launch --json` holds it."""
        told: dict[str, Any] = {
            "experiment": self.plan.spec.name,
            "fingerprint": self.plan.fingerprint,
            "trials": [trial.as_json() for trial in self.trials],
        }
        if self.sweep is not None:
            told["sweep"] = {**self.sweep, "mlflow_run_id": self.tracker_run_id}
        return told

    @property
    def exit_status(self) -> int:
        """That of the gravest end of a trial, or of the launch."""
        statuses = [_exit_status(trial) for trial in self.trials]
        return max([*statuses, INTERRUPTED if self.interrupted else 0])


def result_of(
    trial: Trial, run: RunDirectory, outcome: Outcome, status: Status, objective: float | None
) -> TrialResult:
    """Make the result of a trial that has just ended; the tracker has not told of it yet."""
    metrics = run.read_metrics() if status == "finished" else {}
    return TrialResult(
        trial, status, metrics, run.path, None, "", objective=objective, error=outcome.error, trace=outcome.trace
    )


def with_tracker(result: TrialResult) -> TrialResult:
    """Add what the tracker told of the trial's run."""
    state = tracker_state(result.run_dir)
    # Launches of earlier versions kept the link in the record.
    link = state.get("link") or RunDirectory(result.run_dir).read_record().get("tracker_link", "")
    return replace(result, tracker_run_id=state.get("run_id"), link=str(link))


def _exit_status(result: TrialResult) -> int:
    if result.status in {"finished", "pruned"}:
        return 0
    if result.status == "interrupted":
        return INTERRUPTED
    return result.error.exit_status if result.error else StepError.exit_status


class LaunchListener(Protocol):
    """Shows a launch to a person; some calls come from a thread of their own."""

    def trial_started(self, trial: Trial, folder: Path, *, resumed: bool) -> None:
        """A trial begins, or goes on."""

    def trial_waits(self, trial: Trial, reason: str) -> None:
        """A trial found no room; told again and again, as the reason changes."""

    def event(self, trial: str, event: Event) -> None:
        """Something happened in a trial that runs."""

    def trial_ended(self, result: TrialResult) -> None:
        """A trial is at its end."""

    def searched(self, summary: Mapping[str, Any]) -> None:
        """The search took note of a result; see `runner.sweep.trial_source.TrialSource.summary`."""

    def warn(self, message: str) -> None:
        """Something went wrong that stops nothing."""

    def stopping(self) -> None:
        """The user asked to stop; the trials save their state."""
