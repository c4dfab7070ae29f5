"""Splits samples so that samples with a common image or text stay together, balanced by labels and segments."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

from runner.dataset.leaks import group_by_content
from runner.errors import DataError
from runner.records import Sample
from runner.stages import Ratios

Feature = Literal["segments", "labels"]
Stratum = tuple[str, str]

MIN_GAIN = 1e-9
"""The smallest improvement that justifies a move, so that rounding never moves a group back and forth."""


def sample_strata(sample: Sample, features: Sequence[Feature]) -> set[Stratum]:
    """List the strata of a sample: the sample itself, its number of segments, and each label of its entities."""
    strata = {("sample", "")}
    if "segments" in features:
        strata.add(("segments", str(len(sample.segments))))
    if "labels" in features:
        strata |= {("label", entity.label) for entity in sample.entities}
    return strata


def imbalance(
    groups: Sequence[Counter[Stratum]], assignment: Sequence[int], ratios: Sequence[float]
) -> dict[Stratum, list[float]]:
    """Compute the excess of each stratum in each split; a negative value means too few.

    Args:
        groups: The stratum counts of each group.
        assignment: The split of each group, as an index of `ratios`.
        ratios: The fraction of each split; they sum to one.
    """
    excess: dict[Stratum, list[float]] = {}
    for group, assigned_split in zip(groups, assignment, strict=True):
        for stratum, count in group.items():
            row = excess.setdefault(stratum, [0.0] * len(ratios))
            row[assigned_split] += count
            for split, ratio in enumerate(ratios):
                row[split] -= count * ratio
    return excess


def rebalance(groups: Sequence[Counter[Stratum]], assignment: Sequence[int], ratios: Sequence[float]) -> list[int]:
    """Move groups between splits as long as a move makes the splits more similar.

    The objective is the sum, over strata and splits, of the squared excess divided by the size of the stratum. Every
    move lowers it, so the result is never less balanced than the initial assignment.

    Args:
        groups: The stratum counts of each group.
        assignment: The initial split of each group, as an index of `ratios`.
        ratios: The fraction of each split; they sum to one.

    Returns:
        The final split of each group.
    """
    excess, totals = imbalance(groups, assignment, ratios), sum(groups, Counter[Stratum]())
    balanced = list(assignment)
    has_moved = True
    while has_moved:
        has_moved = False
        for index, group in enumerate(groups):
            source = balanced[index]
            costs = [_move_cost(group, excess, totals, source, split) for split in range(len(ratios))]
            target = min(range(len(ratios)), key=costs.__getitem__)
            if costs[target] < -MIN_GAIN:
                for stratum, count in group.items():
                    excess[stratum][source] -= count
                    excess[stratum][target] += count
                balanced[index], has_moved = target, True
    return balanced


def _move_cost(
    group: Counter[Stratum], excess: dict[Stratum, list[float]], totals: Counter[Stratum], source: int, target: int
) -> float:
    """Compute the change of the objective of `rebalance` when a group moves from `source` to `target`."""
    if source == target:
        return 0.0
    return sum(
        2 * count * (excess[stratum][target] - excess[stratum][source] + count) / totals[stratum]
        for stratum, count in group.items()
    )


def split_samples(
    samples: Sequence[Sample],
    ratios: Mapping[str, float],
    seed: int,
    *,
    keep_together: bool = True,
    max_hash_distance: int | None = None,
    stratify: Sequence[Feature] = (),
) -> dict[str, list[Sample]]:
    """Split samples at random by ratios.

    The result does not depend on the order of the samples: groups are ordered by a hash of the seed and their ids.
    A group goes to the split that contains its midpoint, so a split's size is off by at most half a group. With
    `stratify`, groups are then moved as long as that makes the splits more similar.

    Args:
        samples: Samples with unique ids.
        ratios: The fraction of each split; they are scaled to sum to one.
        seed: Seed of the random order.
        keep_together: Whether samples that share an image or a text go to the same split.
        max_hash_distance: As in `leak_keys`; used if `keep_together`.
        stratify: Features whose distribution should be the same in all splits.

    Raises:
        DataError: Two samples have the same id, a split is empty, or an image cannot be read.
    """
    duplicate_ids = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if duplicate_ids:
        raise DataError(
            f"{len(duplicate_ids)} id(s) occur more than once, for example {duplicate_ids[0]!r}. Ids must be unique"
        )
    groups = _group_samples(samples, max_hash_distance) if keep_together else [[sample] for sample in samples]
    groups.sort(key=lambda group: _sort_key(seed, min(sample.id for sample in group)))
    total = sum(ratios.values())
    fractions = [ratio / total for ratio in ratios.values()]
    assignment = _assign_by_midpoint([len(group) for group in groups], fractions)
    if stratify:
        counts = [
            Counter(stratum for sample in group for stratum in sample_strata(sample, stratify)) for group in groups
        ]
        assignment = rebalance(counts, assignment, fractions)
    splits: dict[str, list[Sample]] = {split: [] for split in ratios}
    for group, index in zip(groups, assignment, strict=True):
        splits[list(ratios)[index]] += group
    empty = [split for split, members in splits.items() if not members]
    if empty:
        raise DataError(f"too few samples ({len(samples)}) for the split {', '.join(empty)}. Change the ratios")
    return {split: sorted(members, key=lambda sample: _sort_key(seed, sample.id)) for split, members in splits.items()}


def split_by_ratios(
    options: Ratios, samples: Sequence[Sample], max_hash_distance: int | None
) -> dict[str, list[Sample]]:
    """Split samples by the options of a spec; see `split_samples`."""
    return split_samples(
        samples,
        options.ratios,
        options.seed,
        keep_together=options.group_by == "content",
        max_hash_distance=max_hash_distance,
        stratify=options.stratify,
    )


def _assign_by_midpoint(sizes: Sequence[int], fractions: Sequence[float]) -> list[int]:
    """Return the split index of each group: the split that contains its midpoint when groups stand in a row."""
    split_ends = [sum(fractions[: index + 1]) * sum(sizes) for index in range(len(fractions))]
    group_starts = accumulate(sizes, initial=0)
    midpoints = [start + size / 2 for start, size in zip(group_starts, sizes, strict=False)]
    return [
        next((split for split, end in enumerate(split_ends) if midpoint <= end), len(split_ends) - 1)
        for midpoint in midpoints
    ]


def _sort_key(seed: int, sample_id: str) -> str:
    return hashlib.sha256(f"{seed}:{sample_id}".encode()).hexdigest()


def _group_samples(samples: Sequence[Sample], max_hash_distance: int | None) -> list[list[Sample]]:
    """Group samples that share a text or an image, including those linked only through others."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample, group in zip(samples, group_by_content(samples, max_hash_distance), strict=True):
        groups[group].append(sample)
    return list(groups.values())
