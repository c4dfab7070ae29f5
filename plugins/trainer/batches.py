"""Which samples train when: validation split, epoch order, micro-batches, and the length of a training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MICRO_BATCH_POSITIONS = 8192
"""Positions, padding included, that a micro-batch of unspecified size may have: four samples of the paper's
prompt with images of a megapixel stay together on a GPU of 80 GB."""

CPU_POSITIONS = 1024
"""The same on a CPU, which is no faster with more, and needs the more memory."""


@dataclass(frozen=True)
class ValidationSplit:
    """Places of the samples that are trained on and of those kept aside."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


def num_validation(num_samples: int, share: float) -> int:
    """Count the samples to keep aside; one is always left to train on."""
    return min(round(num_samples * share), num_samples - 1)


def split_validation(groups: Sequence[str], share: float, seed: int) -> ValidationSplit:
    """Cut off a validation part without dividing a group.

    Groups are drawn in a random order, each that still fits into `num_validation` samples; where large groups
    alone are left, the part stays smaller than asked for.

    Args:
        groups: The key of each sample's group.
        share: Of all samples.
        seed: For the draw.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    drawn = list(members)
    random.Random(f"validation {seed}").shuffle(drawn)
    room = num_validation(len(groups), share)
    validation: list[int] = []
    for group in drawn:
        if len(validation) + len(members[group]) <= room:
            validation += members[group]
    kept = set(validation)
    return ValidationSplit(tuple(place for place in range(len(groups)) if place not in kept), tuple(sorted(validation)))


@dataclass(frozen=True)
class EpochSampler:
    """The samples of each optimizer step, from the seed and the step's number alone.

    Attributes:
        training: Places of the samples.
        epoch_size: How many of them an epoch takes: all, or, where the validation part could not be filled, a
            random choice of as many as would have been left.
        batch_size: Samples of a step; the last of an epoch has what is left.
        seed: For the order.
    """

    training: tuple[int, ...]
    epoch_size: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return steps_per_epoch(self.epoch_size, self.batch_size)

    def batches(self, first: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Yield the steps from `first` up to but not including `end`, and the samples of each.

        Steps are counted from 0 over all epochs.
        """
        order: list[int] = []
        for step in range(first, end):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or not order:
                order = self._epoch(epoch)
            start = position * self.batch_size
            yield step, order[start : start + self.batch_size]

    def steps_to(self, tokens: Sequence[int], budget: int) -> int:
        """Count the steps until samples with so many tokens have been trained on; the last step reaches the budget.

        Args:
            tokens: Of every sample, by its place; not all of those that are trained on are 0.
            budget: At least 1.
        """
        done, step = 0, 0
        while done < budget:
            # An epoch at a time, as each has an order of its own.
            for last, batch in self.batches(step, step + self.steps_per_epoch):
                done += sum(tokens[place] for place in batch)
                if done >= budget:
                    return last + 1
            step += self.steps_per_epoch
        return step

    def num_tokens(self, tokens: Sequence[int], num_steps: int) -> int:
        """Count the tokens that are trained on in so many steps; see `steps_to`."""
        return sum(tokens[place] for _, batch in self.batches(0, num_steps) for place in batch)

    def _epoch(self, epoch: int) -> list[int]:
        order = list(self.training)
        random.Random(f"epoch {epoch} {self.seed}").shuffle(order)
        return order[: self.epoch_size]


def steps_per_epoch(epoch_size: int, batch_size: int) -> int:
    """Count the optimizer steps of an epoch, the last of which may be smaller."""
    return math.ceil(epoch_size / batch_size)


def micro_batches(lengths: Sequence[int], size: int | None, limit: int, *, packed: bool) -> list[list[int]]:
    """Cut samples into batches of like length.

    Args:
        lengths: Of the samples, in positions.
        size: Samples of a batch; None for as many as stay within the limit, at least one.
        limit: Positions of a batch of unspecified size, padding included.
        packed: Whether they come to stand one after the other, and not padded to the longest.

    Returns:
        Places in `lengths`, each in one batch, shortest first.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda each: (lengths[each], each)):
        together = [lengths[each] for each in (*batches[-1], place)] if batches else []
        if batches and (len(together) <= size if size else num_positions(together, packed=packed) <= limit):
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def num_positions(lengths: Sequence[int], *, packed: bool) -> int:
    """Count the positions of a micro-batch, its padding included where it is not packed."""
    return sum(lengths) if packed else len(lengths) * max(lengths)
