"""The validation losses of a training so far: which was best, and whether they still fall."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class ValidationLosses:
    """Losses by the step that they were measured after.

    Attributes:
        by_step: In nats, in the order of the steps.
    """

    by_step: dict[int, float] = field(default_factory=dict)

    def replace(self, by_step: Mapping[int, float]) -> None:
        """Take over the losses of a training that is continued."""
        self.by_step = dict(by_step)

    def best(self) -> int | None:
        """The step of the lowest loss, the earliest of equals; None before there is one that is a number."""
        numbers = {step: loss for step, loss in self.by_step.items() if math.isfinite(loss)}
        return min(numbers, key=lambda step: (numbers[step], step)) if numbers else None

    def since_best(self) -> int:
        """Count the evaluations after the best one."""
        best = self.best()
        return sum(step > (best or 0) for step in self.by_step)
