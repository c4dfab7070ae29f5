"""Compares runs: the function behind `runner compare`, and the record it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from runner.compare.arms import SweepRuns, sweeps_of
from runner.compare.claims import ClaimResult, judge_claims
from runner.compare.clusters import Clusters, choose_clusters
from runner.compare.finished_runs import Run, choose_parse_mode, select_runs
from runner.compare.groups import Group, find_baseline, group_runs, group_warnings
from runner.compare.mutual_reinforcement import TASKS_PATH, mre_pairs
from runner.compare.published import PublishedTable, read_published
from runner.compare.recompute_metrics import RunMetric, measure_runs
from runner.compare.reinforcement_table import ReinforcementTable, criterion_pairs, judge_arms
from runner.compare.resampling import Resampling, percentile_interval
from runner.compare.statistics import (
    Disagreement,
    GroupPair,
    PairedTest,
    SeedSummary,
    find_disagreements,
    paired_tests,
    summarise_seeds,
)
from runner.compare.subgroups import SubgroupDifference, compare_subgroups
from runner.errors import SpecError

if TYPE_CHECKING:
    import pandas

MAX_PAIRWISE_GROUPS = 8
"""Largest number of groups that are all compared with one another. More pairs take minutes, and Holm's correction
leaves little of them."""
MAX_TESTS_LISTED = 5
"""Number of tests that a warning names."""
MAX_ROWS_SHOWN = 60
"""Number of rows that a notebook shows of a longer table."""
DEFAULT_NUM_DISAGREEMENTS = 20
"""Samples listed for each pair unless the user gives a number."""


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison.

    Attributes:
        by: The setting to group runs by: a dotted path of the spec, `arm` or `experiment`. None: runs that differ only
            in their seed form a group.
        baseline: The value of the group that all others are compared with. None: all pairs of groups are compared, up
            to `MAX_PAIRWISE_GROUPS` groups.
        metrics: Metric names, in the order of the tables; None: all.
        parse: The parse mode to compare; None: that of the runs, which must be the same for all.
        finished_only: Skip unfinished runs instead of raising an error.
        mre: Group by tasks, and compare runs on all tasks with those on each single task and on all but one.
        num_disagreements: Number of samples to list for each pair, those with the largest difference.
        resampling: Number of resamples, their seed, and the confidence level of the intervals.
        cluster: What the samples have in common that are resampled together: `image`, `text`, `content` or `none`.
            None: `content` if the runs have recorded any such groups.
        published: Published results to show beside the groups: installed names such as `gmner`, or YAML files.
    """

    by: str | None = None
    baseline: str | None = None
    metrics: Sequence[str] | None = None
    parse: str | None = None
    finished_only: bool = False
    mre: bool = False
    num_disagreements: int = DEFAULT_NUM_DISAGREEMENTS
    resampling: Resampling = field(default_factory=Resampling)
    cluster: str | None = None
    published: Sequence[str] = ()


@dataclass(frozen=True)
class GroupMetric:
    """One metric of one group.

    Attributes:
        seeds: Mean, standard deviation and t-interval over the group's runs.
        sample_low: Lower end of the bootstrap interval over samples, of the mean over runs.
        sample_high: Upper end of that interval.
    """

    seeds: SeedSummary
    sample_low: float | None
    sample_high: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        return {**vars(self.seeds), "sample_low": self.sample_low, "sample_high": self.sample_high}


class AsRow(Protocol):
    """A result that can be a row of a data frame."""

    def as_row(self) -> dict[str, Any]:
        """Return the values by column."""


R_co = TypeVar("R_co", bound=AsRow, covariant=True)


