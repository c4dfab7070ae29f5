"""By which figures models may be told apart: those of samples that training keeps aside, never the test split's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.errors import Problem
from runner.registry import find, nearest

if TYPE_CHECKING:
    from runner.spec.models import ExperimentSpec

VALIDATION = "validation/"
"""Before the name of a metric's figure where it is measured on those samples."""


def validation_figures(spec: ExperimentSpec) -> list[str]:
    """Name the figures that a training of this spec measures on the samples that it keeps aside.

    Those that depend on the data, such as one for each label, are not among them.
    """
    options = spec.trainer_options
    if options is None:
        return []
    answered = [f"{VALIDATION}{name}" for name in _metric_figures(spec)] if options.answers_validation else []
    return [*options.own_figures, *answered]


def unknown_figure(spec: ExperimentSpec, name: str) -> str | None:
    """Say why nothing can be chosen by a figure, and by what it can; None where it can."""
    valid = validation_figures(spec)
    if name in valid:
        return None
    of_metrics = _metric_figures(spec)
    if name in of_metrics or name.startswith("test/"):
        return f"{name!r} is a figure of the test split, which decides nothing{nearest(VALIDATION + name, valid)}"
    if name.removeprefix(VALIDATION) in of_metrics:
        return (
            f"{name!r} is measured where the samples kept aside are answered: set trainer.generate_every, the "
            "optimizer steps from one time to the next"
        )
    return f"no figure {name!r}{nearest(name, valid)}"


def measure_problems(spec: ExperimentSpec) -> Iterator[Problem]:
    """Yield what a trainer cannot choose by, or cannot have answered."""
    options = spec.trainer_options
    if options is None:
        return
    if options.answers_validation and not spec.generator_options.answers_in_training:
        yield Problem(
            f"the generator {spec.generator.type!r} cannot answer with a model that is being trained; leave it out, or "
            "take one that answers in the same process, such as `transformers`",
            ("trainer", "generate_every"),
        )
    if options.chosen_by is not None and (message := unknown_figure(spec, options.chosen_by.metric)):
        yield Problem(message, ("trainer", "best_by", "metric"))


def _metric_figures(spec: ExperimentSpec) -> list[str]:
    return [name for each in spec.metrics for name in find(each.stage, each.type).figures()]
