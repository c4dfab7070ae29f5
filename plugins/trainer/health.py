"""Watches figures of a training for what is not as it should be, and says so once an episode."""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Mapping
from statistics import median

import torch

WINDOW = 50
"""Steps over which a figure's usual value is taken."""

KNOWN = 10
"""Steps after which a usual value is trusted."""

SPIKES = {"train/loss": (3.0, 0.1), "train/grad_norm": (10.0, 0.0)}
"""How many times its usual value a figure is a spike, and how far above it at the least. Losses of small batches differ
by a factor of two, norms of gradients by more; a loss near zero may be ten times its usual value and still be near
zero."""


class Health:
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
