"""Makes splits alike: each with its share of every number of segments and of every label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from runner.records import Sample

Feature = Literal["segments", "labels"]
Stratum = tuple[str, str]

LEAST_GAIN = 1e-9
"""Of a move, so that rounding never makes a group go back and forth."""


def strata(sample: Sample, features: Sequence[Feature]) -> set[Stratum]:
    """List what a sample counts for: itself, its number of segments, each label of its entities."""
    found = {("sample", "")}
    if "segments" in features:
        found.add(("segments", str(len(sample.segments))))
    if "labels" in features:
        found |= {("label", entity.label) for entity in sample.entities}
    return found


def imbalance(
    groups: Sequence[Counter[Stratum]], places: Sequence[int], shares: Sequence[float]
) -> dict[Stratum, list[float]]:
    """Count by how much each split has too many of each stratum; negative where it has too few.

    Args:
        groups: What each group counts for.
        places: The split of each, as an index of `shares`.
        shares: Of the splits, summing to one.
    """
    excess: dict[Stratum, list[float]] = {}
    for group, place in zip(groups, places, strict=True):
        for stratum, number in group.items():
            row = excess.setdefault(stratum, [0.0] * len(shares))
            row[place] += number
            for split, share in enumerate(shares):
                row[split] -= number * share
    return excess


def evened(groups: Sequence[Counter[Stratum]], places: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Move groups between splits as long as that makes splits more alike.

    What falls is the sum, over strata and splits, of the squared excess over the stratum's size. As it falls with
    every move, the result is never less even than the division it began with.

    Args:
        groups: What each group counts for.
        places: Where each is to begin with.
        shares: Of the splits, summing to one.

    Returns:
        Where each is in the end.
    """
    excess, totals = imbalance(groups, places, shares), sum(groups, Counter[Stratum]())
    settled = list(places)
    moved = True
    while moved:
        moved = False
        for index, group in enumerate(groups):
            here = settled[index]
            costs = [_cost(group, excess, totals, here, there) for there in range(len(shares))]
            there = min(range(len(shares)), key=costs.__getitem__)
            if costs[there] < -LEAST_GAIN:
                for stratum, number in group.items():
                    excess[stratum][here] -= number
                    excess[stratum][there] += number
                settled[index], moved = there, True
    return settled


def _cost(
    group: Counter[Stratum], excess: dict[Stratum, list[float]], totals: Counter[Stratum], here: int, there: int
) -> float:
    """By how much the sum grows when a group moves."""
    if here == there:
        return 0.0
    return sum(
        2 * number * (excess[stratum][there] - excess[stratum][here] + number) / totals[stratum]
        for stratum, number in group.items()
    )
