"""History of a training: validation metrics, skipped samples, and warnings about unusual values."""

from __future__ import annotations

import math
import resource
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from runner.stages import SelectionMetric

WINDOW = 50
"""Steps over which a figure's usual value is taken."""

KNOWN = 10
"""Steps after which a usual value is trusted."""

SPIKES = {"train/loss": (3.0, 0.1), "train/grad_norm": (10.0, 0.0)}
"""How many times its usual value a figure is a spike, and how far above it at the least. Losses of small batches differ
by a factor of two, norms of gradients by more; a loss near zero may be ten times its usual value and still be near
zero."""


class TrainingMonitor:
    """Follows the figures of each step."""

    def __init__(self, num_steps: int) -> None:
        """Take the number of steps of the whole training."""
        self._num_steps = num_steps
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in SPIKES}
        self._told: set[str] = set()

    def warnings(self, done: int, values: Mapping[str, float]) -> list[str]:
        """Judge the figures of a step.

        Args:
            done: Optimizer steps, this one included.
            values: The step's metrics, by name; rates as `train/lr/<group>`. A step that was passed over has neither
                loss nor norm nor rates.

        Returns:
            What is new and wrong: a loss or a norm far above its running median, a rate of zero where it should not
            be. What lasts is told when it begins.
        """
        found = {**self._spikes(done, values), **self._resting(done, values)}
        new = [message for name, message in found.items() if name not in self._told]
        self._told = set(found)
        return new

    def _spikes(self, done: int, values: Mapping[str, float]) -> dict[str, str]:
        found = {}
        for name, (times, least) in SPIKES.items():
            if name not in values:
                continue
            recent, value = self._recent[name], values[name]
            usual = median(recent) if len(recent) >= KNOWN else value
            if value > max(times * usual, usual + least):
                found[name] = f"step {done}: {name} is {value:.3g}, and its median of the last steps is {usual:.3g}"
            recent.append(value)
        return found

    def _resting(self, done: int, values: Mapping[str, float]) -> dict[str, str]:
        if done in {1, self._num_steps}:  # a warm-up may begin and a schedule end there
            return {}
        return {
            name: f"step {done} of {self._num_steps}: the learning rate of {name.removeprefix('train/lr/')} is zero, "
            "so nothing there learns"
            for name, value in values.items()
            if name.startswith("train/lr/") and value == 0
        }


def memory_gb() -> float:
    """The most memory that this process has had, in GB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@dataclass
class History:
    """What checkpoints keep, so that a training that is continued decides and counts as one that never stopped.

    Attributes:
        measure: What decides after which step the model was best.
        figures: Validation figures by name, then by the step that they were measured after, in the order of the steps;
            NaN where there was nothing to measure.
        num_skipped: Samples that were left out of their batches, each time counted.
    """

    measure: SelectionMetric
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
