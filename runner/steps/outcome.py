"""How a trial ended, as plain data that crosses from a worker to the driver."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import runner.errors
from runner.errors import Problem, RunnerError, SpecError, StepError
from runner.stages import StopRequestedError
from runner.steps.trial import run_trial

Status = Literal["finished", "failed", "interrupted", "pruned"]
"""`pruned`: a sweep asked for its end, as its figures had fallen behind; what it saved stays."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: Finished, failed, interrupted with its state saved, or likewise pruned.
        error: What went wrong, as the user is told it.
        trace: The traceback, for `--debug`.
    """

    status: Status
    error: RunnerError | None = None
    trace: str = ""

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        problems = self.error.problems if isinstance(self.error, SpecError) else ()
        return {
            "status": self.status,
            "kind": type(self.error).__name__,
            "message": str(self.error or ""),
            "problems": [{"message": each.message, "path": list(each.path)} for each in problems],
            "trace": self.trace,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Outcome:
        """Read what `as_json` wrote."""
        if told["status"] != "failed":
            return cls(told["status"])
        kind = getattr(runner.errors, told["kind"], StepError)
        error: RunnerError
        if kind is SpecError:
            error = SpecError([Problem(each["message"], tuple(each["path"])) for each in told["problems"]])
        else:
            error = kind(told["message"])
        return cls("failed", error, told["trace"])


def outcome_of_trial(plan: str, folder: Path, steps: Sequence[str] | None = None) -> Outcome:
    """Run a trial in this process; see `run_trial`. Its errors become part of the outcome."""
    try:
        run_trial(plan, folder, steps)
    except StopRequestedError:
        return Outcome("interrupted")
    except RunnerError as error:
        return Outcome("failed", error, traceback.format_exc())
    return Outcome("finished")
