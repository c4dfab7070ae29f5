"""Differences on subgroups of the test split: by label, and by number of segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.compare.resampling import Floats, MetricDraws, Resampling, bootstrap_weights, interval
from runner.compare.run_metrics import RunMetric
from runner.compare.runs import Run
from runner.compare.statistics import Pair

MANY_SEGMENTS = 4
"""Samples with so many segments or more are taken together."""
RESAMPLES = 1_000
"""Draws for an interval of a part: there are many parts, and they are looked at, not tested."""
LABEL, SEGMENTS = "label", "segments"


@dataclass(frozen=True)
class Subgroup:
    """Some samples of the test split.

    Attributes:
        kind: `label`: samples whose reference names one; `segments`: samples with so many.
        value: The label, or the number.
        members: 1 for each sample that belongs to it, else 0, in order.
    """

    kind: str
    value: str
    members: Floats


@dataclass(frozen=True)
class SubgroupDifference:
    """What one figure says of a pair on a part of the samples; no p-value, as there are so many."""

    part: Subgroup
    metric: str
    pair: Pair
    value_a: float
    value_b: float
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, Any]:
        """The difference as docs/compare.md lists it."""
        return {
            "by": self.part.kind,
            "value": self.part.value,
            "num_samples": int(self.part.members.sum()),
            "metric": self.metric,
            "a": self.pair.a.value,
            "b": self.pair.b.value,
            "value_a": self.value_a,
            "value_b": self.value_b,
            "difference": self.value_a - self.value_b,
            "low": self.low,
            "high": self.high,
            **self.pair.told,
        }


def subgroups(runs: Sequence[Run]) -> list[Subgroup]:
    """Part the samples by what the references of any run hold, as one that was not asked for a task has none of it."""
    labels, segments = [], []
    for sample in runs[0].rows:
        references = [run.rows[sample].get("reference") or {} for run in runs]
        labels.append({label for each in references for label, _ in each.get("pairs") or ()})
        numbers = [len(each["mapping"]) for each in references if each.get("mapping") is not None]
        segments.append(_number(numbers[0]) if numbers else "")
    by_label = {label: [label in each for each in labels] for label in sorted(set().union(*labels))}
    by_number = {number: [number == each for each in segments] for number in sorted(set(segments)) if number}
    return [
        Subgroup(kind, value, np.array(members, dtype=np.float64))
        for kind, found in ((LABEL, by_label), (SEGMENTS, by_number))
        for value, members in found.items()
    ]


def _number(segments: int) -> str:
    return f"{MANY_SEGMENTS} or more" if segments >= MANY_SEGMENTS else str(segments)


def subgroup_differences(
    pairs: Sequence[Pair], measured: Sequence[RunMetric], how: Resampling, runs: Sequence[Run]
) -> Iterator[SubgroupDifference]:
    """Compare each pair on each part of the samples, with bootstrap intervals."""
    if not pairs:
        return
    draws = np.vstack(list(bootstrap_weights(len(runs[0].rows), min(RESAMPLES, how.num_resamples), how.seed)))
    for part in subgroups(runs):
        weights = np.vstack([part.members, draws * part.members])
        drawn: dict[tuple[int, int], MetricDraws] = {}
        for figure in measured:
            known = {name: _on(figure, place, weights, drawn) for name, place in figure.places.items()}
            for pair in pairs:
                if figure.of_all([*pair.a.runs, *pair.b.runs]):
                    yield from _difference(part, figure.name, pair, known, how)


def _on(figure: RunMetric, place: int, weights: Floats, drawn: dict[tuple[int, int], MetricDraws]) -> Floats:
    """A figure of a run on draws; all figures of its metric are reduced at once, and remembered."""
    key = (id(figure.reduction), place)
    if key not in drawn:
        drawn[key] = figure.reduction.drawn(place, weights)
    return drawn[key].get(figure.name, np.full(len(weights), np.nan))


def _difference(
    part: Subgroup, metric: str, pair: Pair, known: Mapping[str, Floats], how: Resampling
) -> Iterator[SubgroupDifference]:
    """The difference on the part as it is, which stands first, and on its draws; nothing where it has no value."""
    one, other = (np.mean([known[run.name] for run in group.runs], axis=0) for group in (pair.a, pair.b))
    if np.isfinite(one[0] - other[0]):
        low, high = interval(one[1:] - other[1:], how.confidence) or (None, None)
        yield SubgroupDifference(part, metric, pair, float(one[0]), float(other[0]), low, high)
