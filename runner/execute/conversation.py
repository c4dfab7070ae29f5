"""What a launch says to its search and hears from it, in the words of events and from more threads than one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from runner.events import Event
from runner.execute.watch import objectives
from runner.plan import Trial
from runner.steps.outcome import Status
from runner.sweep.proposals import Proposals


class Conversation:
    """Speaks with what proposes trials, one thread at a time; see `runner.sweep.proposals.Proposals`."""

    def __init__(self, proposals: Proposals, objective: str | None) -> None:
        """Take what proposes, and the metric that it goes by, if any."""
        self._proposals, self._objective = proposals, objective
        self._speaking = threading.Lock()

    def ask(self) -> Trial | None:
        """The next trial to run."""
        with self._speaking:
            return self._proposals.ask()

    def done(self) -> bool:
        """Whether nothing will be asked any more."""
        with self._speaking:
            return self._proposals.done()

    def summary(self) -> Mapping[str, Any]:
        """What is known so far."""
        with self._speaking:
            return self._proposals.summary()

    def hear(self, trial: Trial, event: Event, last: dict[str, float]) -> bool:
        """Pass on what the search goes by in an event, and note it in `last`; whether the trial is to be stopped."""
        values = objectives(event)
        last |= values
        if not values:
            return False
        with self._speaking:
            return self._proposals.report(trial, event["step"], values)

    def tell(
        self, trial: Trial, status: Status, metrics: Mapping[str, float | None], last: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Tell of a trial's end; what is known then."""
        with self._speaking:
            self._proposals.tell(trial, status, metrics, last)
            return self._proposals.summary()

    def value(self, status: Status, last: Mapping[str, float]) -> float | None:
        """The objective's value of a trial that has come to its end."""
        return last.get(self._objective) if self._objective and status == "finished" else None
