"""What a training has come to so far beside its weights: figures of the samples kept aside, and samples left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.stages import Measure


@dataclass
class History:
    """What checkpoints keep, so that a training that is continued decides and counts as one that never stopped.

    Attributes:
        measure: What decides after which step the model was best.
        figures: Validation figures by name, then by the step that they were measured after, in the order of the steps;
            NaN where there was nothing to measure.
        num_skipped: Samples that were left out of their batches, each time counted.
    """

    measure: Measure
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    num_skipped: int = 0

    def state(self) -> dict[str, Any]:
        """What changes, as plain data."""
        return {"figures": self.figures, "num_skipped": self.num_skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.figures = {name: dict(values) for name, values in state["figures"].items()}
        self.num_skipped = state["num_skipped"]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note what was measured after a step."""
        for name, value in values.items():
            self.figures.setdefault(name, {})[step] = value

    def measured(self, step: int) -> set[str]:
        """The figures that were measured after a step."""
        return {name for name, values in self.figures.items() if step in values}

    def best(self) -> int | None:
        """The step of the best figure, the earliest of equals; None before there is one that is a number."""
        sign = 1 if self.measure.mode == "min" else -1
        numbers = {step: sign * value for step, value in self._deciding().items() if math.isfinite(value)}
        return min(numbers, key=lambda step: (numbers[step], step)) if numbers else None

    def since_best(self) -> int:
        """Count the times that the figure was measured after the best one."""
        best = self.best()
        return sum(step > (best or 0) for step in self._deciding())

    def _deciding(self) -> Mapping[int, float]:
        return self.figures.get(self.measure.metric, {})