class ResultList(tuple[R_co, ...], Generic[R_co]):
    """Results of one kind, such as tests. A notebook shows them as a table."""

    def frame(self) -> pandas.DataFrame:
        """Return a data frame with a row for each result. The columns are described in docs/compare.md."""
        import pandas

        return pandas.DataFrame([result.as_row() for result in self])

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(max_rows=MAX_ROWS_SHOWN))


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        options: The options of the comparison.
        parse_mode: The parse mode of the answers; empty where the adapter has only one.
        num_samples: Number of samples in the test split.
        clusters: The test samples that are resampled together.
        groups: The groups, in the order of the tables.
        group_metrics: For each group, in the same order: metric name to its values.
        pairs: The pairs of groups that were compared.
        tests: One test for each pair and metric.
        subgroups: The same differences on subgroups of the samples, with intervals only.
        disagreements: Samples on which the groups of a pair differ; for each pair, the largest differences first.
        warnings: Reasons for caution, such as a small number of seeds.
        claims: The verdict on each registered claim of the experiments.
        reinforcement: With `mre`, the arms of each experiment that has a criterion.
        published: Published results beside the groups; nothing is tested against them.
    """

    options: CompareOptions
    parse_mode: str
    num_samples: int
    clusters: Clusters
    groups: Sequence[Group]
    group_metrics: Sequence[Mapping[str, GroupMetric]]
    pairs: Sequence[GroupPair]
    tests: ResultList[PairedTest]
    subgroups: ResultList[SubgroupDifference]
    disagreements: ResultList[Disagreement]
    warnings: Sequence[str]
    claims: ResultList[ClaimResult] = ResultList()  # noqa: RUF009
    reinforcement: Sequence[ReinforcementTable] = ()
    published: Sequence[PublishedTable] = ()

    def __repr__(self) -> str:
        """Return the sizes of the comparison; its parts would fill pages."""
        return (
            f"<Comparison of {len(self.runs)} runs in {len(self.groups)} groups on {self.num_samples} samples: "
            f"{len(self.tests)} tests>"
        )

    def frame(self) -> pandas.DataFrame:
        """Return a data frame with a row for each test, like `tests.frame()`."""
        return self.tests.frame()

    def _repr_html_(self) -> str:
        return self.tests._repr_html_()

    @property
    def metric_names(self) -> list[str]:
        """The metrics that at least one group has."""
        return list(dict.fromkeys(name for metrics in self.group_metrics for name in metrics))

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know: samples resampled together, warnings, then published results."""
        clusters = [] if self.clusters.are_single_samples else [str(self.clusters)]
        published = [
            f"published ({table.results.title}): {note}"
            for table in self.published
            for note in self.published_notes(table)
        ]
        return [*clusters, *self.warnings, *published]

    def published_notes(self, table: PublishedTable) -> list[str]:
        """Return what a reader must know before comparing the groups with published results."""
        return table.notes(self.num_samples, self.metric_names, self.options.metrics)

    @property
    def runs(self) -> list[Run]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    def as_json(self) -> dict[str, Any]:
        """Return the document that `runner compare --json` prints; see docs/compare.md."""
        resampling = self.options.resampling
        return {
            "groups": [
                {
                    "value": group.value,
                    "num_runs": len(group.runs),
                    "runs": [run.name for run in group.runs],
                    "seeds": [run.seed for run in group.runs],
                    "metrics": {name: metric.as_json() for name, metric in metrics.items()},
                }
                for group, metrics in zip(self.groups, self.group_metrics, strict=True)
            ],
            "tests": [test.as_json() for test in self.tests],
            "parts": [difference.as_json() for difference in self.subgroups],
            "disagreements": [disagreement.as_json() for disagreement in self.disagreements],
            "claims": [claim.as_json() for claim in self.claims],
            **({"reinforcement": [table.as_json() for table in self.reinforcement]} if self.options.mre else {}),
            **({"published": [table.as_json() for table in self.published]} if self.published else {}),
            "by": TASKS_PATH if self.options.mre else self.options.by,
            "baseline": self.options.baseline,
            "parse": self.parse_mode,
            "num_samples": self.num_samples,
            "cluster": self.clusters.as_json(),
            "data": self.runs[0].data_fingerprint,
            "resamples": resampling.num_resamples,
            "seed": resampling.seed,
            "confidence": resampling.confidence,
            "warnings": list(self.warnings),
        }


def compare(names: Sequence[str], storage: Path, options: CompareOptions | None = None) -> Comparison:
    """Compare finished runs on the test samples that they share.

    Args:
        names: Experiments and trials: by name, by the beginning of a name, or by folder.
        storage: The folder of all runs.
        options: How to group the runs and what to compare. None: runs that differ only in their seed form a group, and
            all pairs of groups are compared by all metrics.

    Raises:
        SpecError: No run is found, a run is not finished, test samples or parse modes differ, or the options name a
            setting, group, metric or published table that does not exist.
        DataError: A file of a run is missing or broken, or its metrics differ from those computed from its counts.
        PluginError: A metric of the runs is not installed.
    """
    options = options or CompareOptions()
    published = read_published(options.published, options.metrics)
    selection = select_runs(names, storage, finished_only=options.finished_only)
    mode = choose_parse_mode(selection.runs, options.parse)
    sweeps = sweeps_of(selection.runs)
    groups, pairs = _group_pairs(selection.runs, options, sweeps)
    clusters, cluster_warnings = choose_clusters(selection.runs, options.cluster)
    resampling = replace(options.resampling, clusters=clusters)
    metrics = measure_runs(selection.runs, mode, options.metrics, resampling)
    all_metrics = [*metrics, *_further_metrics(sweeps, selection.runs, mode, options)]
    tests = paired_tests(pairs, metrics, resampling)
    return Comparison(
        options=options,
        parse_mode=mode,
        num_samples=len(selection.runs[0].scores),
        clusters=clusters,
        groups=groups,
        group_metrics=[dict(_group_metrics(group, metrics, resampling)) for group in groups],
        pairs=pairs,
        tests=ResultList(tests),
        subgroups=ResultList(compare_subgroups(pairs, metrics, resampling, selection.runs)),
        disagreements=ResultList(
            disagreement
            for pair in pairs
            for disagreement in find_disagreements(pair, metrics, options.num_disagreements)
        ),
        warnings=[
            *selection.warnings,
            *cluster_warnings,
            *_preliminary_claims_warning(sweeps),
            *_missing_tests_warning(groups, pairs),
            *group_warnings(groups, TASKS_PATH if options.mre else options.by),
            *_disagreement_warning(tests, resampling.confidence),
        ],
        claims=ResultList(claim for sweep in sweeps for claim in judge_claims(sweep, all_metrics, resampling)),
        reinforcement=[
            table
            for sweep in (sweeps if options.mre else ())
            if (table := judge_arms(sweep, all_metrics, resampling)) is not None
        ],
        published=published,
    )


