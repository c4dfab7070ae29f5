"""The `sweep` section: dimensions, seeds, search algorithm, pruning, objective and budget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from runner.stages import Options

ParamValue = float | str
"""The value of a parameter in a search: a number, or the label of one of several values."""

DimensionKind = Literal["grid", "choice", "uniform", "loguniform", "int", "logint", "quantized"]
DIMENSION_KINDS: tuple[DimensionKind, ...] = ("grid", "choice", "uniform", "loguniform", "int", "logint", "quantized")


def value_label(value: Any) -> str:
    """Return the label of a value of a `grid` or a `choice`: text unchanged, anything else as JSON."""
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_value_list(values: Any) -> Any:
    if not isinstance(values, list | dict) or not values:
        raise ValueError("takes a list of values, such as [1, 2], or a mapping of names to values")
    labels = list(values) if isinstance(values, dict) else [value_label(value) for value in values]
    duplicates = sorted({label for label in labels if labels.count(label) > 1})
    if duplicates:
        raise ValueError(f"{', '.join(duplicates)} is listed more than once; list each value once")
    return values


def _check_ascending(bounds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"its first bound must be less than the second, not {bounds[0]:g} and {bounds[1]:g}")
    return bounds


def _check_positive(bounds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not bounds[0] > 0:
        raise ValueError(f"a logarithmic scale needs a lower bound above 0, not {bounds[0]:g}")
    return bounds


def _check_steps(bounds: tuple[float, float, float]) -> tuple[float, float, float]:
    low, high, step = bounds
    if not step > 0:
        raise ValueError(f"takes [low, high, step] with a step above 0, not {step:g}")
    steps = (high - low) / step
    if math.isinf(steps) or not math.isclose(steps, round(steps), abs_tol=1e-9):
        raise ValueError(f"steps of {step:g} from {low:g} do not reach {high:g} exactly")
    return bounds


ValueList = Annotated[
    Any,
    PlainValidator(_check_value_list),
    WithJsonSchema({"anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}]}),
]
FloatRange = Annotated[tuple[float, float], AfterValidator(_check_ascending)]
IntRange = Annotated[tuple[int, int], AfterValidator(_check_ascending)]
LogFloatRange = Annotated[FloatRange, AfterValidator(_check_positive)]
LogIntRange = Annotated[IntRange, AfterValidator(_check_positive)]
SteppedRange = Annotated[tuple[float, float, float], AfterValidator(_check_ascending), AfterValidator(_check_steps)]


class Dimension(Options):
    """The values of one parameter: one of `grid`, `choice`, `uniform`, `loguniform`, `int`, `logint`, `quantized`."""

    grid: ValueList | None = None
    """A list of values, or a mapping from names that you choose to values; tables then show the names. The sweep tries
    all of these values. `grid` needs `search: {type: grid}`."""
    choice: ValueList | None = None
    """A list of values, or a mapping from names that you choose to values; tables then show the names. A value can be a
    whole section."""
    uniform: FloatRange | None = None
    """`[low, high]`: a number from a uniform distribution."""
    loguniform: LogFloatRange | None = None
    """`[low, high]`: a number from a log-uniform distribution, for example a learning rate."""
    int: IntRange | None = None
    """`[low, high]`: an integer from a uniform distribution, both bounds included."""
    logint: LogIntRange | None = None
    """`[low, high]`: an integer from a log-uniform distribution, both bounds included."""
    quantized: SteppedRange | None = None
    """`[low, high, step]`: one of the values low, low + step, and so on up to high."""
    when: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    """Condition for varying this path: paths of the spec, mapped to the values that they must have. The condition sees
    the values that the sweep chose for the paths listed before this path. If the condition does not hold, this path
    keeps the spec's own value."""

    @model_validator(mode="before")
    @classmethod
    def _check_has_kind(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError("needs a kind before its values: {choice: [...]}, or {grid: [...]} to try all of them")
        if not isinstance(value, dict | Dimension):
            raise ValueError("is one value, so there is nothing to search; set it in its section, or with --set")
        return value

    @model_validator(mode="after")
    def _check_one_kind(self) -> Dimension:
        kinds = [kind for kind in DIMENSION_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            hint = f"not {' and '.join(kinds)}" if kinds else "such as {loguniform: [1.0e-6, 1.0e-4]}"
            raise ValueError(f"needs exactly one of {', '.join(DIMENSION_KINDS)}, {hint}")
        return self

    @property
    def kind(self) -> DimensionKind:
        """The option that is set, such as `loguniform`."""
        return next(kind for kind in DIMENSION_KINDS if getattr(self, kind) is not None)

    @property
    def labelled_values(self) -> Mapping[str, Any]:
        """The values of a `grid` or a `choice` by label, in order; empty for numeric ranges."""
        values = getattr(self, self.kind) if self.kind in {"grid", "choice"} else {}
        return values if isinstance(values, dict) else {value_label(value): value for value in values}

    def values(self) -> Sequence[ParamValue] | None:
        """List all parameter values; None if the dimension is continuous."""
        low, high = self.bounds
        if self.kind in {"int", "logint"}:
            return range(round(low), round(high) + 1)
        if self.step is not None:
            return [self._nth_step(number) for number in range(round((high - low) / self.step) + 1)]
        return list(self.labelled_values) or None

    def _nth_step(self, number: float) -> float:
        """Return the value after `number` steps, rounded to a whole number of steps."""
        low, high = self.bounds
        return min(low + round(number) * (self.step or 1), high)

    def fraction(self) -> float | None:
        """Return a number of the dimension that is not an integer; None if there is none."""
        low, high = self.bounds
        if self.step is not None:
            return next((value for value in (low, low + self.step) if value != round(value)), None)
        if self.kind not in {"uniform", "loguniform"}:
            return None
        center = math.sqrt(low * high) if self.kind == "loguniform" else (low + high) / 2
        return center if center != round(center) else center + min(0.5, (high - center) / 2)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number; (0, 0) for a `grid` or a `choice`."""
        bounds = getattr(self, self.kind)
        return (0, 0) if self.labelled_values else (bounds[0], bounds[1])

    @property
    def step(self) -> float | None:
        """The step of a `quantized` dimension; None for all others."""
        return self.quantized[2] if self.quantized else None

    def to_param_value(self, value: Any) -> ParamValue | None:
        """Convert a value of a spec to a parameter value; None if it lies outside the dimension.

        Args:
            value: A value of the spec, or a label.
        """
        if self.labelled_values:
            return self._find_label(value)
        low, high = self.bounds
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return None
        if self.kind in {"uniform", "loguniform"}:
            return value
        nearest = self._nth_step((value - low) / (self.step or 1))
        if not math.isclose(nearest, value):
            return None
        return round(nearest) if self.step is None else nearest

    def _find_label(self, value: Any) -> str | None:
        if isinstance(value, str) and value in self.labelled_values:
            return str(value)
        labelled = self.labelled_values.items()
        return next((label for label, known in labelled if known == value and type(known) is type(value)), None)

    def __str__(self) -> str:
        """Describe the dimension in one line: `loguniform 1e-07 to 1e-05`."""
        low, high = self.bounds
        step = f" in steps of {self.step:g}" if self.step else ""
        values = ", ".join(self.labelled_values) if self.labelled_values else f"{low:g} to {high:g}{step}"
        condition = ", ".join(f"{path} is {value_label(value)}" for path, value in (self.when or {}).items())
        return f"{self.kind} {values}" + (f", if {condition}" if condition else "")


Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class GridSearch(Options):
    """Grid search: every combination once; the last path changes fastest. `uniform` and `loguniform` are errors."""

    type: Literal["grid"] = "grid"


class RandomSearch(Options):
    """Random search: points are drawn independently."""

    type: Literal["random"]
    seed: Seed = 0
    """Random seed. The same seed leads to the same points, even if the sweep was interrupted."""


class TpeSearch(Options):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), in Optuna's multivariate version."""

    former_names: ClassVar[Mapping[str, str]] = {
        "startup": "n_startup_trials",
    }

    type: Literal["tpe"]
    seed: Seed = 0
    """Random seed. With `parallel: 1`, the same seed leads to the same points. With more trials at once, a point also
    depends on which results are available when the search chooses the point."""
    n_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Number of points that are drawn at random before the estimator is used. Default: 10, as in Optuna."""


class GaussianSearch(Options):
    """Bayesian optimisation with Optuna's Gaussian process, for few expensive trials. The launch then imports torch."""

    former_names: ClassVar[Mapping[str, str]] = {
        "startup": "n_startup_trials",
    }

    type: Literal["gp"]
    seed: Seed = 0
    """Random seed. With `parallel: 1`, the same seed leads to the same points. With more trials at once, a point also
    depends on which results are available when the search chooses the point."""
    n_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Number of points that are drawn at random before the Gaussian process is fitted. Default: 10, as in Optuna."""


class GeneticSearch(Options):
    """The genetic algorithm NSGA-II (Deb et al. 2002), as implemented in Optuna, for many cheap trials."""

    former_names: ClassVar[Mapping[str, str]] = {
        "population": "population_size",
    }

    type: Literal["nsga2"]
    seed: Seed = 0
    """Random seed. With `parallel: 1`, the same seed leads to the same points. With more trials at once, a point also
    depends on which results are available when the search chooses the point."""
    population_size: Annotated[int, Field(ge=2)] = 50
    """Number of points (settings of the space) in each generation of the algorithm. Each point runs once per seed.
    Default: 50, as in Optuna."""


class MedianPruning(Options):
    """Stops a trial whose best objective so far is worse than the median of earlier points at the same step."""

    former_names: ClassVar[Mapping[str, str]] = {
        "startup": "n_startup_trials",
        "warmup": "n_warmup_steps",
    }

    type: Literal["median"]
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Number of points that must finish before the first trial can be stopped. Default: 5, as in Optuna."""
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of optimizer steps at the start of each trial during which the trial is not stopped."""


class HalvingPruning(Options):
    """Asynchronous successive halving (Li et al. 2020): at each rung, the best trials continue, all others stop."""

    former_names: ClassVar[Mapping[str, str]] = {
        "first_rung": "min_resource",
        "reduction": "reduction_factor",
    }

    type: Literal["successive_halving"]
    min_resource: Count | Literal["auto"] = "auto"
    """Number of optimizer steps before a trial is compared with other trials for the first time. The steps at which
    trials are compared are called rungs. Each further rung has `reduction_factor` times as many steps. `auto`: 1/100 of
    the steps of the first point that finishes."""
    reduction_factor: Annotated[int, Field(ge=2)] = 4
    """At each rung, the best 1/`reduction_factor` of the trials continue. Default: 4, as in Optuna."""


class HyperbandPruning(Options):
    """Hyperband (Li et al. 2018): several successive halvings whose first rungs are at different steps."""

    former_names: ClassVar[Mapping[str, str]] = {
        "first_rung": "min_resource",
        "steps": "max_resource",
        "reduction": "reduction_factor",
    }

    type: Literal["hyperband"]
    min_resource: Count = 1
    """Number of optimizer steps up to the first rung (a step at which trials are compared) of the successive halving
    that stops trials earliest. In each further halving, the first rung is `reduction_factor` times later."""
    max_resource: Count | Literal["auto"] = "auto"
    """Number of optimizer steps of a full training. `auto`: the steps of the first point that finishes."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """At each rung, the best 1/`reduction_factor` of the trials continue. Default: 3, as in Optuna."""


class Objective(Options):
    """The metric that ranks the points of a sweep."""

    metric: str = "validation/loss"
    """A metric of the validation samples, such as `validation/loss`. The last value that a trial reports counts; the
    values of all seeds of a point are averaged. A test metric as objective is an error."""
    mode: Literal["min", "max"] = "min"
    """Whether a lower (`min`) or a higher (`max`) value is better."""


class Budget(Options):
    """Limits after which no new trial starts. Running trials finish."""

    trials: Count | None = None
    """Maximum number of trials of each arm. Each seed of a point is one trial. A point starts only if the trials of all
    its seeds fit into this limit."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Number of hours, over all launches of this sweep, after which no new trial starts."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Number of GPU hours, over all trials that have ended, after which no new trial starts."""
    failures: Count | None = None
    """Number of failed trials in one launch, after which no new trial starts."""


def _check_unique_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    duplicates = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if duplicates:
        raise ValueError(f"{', '.join(map(str, duplicates))} is listed more than once; list each seed once")
    return seeds


Search = Annotated[GridSearch | RandomSearch | TpeSearch | GaussianSearch | GeneticSearch, Field(discriminator="type")]
Pruning = Annotated[MedianPruning | HalvingPruning | HyperbandPruning, Field(discriminator="type")]


class SweepOptions(Options):
    """A sweep: several trials from one spec."""

    former_names: ClassVar[Mapping[str, str]] = {
        "first": "enqueue",
    }

    space: dict[str, Dimension] = Field(default={})
    """The search space: dotted paths of the spec, such as `optimizer.groups.vision.lr` or a whole section, mapped to
    their values. List a section before the paths inside this section."""
    arms: dict[ArmName, dict[str, Any]] = Field(default={})
    """The arms (named settings) of an ablation: each arm's name, mapped to the paths of the spec that the arm sets and
    their values. With a `space`, the sweep searches each arm separately, in the same way."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_check_unique_seeds)] | None = None
    """Each point is repeated with each of these values as the spec's `seed`. Results are averaged over the seeds. Null:
    only the spec's own seed."""
    search: Search = GridSearch()
    """The algorithm that chooses the points of the space."""
    pruning: Pruning | None = None
    """Rule for stopping trials early by the objective during training. The rule is applied to the first seed of a
    point. The other seeds of the point start when the trial with the first seed has finished; if that trial was stopped
    early, they do not run."""
    objective: Objective | None = None
    """The metric that ranks the points. With `search: {type: grid}` or `search: {type: random}`, and without `pruning`,
    it is optional."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first. Their values must be in the search space. A path that a point omits has the spec's own
    value, so the point `{}` is the spec itself."""
    budget: Budget = Budget()
    """Limits after which no new trial starts."""
    parallel: Count | None = None
    """Maximum number of trials at once. Null: as many trials as the resources allow."""

    def smoke(self) -> Mapping[str, Any]:
        """Use the first seed and two points of each arm."""
        seeds = self.seeds and self.seeds[:1]
        return {"seeds": seeds, "budget": Budget(trials=2 if self.space else None)}
