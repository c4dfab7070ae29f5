"""Where the trials of a launch come from: the interface of a search, and a fixed list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runner.plan import Trial
from runner.trial.run_trial import Status


class TrialSource(Protocol):
    """Which trials to run, as results come in."""

    def ask(self) -> Trial | None:
        """Give the next trial to run, finished ones included (they are only reported).

        Returns:
            None where there is nothing now: wait for results, or for `done`.
        """

    def done(self) -> bool:
        """Whether nothing will be asked any more: the space is exhausted, a budget is spent, or too many failed."""

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> bool:
        """Take note of metrics while a trial runs; metrics that were told before may be told again.

        Returns:
            Whether the trial is to be stopped, as it is pruned.
        """

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], validation: Mapping[str, float]
    ) -> None:
        """Take note of a trial's end; telling the same again changes nothing.

        Args:
            trial: As it was asked.
            status: How it ended.
            metrics: Its results on the test split, which decide nothing.
            validation: The last value of each `validation/…` metric of its events, by that name.
        """

    def summary(self) -> Mapping[str, Any]:
        """What is known so far, for the table and JSON.

        Returns:
            `expected`: trials at most, None where that is not known; `objective`: `metric` and `mode`, None without;
            `best`: of the best group so far `group`, `value` (the mean over its seeds), `parameters` and `trials`, None
            before there is one; `dropped`: what of an earlier launch does not fit any more, in words, one by one;
            `refused`: what was drawn and not tried, as its values do not go together, likewise.
        """


class FixedTrials:
    """Trials that are known beforehand, each asked once."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        """Take the trials, in the order to run them."""
        self._waiting = list(trials)
        self._expected = len(trials)

    def ask(self) -> Trial | None:
        """Give the next one; see `TrialSource`."""
        return self._waiting.pop(0) if self._waiting else None

    def done(self) -> bool:
        """Whether all have been asked."""
        return not self._waiting

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> bool:
        """Prune nothing."""
        return False

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], validation: Mapping[str, float]
    ) -> None:
        """Learn nothing: what comes next is known."""

    def summary(self) -> Mapping[str, Any]:
        """The number of trials."""
        return {"expected": self._expected, "objective": None, "best": None, "dropped": [], "refused": []}
