"""Which samples train when: validation split, epoch order, micro-batches, and the length of a training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MICRO_BATCH_POSITIONS = 8192
"""Maximum positions, padding included, of a micro-batch if `micro_batch_size` is not set. Four samples of the paper's
prompt with images of a megapixel stay together on a GPU of 80 GB."""

CPU_POSITIONS = 1024
"""The same on a CPU, where more positions are no faster and need more memory."""


@dataclass(frozen=True)
class ValidationSplit:
    """Indices of the samples that are trained on, and of the validation samples."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


def num_validation(num_samples: int, ratio: float) -> int:
    """Count the validation samples; at least one sample is left for training."""
    return min(round(num_samples * ratio), num_samples - 1)


def split_validation(groups: Sequence[str], ratio: float, seed: int) -> ValidationSplit:
    """Split off a validation set without dividing a group.

    Groups are taken in a random order, each if it still fits into `num_validation` samples. If only large groups are
    left, the validation set is smaller than requested.

    Args:
        groups: The key of each sample's group.
        ratio: Ratio of validation samples to all samples.
        seed: Seed of the random order.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    shuffled = list(members)
    random.Random(f"validation {seed}").shuffle(shuffled)
    max_size = num_validation(len(groups), ratio)
    validation: list[int] = []
    for group in shuffled:
        if len(validation) + len(members[group]) <= max_size:
            validation += members[group]
    held_out = set(validation)
    training = tuple(index for index in range(len(groups)) if index not in held_out)
    return ValidationSplit(training, tuple(sorted(validation)))


@dataclass(frozen=True)
class EpochSampler:
    """Chooses the samples of each optimizer step from the seed and the step's number alone.

    Attributes:
        training: Indices of the samples.
        epoch_size: Samples of an epoch: all, or, if the validation split is smaller than requested, a random subset
            of the size that would have been left.
        batch_size: Samples of a step; the last step of an epoch has the remainder.
        seed: Seed of the order.
    """

    training: tuple[int, ...]
    epoch_size: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last one may have fewer samples."""
        return math.ceil(self.epoch_size / self.batch_size)

    def batches(self, first: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Yield each step from `first` to `end`, exclusive, with its sample indices.

        Steps are counted from 0 over all epochs.
        """
        order: list[int] = []
        for step in range(first, end):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or not order:
                order = self._epoch_order(epoch)
            start = position * self.batch_size
            yield step, order[start : start + self.batch_size]

    def epoch(self, step: int) -> int:
        """Return the epoch of a step; both are counted from 0."""
        return step // self.steps_per_epoch

    def steps_for_tokens(self, tokens: Sequence[int], budget: int) -> int:
        """Count the steps after which at least `budget` tokens have been trained on.

        Args:
            tokens: Trained tokens of each sample, by index; at least one training sample has some.
            budget: Tokens to train on, at least 1.
        """
        total, step = 0, 0
        while total < budget:
            # One epoch at a time, as each has its own order.
            for last, batch in self.batches(step, step + self.steps_per_epoch):
                total += sum(tokens[index] for index in batch)
                if total >= budget:
                    return last + 1
            step += self.steps_per_epoch
        return step

    def num_tokens(self, tokens: Sequence[int], num_steps: int) -> int:
        """Count the tokens trained on in the first `num_steps` steps; see `steps_for_tokens`."""
        return sum(tokens[index] for _, batch in self.batches(0, num_steps) for index in batch)

    def _epoch_order(self, epoch: int) -> list[int]:
        order = list(self.training)
        random.Random(f"epoch {epoch} {self.seed}").shuffle(order)
        return order[: self.epoch_size]


@dataclass(frozen=True)
class SequenceSampler:
    """Chooses the samples of each optimizer step of a training in parts, one after the other.

    Attributes:
        parts: The sampler of each part, and its number of steps.
        batch_size: Samples of a step.
    """

    parts: tuple[tuple[EpochSampler, int], ...]
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the samples of all parts."""
        return math.ceil(len({index for part, _ in self.parts for index in part.training}) / self.batch_size)

    def batches(self, first: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Yield each step from `first` to `end`, exclusive, with its sample indices; see `EpochSampler.batches`."""
        start = 0
        for part, num_steps in self.parts:
            stop = min(end - start, num_steps)
            yield from ((start + step, indices) for step, indices in part.batches(max(0, first - start), stop))
            start += num_steps

    def epoch(self, step: int) -> int:
        """Return the epoch, within its part, of a step; both are counted from 0."""
        for part, num_steps in self.parts:
            if step < num_steps:
                return part.epoch(step)
            step -= num_steps
        raise IndexError(step)

    def num_tokens(self, tokens: Sequence[int], num_steps: int) -> int:
        """Count the tokens trained on in the first `num_steps` steps."""
        return sum(tokens[index] for _, batch in self.batches(0, num_steps) for index in batch)


def group_by_length(lengths: Sequence[int], size: int | None, limit: int, *, packed: bool) -> list[list[int]]:
    """Split samples into micro-batches of similar length.

    Args:
        lengths: Lengths of the samples, in positions.
        size: Samples of a micro-batch; None for as many as stay within the limit, at least one.
        limit: Maximum positions of a micro-batch if `size` is None, padding included.
        packed: Whether samples are concatenated instead of padded to the longest.

    Returns:
        Indices into `lengths`, each in one micro-batch, shortest first.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        candidate = [lengths[member] for member in (*batches[-1], index)] if batches else []
        if batches and (len(candidate) <= size if size else num_positions(candidate, packed=packed) <= limit):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def num_positions(lengths: Sequence[int], *, packed: bool) -> int:
    """Count the positions of a micro-batch, including its padding unless it is packed."""
    return sum(lengths) if packed else len(lengths) * max(lengths)


def patches_per_token(module: Any) -> int:
    """Return the number of patches that the vision tower merges into one token."""
    config = module.config
    merge = getattr(config.vision_config, "spatial_merge_size", None)
    if merge is not None:
        return int(merge) ** 2
    return round(1 / getattr(config, "downsample_ratio", 1) ** 2)
