"""Differences on subgroups of the test split: by entity label, and by number of image segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runner.compare.finished_runs import Run
from runner.compare.recompute_metrics import RunMetric
from runner.compare.resampling import Floats, MetricDraws, Resampling, bootstrap_weights, percentile_interval
from runner.compare.statistics import GroupPair

MAX_SEGMENTS = 4
"""Samples with this number of segments or more form one subgroup."""
NUM_RESAMPLES = 1_000
"""Bootstrap draws for the interval of a subgroup. There are many subgroups, and they are not tested."""
LABEL, SEGMENTS = "label", "segments"


@dataclass(frozen=True)
class Subgroup:
    """A subset of the test samples.

    Attributes:
        kind: `label`: samples whose reference has an entity with the label; `segments`: samples with a number of
            segments.
        value: The label or the number.
        members: 1 for each sample of the subgroup, else 0, in the order of the samples.
    """

    kind: str
    value: str
    members: Floats = field(repr=False)


@dataclass(frozen=True)
class SubgroupDifference:
    """The difference of a pair in one metric on a subgroup; without a p-value, because there are many subgroups."""

    subgroup: Subgroup
    metric: str
    pair: GroupPair
    value_a: float
    value_b: float
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        return {
            "by": self.subgroup.kind,
            "value": self.subgroup.value,
            "num_samples": int(self.subgroup.members.sum()),
            "metric": self.metric,
            "a": self.pair.a.value,
            "b": self.pair.b.value,
            "value_a": self.value_a,
            "value_b": self.value_b,
            "difference": self.value_a - self.value_b,
            "low": self.low,
            "high": self.high,
            **self.pair.details,
        }

    def as_row(self) -> dict[str, Any]:
        """Return the row of a data frame: `as_json` with the labels of the groups."""
        return {**self.as_json(), "a": self.pair.a.label, "b": self.pair.b.label}


def find_subgroups(runs: Sequence[Run]) -> list[Subgroup]:
    """Divide the samples by the references of all runs: a run that lacks a task has no references for it."""
    labels, segments = [], []
    for sample_id in runs[0].scores:
        references = [run.scores[sample_id].get("reference") or {} for run in runs]
        labels.append({label for reference in references for label, _ in reference.get("pairs") or ()})
        counts = [len(reference["mapping"]) for reference in references if reference.get("mapping") is not None]
        segments.append(_format_count(counts[0]) if counts else "")
    by_label = {label: [label in sample for sample in labels] for label in sorted(set().union(*labels))}
    by_segments = {count: [count == sample for sample in segments] for count in sorted(set(segments)) if count}
    return [
        Subgroup(kind, value, np.array(members, dtype=np.float64))
        for kind, subgroups in ((LABEL, by_label), (SEGMENTS, by_segments))
        for value, members in subgroups.items()
    ]


def _format_count(num_segments: int) -> str:
    return f"{MAX_SEGMENTS} or more" if num_segments >= MAX_SEGMENTS else str(num_segments)


def compare_subgroups(
    pairs: Sequence[GroupPair], metrics: Sequence[RunMetric], resampling: Resampling, runs: Sequence[Run]
) -> Iterator[SubgroupDifference]:
    """Compare each pair on each subgroup, with bootstrap intervals."""
    if not pairs:
        return
    num_samples, num_resamples = len(runs[0].scores), min(NUM_RESAMPLES, resampling.num_resamples)
    draws = np.vstack(list(bootstrap_weights(num_samples, num_resamples, resampling.seed, resampling.clusters)))
    for subgroup in find_subgroups(runs):
        # The first row is the subgroup itself, the others are its draws.
        weights = np.vstack([subgroup.members, draws * subgroup.members])
        cache: dict[tuple[int, int], MetricDraws] = {}
        for metric in metrics:
            run_values = {run: _reduce(metric, index, weights, cache) for run, index in metric.indices.items()}
            for pair in pairs:
                if metric.is_known_for([*pair.a.runs, *pair.b.runs]):
                    yield from _difference(subgroup, metric.name, pair, run_values, resampling.confidence)


def _reduce(metric: RunMetric, run: int, weights: Floats, cache: dict[tuple[int, int], MetricDraws]) -> Floats:
    """Compute a metric of a run on each row of weights; the cache holds all metrics of the same reduction."""
    key = (id(metric.reduction), run)
    if key not in cache:
        cache[key] = metric.reduction.reduce_draws(run, weights)
    return cache[key].get(metric.name, np.full(len(weights), np.nan))


def _difference(
    subgroup: Subgroup, metric: str, pair: GroupPair, run_values: Mapping[str, Floats], confidence: float
) -> Iterator[SubgroupDifference]:
    """Yield the difference on a subgroup with its interval; nothing if the metric is undefined there."""
    a, b = (np.mean([run_values[run.name] for run in group.runs], axis=0) for group in (pair.a, pair.b))
    if np.isfinite(a[0] - b[0]):
        low, high = percentile_interval(a[1:] - b[1:], confidence) or (None, None)
        yield SubgroupDifference(subgroup, metric, pair, float(a[0]), float(b[0]), low, high)
