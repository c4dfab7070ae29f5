"""The section `sweep`: what is varied, what is repeated, how the next trial is chosen, and when it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from runner.spec.dimension import Dimension
from runner.stages import Options

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

    type: Literal["tpe"]
    seed: Seed = 0
    """With one trial at a time (`parallel: 1`) the same seed draws the same points; with more, which results are in
    when the next point is drawn is a matter of time."""
    startup: Annotated[int, Field(ge=1)] = 10
    """Points drawn at random before the estimate begins (Optuna's default)."""


class GaussianSearch(Options):
    """Bayesian optimisation with a Gaussian process (Optuna's); for few trials that are dear. It loads torch."""

    type: Literal["gp"]
    seed: Seed = 0
    """As for `tpe`."""
    startup: Annotated[int, Field(ge=1)] = 10
    """Points drawn at random before the process is fitted (Optuna's default)."""


class GeneticSearch(Options):
    """A genetic algorithm: NSGA-II (Deb et al. 2002; Optuna's), for many trials that are cheap."""

    type: Literal["nsga2"]
    seed: Seed = 0
    """As for `tpe`."""
    population: Annotated[int, Field(ge=2)] = 50
    """Points a generation (Optuna's default)."""


class MedianPruning(Options):
    """Stops what is worse than the median of earlier points at the same step."""

    type: Literal["median"]
    startup: Annotated[int, Field(ge=1)] = 5
    """Points that come to their end before the first is stopped (Optuna's default)."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of each trial before which it is not stopped."""


class HalvingPruning(Options):
    """Asynchronous successive halving (Li et al. 2020): at each rung the best 1/`reduction` go on."""

    type: Literal["successive_halving"]
    first_rung: Count | Literal["auto"] = "auto"
    """Optimizer steps to the first rung, the next being `reduction` times as far; `auto`: a hundredth of the first
    point's steps."""
    reduction: Annotated[int, Field(ge=2)] = 4
    """The share that goes on is one in so many (Optuna's default)."""


class HyperbandPruning(Options):
    """Hyperband (Li et al. 2018): several successive halvings that begin to stop at different steps."""

    type: Literal["hyperband"]
    first_rung: Count = 1
    """Optimizer steps to the first rung of the most eager halving."""
    steps: Count | Literal["auto"] = "auto"
    """Optimizer steps of a whole training; `auto`: those of the first point that comes to its end."""
    reduction: Annotated[int, Field(ge=2)] = 3
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
    first: tuple[dict[str, Any], ...] = ()
    """Points to try first. A path that one leaves out is as the spec has it, so that `{}` is the spec itself."""
    budget: Budget = Budget()
    """When it is enough."""
    parallel: Count | None = None
    """At most so many trials at once; none: as many as find room."""

    def smoke(self) -> Mapping[str, Any]:
        """The first seed and two points of each arm."""
        seeds = self.seeds and self.seeds[:1]
        return {"seeds": seeds, "budget": Budget(trials=2 if self.space else None)}
