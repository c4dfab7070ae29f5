"""The source of a launch's trials: the interface of a search, its client, and a fixed list of trials."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runner.resolved_plan import Trial
from runner.spec.experiment_spec import VALIDATION_PREFIX
from runner.trial.run_directory_and_events import Event
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
            validation: The last value of each `validation/…` metric in its events, by that name. The objective is NaN
                if its last value was not finite, or if the training diverged.
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


def validation_metrics_of(event: Event) -> dict[str, float]:
    """The validation metrics of an event, which a search may use; empty for other events."""
    if event["kind"] != "metrics" or event["step"] is None:
        return {}
    values: Mapping[str, Any] = event["values"]
    return {name: value for name, value in values.items() if name.startswith(VALIDATION_PREFIX) and value is not None}


class SearchClient:
    """Thread-safe access to the source of trials; see `runner.sweep.trial_source.TrialSource`."""

    def __init__(self, source: TrialSource, objective: str | None) -> None:
        """Set the source of trials and the name of the objective's metric, if there is one."""
        self._source, self._objective = source, objective
        self._lock = threading.Lock()

    def ask(self) -> Trial | None:
        """Ask for the next trial to run."""
        with self._lock:
            return self._source.ask()

    def done(self) -> bool:
        """Whether no further trial will be proposed."""
        with self._lock:
            return self._source.done()

    def summary(self) -> Mapping[str, Any]:
        """Summarize the search so far."""
        with self._lock:
            return self._source.summary()

    def report(self, trial: Trial, event: Event, last_values: dict[str, float]) -> bool:
        """Report an event's validation metrics to the search, and add them to `last_values`.

        Returns:
            Whether the trial is to be stopped, since the search prunes it.
        """
        values = validation_metrics_of(event)
        last_values |= values
        if event["kind"] == "metrics" and self._objective and event["values"].get(self._objective, 0) is None:
            self.record_divergence(last_values)
        if not values:
            return False
        with self._lock:
            return self._source.report(trial, event["step"], values)

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], last_values: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Tell the search how a trial ended, and return the summary after that."""
        with self._lock:
            self._source.tell(trial, status, metrics, last_values)
            return self._source.summary()

    def objective_value(self, status: Status, last_values: Mapping[str, float]) -> float | None:
        """The objective's value of a trial that has ended; None unless the trial is finished and the value finite."""
        value = last_values.get(self._objective) if self._objective and status == "finished" else None
        return value if value is not None and math.isfinite(value) else None

    def record_divergence(self, last_values: dict[str, float]) -> None:
        """Replace the objective's last value by NaN, because the training has diverged."""
        if self._objective:
            last_values[self._objective] = math.nan
