"""The command power: how many test samples and seeds find a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import RESULTS, AsJson, Debug, app, set_environment
from runner.cli.evaluation_commands import Baseline, By, Cluster, Finished, Metrics, Mre, Parse, Storage, split_list
from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.compare.comparison import CompareOptions, Comparison
    from runner.compare.power import AssumedRates, PowerGoal, StudyPower
    from runner.compare.tables import Table

PILOT_RESAMPLES = 2_000
"""Bootstrap draws of the pilot runs: they are used for variances only, which need fewer draws than intervals."""
DEFAULT_SEEDS = 3
"""Seeds of each arm unless the user gives a number: as many as most published experiments have."""

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT|RUN",
        help="Finished pilot runs, as for compare: experiments or runs by name, by the start of a name, or by folder.",
    ),
]
Rates = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="A B",
        help="Instead of pilot runs: the assumed shares of right answers of both arms, such as 0.83 0.80.",
    ),
]
Correlation = Annotated[
    float | None,
    typer.Option(
        min=-1, max=1, help="With --rates: the correlation between the answers of both arms to a sample. Default: 0.5."
    ),
]
ClusterSize = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="With --rates: number of test samples in the cluster of a sample, on average over samples. Default: 1.",
    ),
]
ClusterCorrelation = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="With --rates and --cluster-size: the correlation, between two samples of a cluster, of the difference "
        "of the answers. Default: 1.",
    ),
]
SeedDeviation = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="With --rates: standard deviation over seeds of a run's value. Default: the seeds are not considered.",
    ),
]
Difference = Annotated[
    float | None,
    typer.Option(
        help="The true difference to find, such as 0.02. Default: with --rates their difference; with pilot runs, only "
        "the smallest difference is shown."
    ),
]
Power = Annotated[float, typer.Option(min=0.06, max=0.999, help="The probability of finding the difference.")]
Level = Annotated[float, typer.Option(min=1e-6, max=0.5, help="The level of the two-sided test.")]
Samples = Annotated[
    int | None, typer.Option(min=2, help="Number of test samples of the study. Default: as in the pilot runs.")
]
Seeds = Annotated[
    int | None,
    typer.Option(min=2, help="Number of seeds of each arm. Default: as in the pilot runs; 3 with --seed-deviation."),
]


@app.command(rich_help_panel=RESULTS)
def power(
    names: Names = None,
    *,
    by: By = None,
    baseline: Baseline = None,
    metric: Metrics = None,
    mre: Mre = False,
    parse: Parse = None,
    finished: Finished = False,
    cluster: Cluster = None,
    storage: Storage = Path("runs"),
    rates: Rates = None,
    correlation: Correlation = None,
    cluster_size: ClusterSize = None,
    cluster_correlation: ClusterCorrelation = None,
    seed_deviation: SeedDeviation = None,
    difference: Difference = None,
    power: Power = 0.8,
    level: Level = 0.05,
    samples: Samples = None,
    seeds: Seeds = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show how many test samples and seeds find a difference, and the smallest difference that a study finds."""
    if bool(names) == (rates is not None):
        raise typer.BadParameter("name pilot runs, or give --rates, but not both")
    for_rates = {
        "--correlation": correlation,
        "--cluster-size": cluster_size,
        "--cluster-correlation": cluster_correlation,
        "--seed-deviation": seed_deviation,
    }
    for_pilots = {
        "--by": by,
        "--baseline": baseline,
        "--metric": metric or None,
        "--mre": mre or None,
        "--parse": parse,
        "--finished": finished or None,
        "--cluster": cluster,
    }
    _refuse(for_pilots if rates else for_rates, f"has no effect {'with' if rates else 'without'} --rates")
    goal, comparison = _goal(difference, power, level), None
    set_environment()
    if rates:
        if not seed_deviation:
            _refuse({"--seeds": seeds}, "has no effect without --seed-deviation")
        assumed = _assumed_rates(rates, correlation, cluster_size, cluster_correlation, seed_deviation)
        studies = [_study_from_rates(assumed, goal, samples, seeds)]
    else:
        metrics = split_list(metric) or None
        options = _pilot_options(
            by=by, baseline=baseline, metrics=metrics, parse=parse, finished_only=finished, mre=mre, cluster=cluster
        )
        studies, comparison = _studies_from_pilots(names or (), storage, options, goal, samples, seeds)
    _print(studies, comparison, as_json=as_json)


def _goal(difference: float | None, power: float, level: float) -> PowerGoal:
    from runner.compare.power import PowerGoal

    if difference == 0:
        raise typer.BadParameter("a difference of 0 cannot be found", param_hint="--difference")
    return PowerGoal(None if difference is None else abs(difference), power, level)


def _refuse(options: Mapping[str, object], problem: str) -> None:
    """Refuse options that are given, although they have no effect; 0 is given, too."""
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(problem, param_hint=option)


def _pilot_options(**options: Any) -> CompareOptions:
    from runner.compare.comparison import CompareOptions
    from runner.compare.resampling import Resampling

    return CompareOptions(**options, num_disagreements=0, resampling=Resampling(PILOT_RESAMPLES))


def _print(studies: Sequence[StudyPower], comparison: Comparison | None, *, as_json: bool) -> None:
    if not as_json:
        _print_studies(studies, comparison.notes if comparison else [])
        return
    print_json(
        {
            "studies": [study.as_json() for study in studies],
            **vars(studies[0].goal),
            "cluster": comparison.clusters.as_json() if comparison else None,
            "warnings": list(comparison.warnings) if comparison else [],
        }
    )


