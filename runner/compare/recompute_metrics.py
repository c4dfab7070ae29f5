"""Metrics of every run on the test split, on its bootstrap draws and on single samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.compare.finished_runs import Run
from runner.compare.resampling import (
    Floats,
    MetricDraws,
    Reduction,
    Resampling,
    bootstrap,
    choose_reduction,
    concatenate_draws,
)
from runner.errors import DataError, SpecError
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.stages.registry import suggestion

METRIC_TOLERANCE = 1e-6
"""Largest difference between a metric computed here and its value in `metrics.json`."""
SAMPLES_PER_BLOCK = 500
"""Number of single samples that are scored at once."""


@dataclass(frozen=True)
class RunMetric:
    """One metric of all runs that have it.

    Attributes:
        name: The name of the metric.
        reduction: The reduction of the plugin that computes it, and maybe other metrics.
        indices: Run name to the index of the run in the reduction.
        values: Run name to the metric on all samples.
        draws: Run name to the metric on each bootstrap draw; all runs and metrics share the draws.
        sample_values: Run name to the metric on each single sample; NaN where it is undefined.
    """

    name: str
    reduction: Reduction
    indices: Mapping[str, int]
    values: Mapping[str, float]
    draws: Mapping[str, Floats]
    sample_values: Mapping[str, Floats]

    def is_known_for(self, runs: Sequence[Run]) -> bool:
        """Return True if every one of the runs has the metric."""
        return all(run.name in self.values for run in runs)

    def mean(self, runs: Sequence[Run]) -> float:
        """Return the mean over runs of the metric on all samples."""
        return float(np.mean([self.values[run.name] for run in runs]))

    def mean_draws(self, runs: Sequence[Run]) -> Floats:
        """Return the mean over runs on each draw."""
        return np.asarray(np.mean([self.draws[run.name] for run in runs], axis=0))

    def stack_draws(self, runs: Sequence[Run]) -> Floats:
        """Return the draws of each run; shape (num_runs, num_draws)."""
        return np.stack([self.draws[run.name] for run in runs])

    def mean_sample_values(self, runs: Sequence[Run]) -> Floats:
        """Return the mean over runs on each single sample; NaN where it is undefined."""
        return np.asarray(np.mean([self.sample_values[run.name] for run in runs], axis=0))


def measure_runs(
    runs: Sequence[Run], mode: str, names: Sequence[str] | None, resampling: Resampling
) -> list[RunMetric]:
    """Compute all metrics of the runs' specs on all samples, on bootstrap draws and on single samples.

    Args:
        runs: Runs with the same test samples.
        mode: The parse mode of the answers.
        names: Names of the metrics to compute, in the order of the result; None: all.
        resampling: The options of the bootstrap.

    Raises:
        SpecError: Two runs have a metric with different options, or no run has one of the named metrics.
        DataError: A metric differs from its value in `metrics.json`.
        PluginError: A metric is not installed.
    """
    types = dict.fromkeys(metric_type for run in runs for metric_type in run.metric_sections)
    metrics = [metric for metric_type in types for metric in _measure(metric_type, runs, mode, names, resampling)]
    for name in names or ():
        if name not in [metric.name for metric in metrics]:
            raise SpecError(f"--metric {name}: no run has this metric{suggestion(name, _known_names(runs, mode))}")
    return sorted(metrics, key=lambda metric: names.index(metric.name)) if names else metrics


def _known_names(runs: Sequence[Run], mode: str) -> list[str]:
    """List the metrics of the runs, without parse counts and without metrics of other parse modes."""
    other_modes = tuple(f"{other}/" for run in runs for other in run.parse_modes if other)
    names = dict.fromkeys(name for run in runs for name, value in run.metrics.items() if value is not None)
    return [name for name in names if not name.startswith(("parse/", *other_modes))]


def _measure(
    metric_type: str, runs: Sequence[Run], mode: str, names: Sequence[str] | None, resampling: Resampling
) -> Iterator[RunMetric]:
    """Compute the metrics of one plugin for all runs that have it."""
    counts = {run.name: run.counts(metric_type, mode) for run in runs if metric_type in run.metric_sections}
    counts = {run: samples for run, samples in counts.items() if any(sample is not None for sample in samples)}
    if not counts:
        return
    sections = [run.metric_sections[metric_type] for run in runs if metric_type in run.metric_sections]
    if any(section != sections[0] for section in sections):
        raise SpecError(f"metric {metric_type}: its options differ between these runs; use the same options in all")
    reduction = choose_reduction(create_plugin(make_section("metric", sections[0])), list(counts.values()))
    num_samples = len(next(iter(counts.values())))
    indices = {run: index for index, run in enumerate(counts)}
    totals = {run: reduction.reduce_draws(index, np.ones((1, num_samples))) for run, index in indices.items()}
    _check_unchanged([run for run in runs if run.name in counts], totals, mode)
    all_names = dict.fromkeys(name for metrics in totals.values() for name in metrics)
    chosen = [name for name in all_names if names is None or name in names]
    if not chosen:
        return
    draws = dict(zip(counts, bootstrap(reduction, range(len(counts)), num_samples, resampling), strict=True))
    by_sample = {run: _reduce_single_samples(reduction, index, num_samples) for run, index in indices.items()}
    for name in chosen:
        values = {run: float(metrics[name][0]) for run, metrics in totals.items() if name in metrics}
        values = {run: value for run, value in values.items() if np.isfinite(value)}
        if values:
            yield RunMetric(
                name=name,
                reduction=reduction,
                indices=indices,
                values=values,
                draws={run: draws[run][name] for run in values},
                sample_values={run: by_sample[run][name] for run in values},
            )


def _reduce_single_samples(reduction: Reduction, run: int, num_samples: int) -> MetricDraws:
    """Compute the metrics of a run on each single sample, in blocks."""
    starts = range(0, num_samples, SAMPLES_PER_BLOCK)
    blocks = [np.eye(min(SAMPLES_PER_BLOCK, num_samples - start), num_samples, start) for start in starts]
    return concatenate_draws([reduction.reduce_draws(run, block) for block in blocks], [len(block) for block in blocks])


def _check_unchanged(runs: Sequence[Run], totals: Mapping[str, MetricDraws], mode: str) -> None:
    """Check that the installed metric gives the values of `metrics.json`."""
    for run in runs:
        for name, values in totals[run.name].items():
            recorded = run.metric_value(name, mode)
            if recorded is not None and not abs(recorded - values[0]) <= METRIC_TOLERANCE:
                raise DataError(
                    f"{run.name}: {name} is {recorded} in metrics.json, but {values[0]:.6f} by the installed metric: "
                    f"the metric has changed since. `runner launch {run.folder / 'plan.json'}` scores the run again"
                )
