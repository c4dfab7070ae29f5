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

MEDIAN_WINDOW = 50
"""Number of recent steps over which the running median of a metric is taken."""

MIN_STEPS = 10
"""Number of steps from which on the running median is used."""

SPIKE_THRESHOLDS = {"train/loss": (3.0, 0.1), "train/grad_norm": (10.0, 0.0)}
"""For each metric the multiple of its running median, and the minimum distance above it, beyond which a value is a
spike. Losses of small batches differ by a factor of two, gradient norms by more. A loss near zero may be ten times its
median and still be near zero."""


class TrainingMonitor:
    """Checks the metrics of each step for unusual values."""

    def __init__(self, num_steps: int) -> None:
        """Take the number of optimizer steps of the whole training."""
        self._num_steps = num_steps
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=MEDIAN_WINDOW) for name in SPIKE_THRESHOLDS}
        self._active: set[str] = set()

    def warnings(self, num_done: int, metrics: Mapping[str, float]) -> list[str]:
        """Return the new warnings of a step.

        Args:
            num_done: Optimizer steps, this one included.
            metrics: The step's metrics by name; learning rates as `train/lr/<group>`. A skipped step has neither loss
                nor gradient norm nor learning rates.

        Returns:
            A message for each loss or norm far above its running median, and for each learning rate that is
            unexpectedly zero. A problem that lasts is reported once, when it begins.
        """
        messages = {**self._spikes(num_done, metrics), **self._zero_rates(num_done, metrics)}
        new = [message for name, message in messages.items() if name not in self._active]
        self._active = set(messages)
        return new

    def _spikes(self, num_done: int, metrics: Mapping[str, float]) -> dict[str, str]:
        messages = {}
        for name, (factor, min_distance) in SPIKE_THRESHOLDS.items():
            if name not in metrics:
                continue
            recent, value = self._recent[name], metrics[name]
            usual = median(recent) if len(recent) >= MIN_STEPS else value
            if value > max(factor * usual, usual + min_distance):
                messages[name] = (
                    f"step {num_done}: {name} is {value:.3g}, and its median of the last steps is {usual:.3g}"
                )
            recent.append(value)
        return messages

    def _zero_rates(self, num_done: int, metrics: Mapping[str, float]) -> dict[str, str]:
        if num_done in {1, self._num_steps}:  # a warm-up may begin and a schedule end there
            return {}
        return {
            name: f"step {num_done} of {self._num_steps}: the learning rate of {name.removeprefix('train/lr/')} is "
            "zero, so this group does not learn"
            for name, value in metrics.items()
            if name.startswith("train/lr/") and value == 0
        }


def peak_memory_metrics() -> dict[str, float]:
    """Return the peak memory of this process in GB (10^9 bytes).

    Returns:
        `train/memory_gb`: the tensors on the GPU, or the process if there is no GPU. `train/memory_reserved_gb`, only
        with a GPU: what torch has reserved on the GPU, that is the tensors and the unused parts between them.
    """
    if torch.cuda.is_available():
        return {
            "train/memory_gb": torch.cuda.max_memory_allocated() / 1e9,
            "train/memory_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        }
    return {"train/memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


@dataclass
class TrainingHistory:
    """Metrics and counts kept in checkpoints, so that a resumed training decides like an uninterrupted one.

    Attributes:
        selection_metric: The metric that selects the best step.
        metrics: Validation metrics by name and then by step, in the order of the steps; NaN if a metric could not be
            computed.
        num_skipped: Samples left out of their batches, counted each time.
    """

    selection_metric: SelectionMetric
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    num_skipped: int = 0

    def state(self) -> dict[str, Any]:
        """Return what changes during training, as plain data."""
        return {"figures": self.metrics, "num_skipped": self.num_skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.metrics = {name: dict(values) for name, values in state["figures"].items()}
        self.num_skipped = state["num_skipped"]

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics that were computed after a step."""
        for name, value in metrics.items():
            self.metrics.setdefault(name, {})[step] = value

    def measured_at(self, step: int) -> set[str]:
        """Return the names of the metrics that were computed after a step."""
        return {name for name, values in self.metrics.items() if step in values}

    def best_step(self) -> int | None:
        """Return the step with the best finite value, the earliest if several are equal; None if there is none."""
        sign = 1 if self.selection_metric.mode == "min" else -1
        finite = {step: sign * value for step, value in self._selection_values().items() if math.isfinite(value)}
        return min(finite, key=lambda step: (finite[step], step)) if finite else None

    def evaluations_since_best(self) -> int:
        """Count the evaluations after the best step."""
        best_step = self.best_step()
        return sum(step > (best_step or 0) for step in self._selection_values())

    def _selection_values(self) -> Mapping[int, float]:
        return self.metrics.get(self.selection_metric.metric, {})