def _assumed_rates(
    rates: tuple[float, float],
    correlation: float | None,
    cluster_size: float | None,
    cluster_correlation: float | None,
    seed_deviation: float | None,
) -> AssumedRates:
    from runner.compare.power import AssumedRates

    if not all(0 <= rate <= 1 for rate in rates):
        raise typer.BadParameter("rates are between 0 and 1, such as 0.83 0.80", param_hint="--rates")
    if cluster_correlation is not None and cluster_size is None:
        raise typer.BadParameter("has no effect without --cluster-size", param_hint="--cluster-correlation")
    assumed = AssumedRates(
        *rates,
        cluster_size=cluster_size or 1.0,
        cluster_correlation=1.0 if cluster_correlation is None else cluster_correlation,
        seed_deviation=seed_deviation,
    )
    lowest, highest = assumed.correlation_bounds()
    if correlation is None:
        return replace(assumed, correlation=min(assumed.correlation, highest))
    if not lowest <= correlation <= highest:
        raise typer.BadParameter(
            f"with the rates {rates[0]:g} and {rates[1]:g}, it is between {lowest:.2f} and {highest:.2f}",
            param_hint="--correlation",
        )
    return replace(assumed, correlation=correlation)


def _study_from_rates(
    assumed: AssumedRates, goal: PowerGoal, num_samples: int | None, num_seeds: int | None
) -> StudyPower:
    from runner.compare.power import StudyPower

    wanted = goal.difference or abs(assumed.a - assumed.b) or None
    seeds = num_seeds or (DEFAULT_SEEDS if assumed.seed_deviation else 1)
    return StudyPower("rate", "a", "b", assumed.model(seeds), num_samples, seeds, replace(goal, difference=wanted))


def _studies_from_pilots(
    names: Sequence[str],
    storage: Path,
    options: CompareOptions,
    goal: PowerGoal,
    num_samples: int | None,
    num_seeds: int | None,
) -> tuple[list[StudyPower], Comparison]:
    from runner.compare.comparison import compare
    from runner.compare.power import StudyPower
    from runner.errors import SpecError

    comparison = compare(names, storage, options)
    if not comparison.tests:
        reason = "" if len(comparison.groups) > 1 else f"; all runs are of the group {comparison.groups[0].label}"
        raise SpecError(f"power needs two groups of runs with the same metric{reason}. Choose groups with --by")
    studies = [
        StudyPower.from_pilot(test, comparison.num_samples, goal, num_samples, num_seeds) for test in comparison.tests
    ]
    return studies, comparison


def _print_studies(studies: Sequence[StudyPower], notes: Sequence[str]) -> None:
    from runner.cli.comparison_display import rich_table
    from runner.cli.results_display import print_tables

    tables = (_studies_table(studies), _plans_table(studies))
    print_tables([rich_table(table) for table in tables if table.rows])
    for note in notes:
        print_text(f"note: {note}")
    if not all(study.counts_seeds for study in studies):
        print_text(
            "note: where no seeds are shown, the effect of the seed is unknown or not considered: the numbers hold for "
            "trained models, not for training methods"
        )


def _study_cells(study: StudyPower) -> list[str]:
    from runner.compare.groups import format_setting

    return [study.metric, f"{format_setting(study.a)} vs {format_setting(study.b)}"]


def _studies_table(studies: Sequence[StudyPower]) -> Table:
    from runner.compare.power import MAX_SAMPLES, MAX_SEEDS
    from runner.compare.tables import MISSING, Table

    goal = studies[0].goal
    headings = ("metric", "a vs b", "samples", "seeds", "smallest", "power", "samples needed", "seeds needed")
    rows = [
        [
            *_study_cells(study),
            MISSING if study.num_samples is None else f"{study.num_samples:,}",
            str(study.num_seeds) if study.counts_seeds else MISSING,
            MISSING if study.smallest_difference is None else f"{study.smallest_difference:.4f}",
            MISSING if study.power is None else f"{study.power:.0%}",
            _needed(study.samples_needed, MAX_SAMPLES, is_computed=goal.difference is not None),
            _needed(study.seeds_needed, MAX_SEEDS, is_computed=bool(study.plans and study.num_samples)),
        ]
        for study in studies
    ]
    title = f"smallest difference found with a probability of {goal.power:.0%}, at the level of {goal.level:g}"
    if goal.difference is not None:
        title += f"; power and numbers needed for a difference of {goal.difference:g}"
    return Table(title, headings, rows, 2)


def _plans_table(studies: Sequence[StudyPower]) -> Table:
    from runner.compare.power import MAX_SAMPLES, SEED_CHOICES
    from runner.compare.tables import Table

    headings = ("metric", "a vs b", *(f"{seeds} seeds" for seeds in SEED_CHOICES))
    rows = [
        [*_study_cells(study), *(_needed(samples, MAX_SAMPLES, is_computed=True) for _, samples in study.plans)]
        for study in studies
        if study.plans
    ]
    return Table("test samples needed, by the number of seeds of each arm", headings, rows, 2)


def _needed(value: int | None, largest: int, *, is_computed: bool) -> str:
    from runner.compare.tables import MISSING

    if not is_computed:
        return MISSING
    return f"> {largest:,}" if value is None else f"{value:,}"
