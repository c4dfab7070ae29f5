"""Arms by tasks: whether each arm of a sweep reinforces, trades, harms or is undecided by the registered criterion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from runner.compare.arms import Point, SweepRuns
from runner.compare.claim_evidence import UNDECIDABLE, Evidence, OneSided, combine_parts, measure_evidence
from runner.compare.recompute_metrics import RunMetric
from runner.compare.resampling import Resampling, percentile_interval
from runner.compare.statistics import GroupPair, holm_correction
from runner.spec.claims_section import Criterion
from runner.sweep.claim_registry import Standing

Effect = Literal["better", "worse", "undecided"]
ArmVerdict = Literal["reinforces", "trade", "harms", "undecided"]
MIN_TASKS = 2
"""An arm with fewer tasks has no verdict: reinforcement is about several tasks."""


@dataclass(frozen=True)
class TaskResult:
    """One arm on one task.

    Attributes:
        task: The task.
        metric: The metric that the criterion names for it.
        value: The mean over the arm's runs.
        low: Lower end of the interval over samples; None if the metric is undefined on all draws.
        high: Upper end of that interval.
        baseline: The arm that is trained on this task alone.
        evidence: The tests of "better by more than the criterion's `by`"; None for the baseline itself, and if the
            baseline has no finished run at this point.
        worse: The p-value of the hypothesis that the arm is not worse by more than `by`, over samples and seeds.
        effect: Better, worse or undecided, after Holm's correction over all arms and tasks.
    """

    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    baseline: str
    evidence: Evidence | None
    worse: float = 1.0
    effect: Effect = "undecided"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        values = {name: getattr(self, name) for name in ("task", "metric", "value", "low", "high", "baseline")}
        if self.evidence is None:
            return {**values, "difference": None}
        test = self.evidence.test
        differences = {"difference": test.difference, "difference_low": test.low, "difference_high": test.high}
        p_values = {"p_better": self.evidence.combined.greater, "p_worse": self.worse}
        return {**values, **differences, **p_values, "effect": self.effect}


@dataclass(frozen=True)
class ArmResult:
    """One arm at one point, on all tasks of the criterion that it has.

    Attributes:
        arm: The arm.
        point: The point in words; empty if there is only one.
        num_runs: The number of its runs.
        tasks: Its results by task, in the order of the criterion.
        p_value: The p-value of "reinforces": the largest one of its tasks. None if it has no verdict.
        p_holm: The same after Holm's correction over the arms.
        verdict: The verdict; None for an arm with fewer than `MIN_TASKS` tasks that can be compared.
    """

    arm: str
    point: str
    num_runs: int
    tasks: Mapping[str, TaskResult]
    p_value: float | None = None
    p_holm: float | None = None
    verdict: ArmVerdict | None = None

    @property
    def compared(self) -> list[TaskResult]:
        """The tasks on which the arm is compared with an arm that is trained on the task alone."""
        return [task for task in self.tasks.values() if task.evidence is not None]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        values = {name: getattr(self, name) for name in ("arm", "num_runs", "verdict", "p_value", "p_holm")}
        return {**values, "point": self.point or None, "tasks": [task.as_json() for task in self.tasks.values()]}


@dataclass(frozen=True)
class ReinforcementTable:
    """The arms of a sweep by its criterion.

    Attributes:
        experiment: The experiment.
        criterion: The criterion.
        standing: Whether it was registered before the results.
        arms: The arms, at each point.
    """

    experiment: str
    criterion: Criterion
    standing: Standing
    arms: Sequence[ArmResult]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        return {
            "experiment": self.experiment,
            "criterion": dict(self.standing.content),
            "registered": self.standing.as_json(),
            "arms": [arm.as_json() for arm in self.arms],
        }


def judge_arms(sweep: SweepRuns, metrics: Sequence[RunMetric], resampling: Resampling) -> ReinforcementTable | None:
    """Judge every arm of a sweep by the registered criterion; None without a criterion."""
    standing = sweep.registry.criterion
    if standing is None:
        return None
    criterion = Criterion.model_validate(standing.content)
    by_name = {metric.name: metric for metric in metrics}
    measured = [
        ArmResult(
            arm=arm,
            point=sweep.describe(point),
            num_runs=len(group.runs),
            tasks={task.task: task for task in _task_results(arm, point, sweep, criterion, by_name, resampling)},
        )
        for (arm, point), group in sweep.groups.items()
    ]
    return ReinforcementTable(sweep.experiment, criterion, standing, decide_arms(measured, criterion.level))


def _task_results(
    arm: str,
    point: Point,
    sweep: SweepRuns,
    criterion: Criterion,
    metrics: Mapping[str, RunMetric],
    resampling: Resampling,
) -> Iterator[TaskResult]:
    """Compare an arm with the arm that is trained on a task alone, for each task that it has."""
    group = sweep.groups[arm, point]
    for task, name in criterion.metrics.items():
        if name not in metrics or not metrics[name].is_known_for(group.runs):
            continue
        metric, baseline = metrics[name], criterion.single_task_arms[task]
        low, high = percentile_interval(metric.mean_draws(group.runs), resampling.confidence) or (None, None)
        other = sweep.groups.get((baseline, point))
        evidence, worse = None, 1.0
        if other is not None and baseline != arm and metric.is_known_for(other.runs):
            pair = GroupPair(group, other)
            evidence = measure_evidence(metric, pair, criterion.by, resampling)
            opposite = measure_evidence(metric, pair, -criterion.by, resampling) if criterion.by else evidence
            worse = opposite.combined.less
        yield TaskResult(task, name, metric.mean(group.runs), low, high, baseline, evidence, worse)


def criterion_pairs(sweep: SweepRuns) -> list[GroupPair]:
    """Pair every arm with the arms that are trained on one task alone, at the same point; none without a criterion."""
    if sweep.registry.criterion is None:
        return []
    baselines = Criterion.model_validate(sweep.registry.criterion.content).single_task_arms.values()
    return [
        GroupPair(group, sweep.groups[baseline, point], {"effect": f"{group.label} against {baseline}"})
        for baseline in dict.fromkeys(baselines)
        for (arm, point), group in sweep.groups.items()
        if arm not in baselines and (baseline, point) in sweep.groups
    ]


def decide_arms(arms: Sequence[ArmResult], level: float) -> list[ArmResult]:
    """Decide better or worse for each arm and task, then the verdict of each arm.

    `reinforces` is corrected over the arms, `better` and `worse` over all arms and tasks, each by Holm's method.
    """
    tasks = [task for arm in arms for task in arm.compared]
    better = holm_correction([task.evidence.combined.greater for task in tasks if task.evidence])
    worse = holm_correction([task.worse for task in tasks])
    effects: dict[int, Effect] = {
        id(task): "better" if up <= level else "worse" if down <= level else "undecided"
        for task, up, down in zip(tasks, better, worse, strict=True)
    }
    judged = [arm for arm in arms if len(arm.compared) >= MIN_TASKS]
    p_values = [_reinforcement_p_value(arm) for arm in judged]
    corrected = dict(zip(map(id, judged), zip(p_values, holm_correction(p_values), strict=True), strict=True))
    return [_decide_arm(arm, effects, corrected.get(id(arm)), level) for arm in arms]


def _reinforcement_p_value(arm: ArmResult) -> float:
    return combine_parts([_combined(task) for task in arm.compared]).greater


def _combined(task: TaskResult) -> OneSided:
    return UNDECIDABLE if task.evidence is None else task.evidence.combined


def _decide_arm(
    arm: ArmResult, effects: Mapping[int, Effect], p_values: tuple[float, float] | None, level: float
) -> ArmResult:
    tasks = {name: replace(task, effect=effects.get(id(task), "undecided")) for name, task in arm.tasks.items()}
    if p_values is None:
        return replace(arm, tasks=tasks)
    verdict = arm_verdict(
        [task.effect for task in tasks.values() if task.evidence], is_better_on_all=p_values[1] <= level
    )
    return replace(arm, tasks=tasks, p_value=p_values[0], p_holm=p_values[1], verdict=verdict)


def arm_verdict(effects: Sequence[Effect], *, is_better_on_all: bool) -> ArmVerdict:
    """Return the verdict of an arm (arXiv 2609.00756).

    An arm reinforces if it is better than the single-task arm on all tasks. Better on one task and worse on another is
    a trade. Worse on at least one task and better on none harms. Anything else is undecided.
    """
    if is_better_on_all:
        return "reinforces"
    if "worse" not in effects:
        return "undecided"
    return "trade" if "better" in effects else "harms"
