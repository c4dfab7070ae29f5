"""Compares runs: the function behind `runner compare`, and the record it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from runner.compare.groups import Group, find_baseline, group_runs, group_warnings
from runner.compare.mre import TASKS, mre_pairs
from runner.compare.resampling import Resampling, interval
from runner.compare.run_metrics import RunMetric, measure_runs
from runner.compare.runs import Run, parse_mode, select
from runner.compare.statistics import (
    Disagreement,
    Pair,
    PairedTest,
    SeedSummary,
    disagreements,
    over_seeds,
    paired_tests,
)
from runner.compare.subgroups import SubgroupDifference, subgroup_differences
from runner.errors import SpecError

MANY_GROUPS = 8
"""Of more groups, not each is compared with each: that takes minutes, and after the correction little would be left."""
DISAGREEMENTS = 20
"""So many samples of each pair are listed where nobody says how many."""


@dataclass(frozen=True)
class CompareOptions:
    """What is asked of the runs.

    Attributes:
        by: A path of the spec, `arm` or `experiment` that runs are grouped by; None: what differs in its seed alone
            is a group.
        baseline: The value of the group that all others are compared with; None: each is compared with each, up to
            `MANY_GROUPS` groups.
        metrics: Figures, in the order in which they are shown; None: all.
        parse: In which way answers are read; None: that of the runs, which must be one.
        finished: Leave runs out that are not finished, instead of refusing them.
        mre: Group by tasks, and compare what was trained on all with each alone and all but one.
        samples: How many samples to list on which a pair disagrees.
        resampling: Draws, their seed, and the confidence of intervals.
    """

    by: str | None = None
    baseline: str | None = None
    metrics: Sequence[str] | None = None
    parse: str | None = None
    finished: bool = False
    mre: bool = False
    samples: int = DISAGREEMENTS
    resampling: Resampling = field(default_factory=Resampling)


@dataclass(frozen=True)
class GroupMetric:
    """A figure of a group.

    Attributes:
        seeds: Mean, deviation and t-interval over its runs.
        sample_low: Lower end of the bootstrap interval over samples, of the mean over runs.
        sample_high: Its upper end.
    """

    seeds: SeedSummary
    sample_low: float | None
    sample_high: float | None

    def as_json(self) -> dict[str, Any]:
        """The figure as docs/compare.md lists it."""
        return {**vars(self.seeds), "sample_low": self.sample_low, "sample_high": self.sample_high}


@dataclass(frozen=True)
class Comparison:
    """What is known of the runs and of their differences.

    Attributes:
        question: What was asked.
        mode: How answers were read; empty where there is one way.
        num_samples: Of the test split.
        groups: The groups, in the order in which they stand.
        figures: For each of them, a figure's name to what it is.
        pairs: What was compared.
        tests: A figure of a pair each.
        parts: The same on parts of the samples, with intervals alone.
        disagreements: Samples on which pairs differ, the largest differences of each first.
        warnings: What makes the comparison less than it looks.
    """

    question: CompareOptions
    mode: str
    num_samples: int
    groups: Sequence[Group]
    figures: Sequence[Mapping[str, GroupMetric]]
    pairs: Sequence[Pair]
    tests: Sequence[PairedTest]
    parts: Sequence[SubgroupDifference]
    disagreements: Sequence[Disagreement]
    warnings: Sequence[str]

    @property
    def metrics(self) -> list[str]:
        """The figures that any group has."""
        return list(dict.fromkeys(name for figures in self.figures for name in figures))

    @property
    def runs(self) -> list[Run]:
        """All runs, group after group."""
        return [run for group in self.groups for run in group.runs]

    def as_json(self) -> dict[str, Any]:
        """The comparison as `runner compare --json` prints it; see docs/compare.md."""
        how = self.question.resampling
        return {
            "groups": [
                {
                    "value": group.value,
                    "num_runs": len(group.runs),
                    "runs": [run.name for run in group.runs],
                    "seeds": [run.seed for run in group.runs],
                    "metrics": {name: figure.as_json() for name, figure in figures.items()},
                }
                for group, figures in zip(self.groups, self.figures, strict=True)
            ],
            "tests": [test.as_json() for test in self.tests],
            "parts": [part.as_json() for part in self.parts],
            "disagreements": [each.as_json() for each in self.disagreements],
            "by": TASKS if self.question.mre else self.question.by,
            "baseline": self.question.baseline,
            "parse": self.mode,
            "num_samples": self.num_samples,
            "data": self.runs[0].data,
            "resamples": how.num_resamples,
            "seed": how.seed,
            "confidence": how.confidence,
            "warnings": list(self.warnings),
        }


def compare(names: Sequence[str], storage: Path, question: CompareOptions | None = None) -> Comparison:
    """Compare finished runs on the test samples that they share.

    Args:
        names: Experiments and trials: by name, by its beginning, or by folder.
        storage: The folder of all runs.
        question: How to group and what to compare; none: what differs in its seed alone is a group, and each is
            compared with each by all figures.

    Raises:
        SpecError: Nothing is found, something is not finished, test samples or ways of reading differ, or the question
            names what there is not.
        DataError: A file of a run is missing, broken, or says other figures than its metrics give.
        PluginError: A metric of the runs is not installed.
    """
    question = question or CompareOptions()
    chosen = select(names, storage, finished=question.finished)
    mode = parse_mode(chosen.runs, question.parse)
    groups, pairs = _pairs(chosen.runs, question)
    how = question.resampling
    measured = measure_runs(chosen.runs, mode, question.metrics, how)
    return Comparison(
        question=question,
        mode=mode,
        num_samples=len(chosen.runs[0].rows),
        groups=groups,
        figures=[dict(_figures(group, measured, how)) for group in groups],
        pairs=pairs,
        tests=paired_tests(pairs, measured, how),
        parts=list(subgroup_differences(pairs, measured, how, chosen.runs)),
        disagreements=[each for pair in pairs for each in disagreements(pair, measured, question.samples)],
        warnings=[
            *chosen.warnings,
            *_untested(groups, pairs),
            *group_warnings(groups, TASKS if question.mre else question.by),
        ],
    )


def _pairs(runs: Sequence[Run], question: CompareOptions) -> tuple[Sequence[Group], Sequence[Pair]]:
    if question.mre:
        if question.by or question.baseline:
            raise SpecError("--mre groups by adapter.tasks and compares with all tasks; leave --by and --baseline out")
        return mre_pairs(runs)
    groups = group_runs(runs, question.by)
    if question.baseline is None:
        if len(groups) > MANY_GROUPS:
            return groups, []
        return groups, [Pair(one, other) for one, other in combinations(groups, 2)]
    baseline = find_baseline(groups, question.baseline)
    return groups, [Pair(group, baseline) for group in groups if group is not baseline]


def _untested(groups: Sequence[Group], pairs: Sequence[Pair]) -> list[str]:
    if len(groups) < 2 or pairs:
        return []
    return [f"nothing is compared: {len(groups)} groups are too many to set each beside each; name one by --baseline"]


def _figures(group: Group, measured: Sequence[RunMetric], how: Resampling) -> Iterator[tuple[str, GroupMetric]]:
    for figure in measured:
        if figure.of_all(group.runs):
            seeds = over_seeds([figure.values[run.name] for run in group.runs], how.confidence)
            low, high = interval(figure.mean_draws(group.runs), how.confidence) or (None, None)
            yield figure.name, GroupMetric(seeds, low, high)
