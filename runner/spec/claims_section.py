"""The sections `claims` and `criterion`: what an experiment is expected to show, written down before its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from runner.spec.sweep_section import ArmName, value_label
from runner.stages import Options

ClaimForm = Literal["better_than", "not_worse_than", "reinforces"]
CLAIM_FORMS: tuple[ClaimForm, ...] = ("better_than", "not_worse_than", "reinforces")

Level = Annotated[float, Field(gt=0, lt=0.5)]
"""A level below 0.5, so that the two one-sided tests of a claim cannot both reject."""
Margin = Annotated[float, Field(gt=0, lt=1)]
ClaimName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
MetricName = Annotated[str, Field(min_length=1)]


def _check_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(f"{', '.join(duplicates)} is listed more than once; list each metric once")
    return names


class Claim(Options):
    """A claim about an arm of the sweep: one of `better_than`, `not_worse_than`, `reinforces`.

    A claim on several metrics says that it holds on each of them. Of every metric, a higher value is better.
    """

    arm: ArmName
    """The arm that the claim is about."""
    better_than: ArmName | None = None
    """The baseline arm. The claim: on each of the `metrics`, `arm` is better than this arm by more than `by`."""
    not_worse_than: ArmName | None = None
    """The baseline arm. The claim: on each of the `metrics`, `arm` is worse than this arm by less than `margin`, or is
    equal or better."""
    reinforces: Annotated[dict[MetricName, ArmName], Field(min_length=1)] | None = None
    """The metric of each task, mapped to the arm that is trained on this task alone, such as `{ner_f1: ner_alone}`. The
    claim: on each of these metrics, `arm` is better than the metric's own arm by more than `by`."""
    metrics: Annotated[tuple[MetricName, ...], AfterValidator(_check_unique)] = ()
    """The metrics of `better_than` or `not_worse_than`, such as `[ner_f1]`: metrics of the test samples."""
    by: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The difference that must be exceeded, in units of the metric. 0: any difference."""
    margin: Margin | None = None
    """Only with `not_worse_than`: the difference, in units of the metric, that counts as no relevant loss."""
    where: dict[str, Any] = Field(default={})
    """The point of the sweep's `space` that the claim is about: paths, mapped to one of their values or names, such as
    `{trainer: equal_tokens}`. Without it, the claim says that it holds at every point."""
    level: Level = 0.05
    """The level of each one-sided test, after Holm's correction for the number of claims."""

    @model_validator(mode="before")
    @classmethod
    def _check_is_claim(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value:
            raise ValueError("is empty; a claim is, for example, {arm: joint, better_than: alone, metrics: [ner_f1]}")
        return value

    @model_validator(mode="after")
    def _check_one_form(self) -> Claim:
        forms = [form for form in CLAIM_FORMS if getattr(self, form) is not None]
        if len(forms) != 1:
            found = f", not {' and '.join(forms)}" if forms else ""
            raise ValueError(f"needs exactly one of {', '.join(CLAIM_FORMS)}{found}")
        if self.form == "reinforces" and self.metrics:
            raise ValueError("`metrics` has no effect with `reinforces`, which names the metrics itself; remove it")
        if self.form != "reinforces" and not self.metrics:
            raise ValueError(f"`{self.form}` needs `metrics`, such as [ner_f1]")
        if self.form == "not_worse_than" and self.margin is None:
            raise ValueError("`not_worse_than` needs a `margin`, such as 0.01")
        if self.form == "not_worse_than" and self.by:
            raise ValueError("`by` has no effect with `not_worse_than`; set `margin`")
        if self.form != "not_worse_than" and self.margin is not None:
            raise ValueError(f"`margin` has no effect with `{self.form}`; set `by`")
        return self

    @property
    def form(self) -> ClaimForm:
        """The form that is set, such as `better_than`."""
        return next(form for form in CLAIM_FORMS if getattr(self, form) is not None)

    @property
    def baselines(self) -> Mapping[str, str]:
        """The baseline arm of each metric."""
        if self.reinforces is not None:
            return self.reinforces
        baseline = self.better_than or self.not_worse_than
        assert baseline is not None
        return dict.fromkeys(self.metrics, baseline)

    @property
    def threshold(self) -> float:
        """The difference between `arm` and a baseline that the claim says is exceeded."""
        return self.by if self.margin is None else -self.margin

    def __str__(self) -> str:
        """Write the claim as a sentence: `joint is better than ner_alone on ner_f1 by more than 0.01`."""
        metrics = ", ".join(self.metrics)
        by = f" by more than {self.by:g}" if self.by else ""
        if self.reinforces is not None:
            parts = "; ".join(f"better than {arm} on {metric}{by}" for metric, arm in self.reinforces.items())
            sentence = f"{self.arm} reinforces: {parts}"
        elif self.better_than is not None:
            sentence = f"{self.arm} is better than {self.better_than} on {metrics}{by}"
        else:
            sentence = f"{self.arm} is not worse than {self.not_worse_than} on {metrics} by {self.margin:g} or more"
        return sentence + (f" ({self.point_label})" if self.where else "")

    @property
    def point_label(self) -> str:
        """The point of the space in words: `trainer=equal_tokens`; empty if the claim is about every point."""
        return ", ".join(f"{path}={value_label(value)}" for path, value in self.where.items())


class Criterion(Options):
    """The rule by which `runner compare --mre` calls an arm a reinforcement, a trade, a harm or undecided."""

    metrics: Annotated[dict[str, MetricName], Field(min_length=2)]
    """The metric that decides each task, such as `{summary: rougeL, ner: ner_f1}`, for at least two tasks."""
    single_task_arms: dict[str, ArmName] = Field(default={})
    """The arm that is trained on each task alone. A task that is not listed has the only arm of the sweep that trains
    with `adapter.tasks: [<task>]`."""
    by: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """An arm is better (worse) on a task if its metric is higher (lower) by more than this number, in units of the
    metric, than that of the arm trained on this task alone."""
    level: Level = 0.05
    """The level of the one-sided tests, after Holm's correction."""

    def __str__(self) -> str:
        """Write the criterion as a sentence."""
        tasks = "; ".join(
            f"{task} by {metric}" + (f" against {self.single_task_arms[task]}" if task in self.single_task_arms else "")
            for task, metric in self.metrics.items()
        )
        by = f" by more than {self.by:g}" if self.by else ""
        return f"an arm reinforces if it is better{by} on each task ({tasks})"


def single_task_candidates(task: str, arms: Mapping[str, Any], adapter: Any, trainer: Any) -> Iterator[str]:
    """Yield the arms that train on one task alone.

    Args:
        task: The task.
        arms: The values that each arm sets, by path.
        adapter: The spec's section `adapter`.
        trainer: The spec's section `trainer`.
    """
    for arm, values in arms.items():
        if not isinstance(values, Mapping):
            continue
        own_adapter = values.get("adapter", adapter)
        own_tasks = own_adapter.get("tasks") if isinstance(own_adapter, Mapping) else None
        if values.get("adapter.tasks", own_tasks) == [task] and values.get("trainer", trainer) != "none":
            yield arm
