"""Metrics of every run on the test split and on its bootstrap resamples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.compare.resampling import Floats, MetricDraws, Reduction, Resampling, bootstrap, joined, reduction
from runner.compare.runs import Run
from runner.errors import DataError, SpecError
from runner.plan import implement
from runner.spec.check import section
from runner.stages.registry import nearest

SAME = 1e-6
"""Up to which a figure that is reduced again must be that of `metrics.json`."""
ROWS = 500
"""So many samples are reduced at once, each by itself."""


@dataclass(frozen=True)
class RunMetric:
    """One figure of all runs that have it.

    Attributes:
        name: The figure's.
        reduction: Of the metric that gives it.
        places: A run's name to its place in the reduction.
        values: A run's name to the figure, on all samples.
        draws: A run's name to the figure on each bootstrap draw; the same draws for all runs and figures.
        alone: A run's name to the figure of each sample by itself; NaN where it has no value.
    """

    name: str
    reduction: Reduction
    places: Mapping[str, int]
    values: Mapping[str, float]
    draws: Mapping[str, Floats]
    alone: Mapping[str, Floats]

    def mean(self, runs: Sequence[Run]) -> float:
        """The figure's mean over runs."""
        return float(np.mean([self.values[run.name] for run in runs]))

    def mean_draws(self, runs: Sequence[Run]) -> Floats:
        """The mean over runs on each draw."""
        return np.asarray(np.mean([self.draws[run.name] for run in runs], axis=0))

    def of_all(self, runs: Sequence[Run]) -> bool:
        """Whether every one of the runs has it."""
        return all(run.name in self.values for run in runs)

    def by_sample(self, runs: Sequence[Run]) -> Floats:
        """What the figure would be on each sample alone, the mean over runs; NaN where it has no value."""
        return np.asarray(np.mean([self.alone[run.name] for run in runs], axis=0))


def measure_runs(runs: Sequence[Run], mode: str, wanted: Sequence[str] | None, how: Resampling) -> list[RunMetric]:
    """Measure the runs by all metrics of their specs, and on bootstrap draws.

    Args:
        runs: Over the same samples.
        mode: How their answers were read.
        wanted: Names of figures; None: all.
        how: The draws.

    Raises:
        SpecError: Two runs have a metric with different options, or no run has a figure that is wanted.
        DataError: A figure is not what `metrics.json` says.
        PluginError: A metric is not installed.
    """
    types = dict.fromkeys(name for run in runs for name in run.sections)
    found = [each for name in types for each in _metric(name, runs, mode, wanted, how)]
    for name in wanted or ():
        known = [each.name for each in found]
        if name not in known:
            raise SpecError(f"--metric {name}: no run has such a figure{nearest(name, _names(runs, mode))}")
    return sorted(found, key=lambda each: wanted.index(each.name)) if wanted else found


def _names(runs: Sequence[Run], mode: str) -> list[str]:
    """The figures that runs have, less counts of answers and other ways of reading."""
    others = tuple(f"{each}/" for run in runs for each in run.modes if each)
    named = dict.fromkeys(name for run in runs for name, value in run.metrics.items() if value is not None)
    return [name for name in named if not name.startswith(("parse/", *others))]


def _metric(
    name: str, runs: Sequence[Run], mode: str, wanted: Sequence[str] | None, how: Resampling
) -> Iterator[RunMetric]:
    counted = {run.name: run.counts(name, mode) for run in runs if name in run.sections}
    counted = {run: counts for run, counts in counted.items() if any(each is not None for each in counts)}
    if not counted:
        return
    sections = [run.sections[name] for run in runs if name in run.sections]
    if any(each != sections[0] for each in sections):
        raise SpecError(f"metric {name}: these runs have it with different options; give them the same ones")
    metric = implement(section("metric", sections[0]))
    reducing = reduction(metric, list(counted.values()))
    number = len(next(iter(counted.values())))
    whole = {run: reducing.drawn(place, np.ones((1, number))) for place, run in enumerate(counted)}
    _refuse_changed([run for run in runs if run.name in counted], whole, mode)
    figures = dict.fromkeys(figure for each in whole.values() for figure in each)
    chosen = [figure for figure in figures if wanted is None or figure in wanted]
    if not chosen:
        return
    places = {run: place for place, run in enumerate(counted)}
    drawn = dict(zip(counted, bootstrap(reducing, range(len(counted)), number, how), strict=True))
    alone = {run: _alone(reducing, place, number) for run, place in places.items()}
    for figure in chosen:
        values = {run: float(each[figure][0]) for run, each in whole.items() if figure in each}
        values = {run: value for run, value in values.items() if np.isfinite(value)}
        if values:
            named = ({run: each[run][figure] for run in values} for each in (drawn, alone))
            yield RunMetric(figure, reducing, places, values, *named)


def _alone(reducing: Reduction, place: int, number: int) -> MetricDraws:
    """Reduce each sample of a run by itself, some hundred at once."""
    blocks = [np.eye(min(ROWS, number - start), number, start) for start in range(0, number, ROWS)]
    return joined([reducing.drawn(place, block) for block in blocks], [len(block) for block in blocks])


def _refuse_changed(runs: Sequence[Run], whole: Mapping[str, MetricDraws], mode: str) -> None:
    for run in runs:
        for name, value in whole[run.name].items():
            told = run.figure(name, mode)
            if told is not None and not abs(told - value[0]) <= SAME:
                raise DataError(
                    f"{run.name}: {name} is {told} in metrics.json, and {value[0]:.6f} by the metric that is "
                    f"installed here: it has changed since. `runner launch {run.folder / 'plan.json'}` scores anew"
                )
