"""The `sweep` section: dimensions, seeds, search algorithm, pruning, objective and budget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from runner.stages import Options

Drawn = float | str
"""A value as a search knows it: a number, or the label of one of several values."""

Kind = Literal["grid", "choice", "uniform", "loguniform", "int", "logint", "quantized"]
KINDS: tuple[Kind, ...] = ("grid", "choice", "uniform", "loguniform", "int", "logint", "quantized")


def label(value: Any) -> str:
    """Write a value of a `grid` or a `choice` for people: text as it is, anything else as JSON."""
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _several(values: Any) -> Any:
    if not isinstance(values, list | dict) or not values:
        raise ValueError("takes a list of values, such as [1, 2], or a mapping of names to values")
    names = list(values) if isinstance(values, dict) else [label(each) for each in values]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} stands here twice; each value is one of the choices")
    return values


def _ascending(bounds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"its first bound must lie below the second, not {bounds[0]:g} and {bounds[1]:g}")
    return bounds


def _positive(bounds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not bounds[0] > 0:
        raise ValueError(f"a logarithmic scale begins above 0, not at {bounds[0]:g}")
    return bounds


def _stepped(bounds: tuple[float, float, float]) -> tuple[float, float, float]:
    low, high, step = bounds
    if not step > 0:
        raise ValueError(f"takes [low, high, step] with a step above 0, not {step:g}")
    if not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-9):
        raise ValueError(f"steps of {step:g} from {low:g} do not meet {high:g}")
    return bounds


Several = Annotated[
    Any,
    PlainValidator(_several),
    WithJsonSchema({"anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}]}),
]
Reals = Annotated[tuple[float, float], AfterValidator(_ascending)]
Wholes = Annotated[tuple[int, int], AfterValidator(_ascending)]
LogReals = Annotated[Reals, AfterValidator(_positive)]
LogWholes = Annotated[Wholes, AfterValidator(_positive)]
Steps = Annotated[tuple[float, float, float], AfterValidator(_ascending), AfterValidator(_stepped)]


class Dimension(Options):
    """The values of one path: just one of `grid`, `choice`, `uniform`, `loguniform`, `int`, `logint`, `quantized`."""

    grid: Several | None = None
    """Every one of these values is tried, with `search: {type: grid}`."""
    choice: Several | None = None
    """One of these values: a list, or names to values, which tables then show. A value may be a whole section."""
    uniform: Reals | None = None
    """A number from the first to the second, all alike."""
    loguniform: LogReals | None = None
    """A number from the first to the second, all magnitudes alike: for rates."""
    int: Wholes | None = None
    """A whole number from the first to the second, both included."""
    logint: LogWholes | None = None
    """Likewise, all magnitudes alike."""
    quantized: Steps | None = None
    """`[low, high, step]`: low, low + step, and so on up to high."""
    when: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    """Only where these paths of the spec have these values, those of the paths before this one included. Elsewhere the
    path stays as it is."""

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            told = f"not {' and '.join(given)}" if given else "such as {loguniform: [1.0e-6, 1.0e-4]}"
            raise ValueError(f"needs just one of {', '.join(KINDS)}, {told}")
        return self

    @property
    def kind(self) -> Kind:
        """Which of the kinds it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def labelled(self) -> Mapping[str, Any]:
        """The values of a `grid` or a `choice` by their labels, in order; empty for numbers."""
        values = getattr(self, self.kind) if self.kind in {"grid", "choice"} else {}
        return values if isinstance(values, dict) else {label(value): value for value in values}

    def values(self) -> Sequence[Drawn] | None:
        """All values, as a search knows them; None where there is no end of them."""
        low, high = self.bounds
        if self.kind in {"int", "logint"}:
            return range(round(low), round(high) + 1)
        if self.step is not None:
            return [self._at(number) for number in range(round((high - low) / self.step) + 1)]
        return list(self.labelled) or None

    def _at(self, number: float) -> float:
        """The value after so many steps."""
        low, high = self.bounds
        return min(low + round(number) * (self.step or 1), high)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number; without meaning for a `grid` or a `choice`."""
        given = getattr(self, self.kind)
        return (0, 0) if self.labelled else (given[0], given[1])

    @property
    def step(self) -> float | None:
        """From one number to the next, where they are quantized."""
        return self.quantized[2] if self.quantized else None

    def drawn(self, value: Any) -> Drawn | None:
        """Find a plain value in the dimension; None where it lies outside.

        Args:
            value: Of a spec, or a label.
        """
        if self.labelled:
            if isinstance(value, str) and value in self.labelled:
                return str(value)
            same = (name for name, each in self.labelled.items() if each == value and type(each) is type(value))
            return next(same, None)
        low, high = self.bounds
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return None
        if self.kind in {"uniform", "loguniform"}:
            return value
        near = self._at((value - low) / (self.step or 1))
        return (round(near) if self.step is None else near) if math.isclose(near, value) else None

    def __str__(self) -> str:
        """The dimension as a line of a table: `loguniform 1e-07 to 1e-05`."""
        low, high = self.bounds
        step = f" in steps of {self.step:g}" if self.step else ""
        among = ", ".join(self.labelled) if self.labelled else f"{low:g} to {high:g}{step}"
        only = ", ".join(f"{path} is {label(value)}" for path, value in (self.when or {}).items())
        return f"{self.kind} {among}" + (f", where {only}" if only else "")


Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class GridSearch(Options):
    """Every combination once, the last path changing first; each path names its values."""

    type: Literal["grid"] = "grid"


class RandomSearch(Options):
    """Points drawn from the space, independent of one another."""

    type: Literal["random"]
    seed: Seed = 0
    """The same seed draws the same points, whatever was interrupted."""


class TpeSearch(Options):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Optuna's, over all paths together)."""

    former_names: ClassVar[Mapping[str, str]] = {
        "startup": "n_startup_trials",
    }

    type: Literal["tpe"]
    seed: Seed = 0
    """With one trial at a time (`parallel: 1`) the same seed draws the same points; with more, which results are in
    when the next point is drawn is a matter of time."""
    n_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Points drawn at random before the estimate begins (Optuna's default)."""


class GaussianSearch(Options):
    """Bayesian optimisation with a Gaussian process (Optuna's); for few trials that are dear. It loads torch."""

    former_names: ClassVar[Mapping[str, str]] = {
        "startup": "n_startup_trials",
    }

    type: Literal["gp"]
    seed: Seed = 0
    """As for `tpe`."""
    n_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Points drawn at random before the process is fitted (Optuna's default)."""


class GeneticSearch(Options):
    """A genetic algorithm: NSGA-II (Deb et al. 2002; Optuna's), for many trials that are cheap."""

    former_names: ClassVar[Mapping[str, str]] = {
        "population": "population_size",
    }

    type: Literal["nsga2"]
    seed: Seed = 0
    """As for `tpe`."""
    population_size: Annotated[int, Field(ge=2)] = 50
    """Points a generation (Optuna's default)."""


class MedianPruning(Options):
    """Stops what is worse than the median of earlier points at the same step."""

    former_names: ClassVar[Mapping[str, str]] = {
        "startup": "n_startup_trials",
        "warmup": "n_warmup_steps",
    }

    type: Literal["median"]
    n_startup_trials: Annotated[int, Field(ge=1)] = 5
    """Points that come to their end before the first is stopped (Optuna's default)."""
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of each trial before which it is not stopped."""


class HalvingPruning(Options):
    """Asynchronous successive halving (Li et al. 2020): at each rung the best 1/`reduction_factor` go on."""

    former_names: ClassVar[Mapping[str, str]] = {
        "first_rung": "min_resource",
        "reduction": "reduction_factor",
    }

    type: Literal["successive_halving"]
    min_resource: Count | Literal["auto"] = "auto"
    """Optimizer steps to the first rung, the next being `reduction_factor` times as far; `auto`: a hundredth of the
    first point's steps."""
    reduction_factor: Annotated[int, Field(ge=2)] = 4
    """The share that goes on is one in so many (Optuna's default)."""


class HyperbandPruning(Options):
    """Hyperband (Li et al. 2018): several successive halvings that begin to stop at different steps."""

    former_names: ClassVar[Mapping[str, str]] = {
        "first_rung": "min_resource",
        "steps": "max_resource",
        "reduction": "reduction_factor",
    }

    type: Literal["hyperband"]
    min_resource: Count = 1
    """Optimizer steps to the first rung of the most eager halving."""
    max_resource: Count | Literal["auto"] = "auto"
    """Optimizer steps of a whole training; `auto`: those of the first point that comes to its end."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """As for `successive_halving` (Optuna's default)."""


class Objective(Options):
    """What tells the better of two points."""

    metric: str = "validation/loss"
    """A metric of the samples that training keeps aside, such as `validation/loss`: its last value, averaged over the
    seeds. A metric of the test split is refused."""
    mode: Literal["min", "max"] = "min"
    """Whether less of it or more is better."""


class Budget(Options):
    """When to begin nothing new; trials that run come to their end."""

    trials: Count | None = None
    """Trials, each seed being one, of each arm; a point begins only if all its seeds are within it."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours that launches of this sweep have run, all of them together."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of all GPUs of the trials that have ended."""
    failures: Count | None = None
    """Trials that fail in one launch."""


def _once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(str, twice))} stands here twice, which would be the same trial again")
    return seeds


Search = Annotated[GridSearch | RandomSearch | TpeSearch | GaussianSearch | GeneticSearch, Field(discriminator="type")]
Pruning = Annotated[MedianPruning | HalvingPruning | HyperbandPruning, Field(discriminator="type")]


class SweepOptions(Options):
    """Many trials from one spec."""

    former_names: ClassVar[Mapping[str, str]] = {
        "first": "enqueue",
    }

    space: dict[str, Dimension] = Field(default={})
    """What is varied: dotted paths of the spec (`optimizer.groups.vision.lr`, a whole section too) to their values. A
    section comes before the paths inside it."""
    arms: dict[ArmName, dict[str, Any]] = Field(default={})
    """For ablations: the name of each arm, and the paths of the spec that it sets. With a `space`, each arm is searched
    on its own, in the same way."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_once)] | None = None
    """Repetitions of every point with each of these as the spec's `seed`; results are averaged over them. None: the
    spec's own."""
    search: Search = GridSearch()
    """How points of the space are chosen."""
    pruning: Pruning | None = None
    """Which trials are stopped early, by the objective while they train. It goes by a point's first seed; the others
    begin when that one has come to its end."""
    objective: Objective | None = None
    """What is searched for; `grid` and `random` need none."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Points to try first. A path that one leaves out is as the spec has it, so that `{}` is the spec itself."""
    budget: Budget = Budget()
    """When it is enough."""
    parallel: Count | None = None
    """At most so many trials at once; none: as many as find room."""

    def smoke(self) -> Mapping[str, Any]:
        """The first seed and two points of each arm."""
        seeds = self.seeds and self.seeds[:1]
        return {"seeds": seeds, "budget": Budget(trials=2 if self.space else None)}
