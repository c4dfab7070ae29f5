"""The source of a launch's trials: the interface of a search, and a fixed list of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runner.resolved_plan import Trial
from runner.trial.run_trial import Status


class TrialSource(Protocol):
    """Decides which trials to run while results come in."""

    def ask(self) -> Trial | None:
        """Return the next trial to run, including finished trials, which are only reported.

        Returns:
            None if no trial can start now: wait for results, unless `done` is true.
        """

    def done(self) -> bool:
        """Whether no trial will follow: the space is exhausted, a budget is spent, or too many trials failed."""

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> bool:
        """Record metrics of a running trial. The same metrics may be reported again.

        Returns:
            True if the trial must stop because it is pruned.
        """

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], validation: Mapping[str, float]
    ) -> None:
        """Record the end of a trial. Telling the same again changes nothing.

        Args:
            trial: The trial that `ask` returned.
            status: How it ended.
            metrics: Its results on the test split, which are never used for selection.
            validation: The last value of each `validation/…` metric in its events, by that name.
        """

    def summary(self) -> Mapping[str, Any]:
        """Summarize the search so far, for the table and for JSON.

        Returns:
            `expected`: the maximum number of trials, None if unknown. `objective`: `metric` and `mode`, None without
            one. `best`: of the best group so far `group`, `value` (the mean over its seeds), `parameters` and `trials`;
            None if there is none yet. `dropped`: messages about parts of an earlier launch that do not fit any more.
            `refused`: messages about drawn points that were not tried, because their values are not valid together.
        """


class FixedTrials:
    """A fixed list of trials; see `TrialSource`."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        """Take the trials, in the order to run them."""
        self._pending = list(trials)
        self._num_trials = len(trials)

    def ask(self) -> Trial | None:
        """Return the next trial of the list."""
        return self._pending.pop(0) if self._pending else None

    def done(self) -> bool:
        """Whether `ask` has returned all trials."""
        return not self._pending

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> bool:
        """Prune nothing."""
        return False

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], validation: Mapping[str, float]
    ) -> None:
        """Ignore the result, because the list of trials is fixed."""

    def summary(self) -> Mapping[str, Any]:
        """Return the number of trials."""
        return {"expected": self._num_trials, "objective": None, "best": None, "dropped": [], "refused": []}