def _further_metrics(
    sweeps: Sequence[SweepRuns], runs: Sequence[Run], mode: str, options: CompareOptions
) -> list[RunMetric]:
    """Measure the metrics that claims and criteria name, and that the user did not choose for the other tables."""
    if options.metrics is None:
        return []
    named = dict.fromkeys(name for sweep in sweeps for name in sweep.registry.metric_names)
    missing = [name for name in named if name not in options.metrics]
    known = [name for name in missing if any(run.metric_value(name, mode) is not None for run in runs)]
    return measure_runs(runs, mode, known, options.resampling) if known else []


def _preliminary_claims_warning(sweeps: Sequence[SweepRuns]) -> list[str]:
    return [
        f"the claims of {sweep.experiment} are judged without {len(sweep.missing)} of its trials, so that the verdicts "
        "are preliminary"
        for sweep in sweeps
        if sweep.missing and (sweep.registry.claims or sweep.registry.criterion)
    ]


def _group_pairs(
    runs: Sequence[Run], options: CompareOptions, sweeps: Sequence[SweepRuns]
) -> tuple[Sequence[Group], Sequence[GroupPair]]:
    if options.mre:
        if options.by or options.baseline:
            raise SpecError("--mre groups by adapter.tasks and uses the runs on all tasks; remove --by and --baseline")
        return _mre_pairs(runs, sweeps)
    groups = group_runs(runs, options.by)
    if options.baseline is None:
        if len(groups) > MAX_PAIRWISE_GROUPS:
            return groups, []
        return groups, [GroupPair(a, b) for a, b in combinations(groups, 2)]
    baseline = find_baseline(groups, options.baseline)
    return groups, [GroupPair(group, baseline) for group in groups if group is not baseline]


def _mre_pairs(runs: Sequence[Run], sweeps: Sequence[SweepRuns]) -> tuple[Sequence[Group], Sequence[GroupPair]]:
    """Pair runs by their tasks; if none differ in their tasks only, pair arms by the registered criterion."""
    try:
        return mre_pairs(runs)
    except SpecError:
        pairs = [pair for sweep in sweeps for pair in criterion_pairs(sweep)]
        if not pairs:
            raise
        return [group for sweep in sweeps for group in sweep.groups.values()], pairs


def _missing_tests_warning(groups: Sequence[Group], pairs: Sequence[GroupPair]) -> list[str]:
    if len(groups) < 2 or pairs:
        return []
    return [f"no tests: {len(groups)} groups are too many to compare all pairs; choose one with --baseline"]


def _disagreement_warning(tests: Sequence[PairedTest], confidence: float) -> list[str]:
    names = [f"{test.metric} of {test.pair.name}" for test in tests if not test.interval_agrees]
    if not names:
        return []
    more = f" and {len(names) - MAX_TESTS_LISTED} more" if len(names) > MAX_TESTS_LISTED else ""
    listed = "; ".join(names[:MAX_TESTS_LISTED]) + more
    return [
        f"interval over samples and p-value disagree for {listed}: only one of them indicates a difference at the "
        f"level of {1 - confidence:.2g}. Do not claim a difference from such a result"
    ]


def _group_metrics(
    group: Group, metrics: Sequence[RunMetric], resampling: Resampling
) -> Iterator[tuple[str, GroupMetric]]:
    for metric in metrics:
        if metric.is_known_for(group.runs):
            seeds = summarise_seeds([metric.values[run.name] for run in group.runs], resampling.confidence)
            low, high = percentile_interval(metric.mean_draws(group.runs), resampling.confidence) or (None, None)
            yield metric.name, GroupMetric(seeds, low, high)
