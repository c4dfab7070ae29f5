"""Plots of a sweep: parallel coordinates and parameter importances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from runner.trial_factory import ScoredTrial as Point
from runner.trial_factory import short_names

SEED = 0
"""Of the forest that importances are estimated with, so that the same trials give the same figure."""
DECADES = 1.0
"""A parameter whose values lie further apart is drawn on a logarithmic axis."""


def write_figures(points: Sequence[Point], metric: str, mode: str, folder: Path) -> list[Path]:
    """Draw what a sweep found.

    Args:
        points: Trials that have a value, at least one.
        metric: What the value is.
        mode: `min` or `max`.
        folder: Where the pages go.

    Returns:
        `parallel_coordinates.html`, and `importances.html` where importances can be told: from at least two values that
        differ, and two parameters that all have and that vary.
    """
    points = _shortly_named(points)
    study = _study(points, mode)
    if not any(point.parameters for point in points):
        return []
    drawn = {"parallel_coordinates": optuna.visualization.plot_parallel_coordinate(study, target_name=metric)}
    varied = _varied(points)
    if len({point.value for point in points}) > 1 and len(varied) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
        drawn["importances"] = optuna.visualization.plot_param_importances(
            study, evaluator=evaluator, params=varied, target_name=metric
        )
    written = []
    for name, figure in drawn.items():
        path = folder / f"{name}.html"
        figure.write_html(path, include_plotlyjs=True)
        written.append(path)
    return written


def _shortly_named(points: Sequence[Point]) -> list[Point]:
    """Name parameters by the last parts of their paths: Optuna cuts what is long, and leaves what all begin with."""
    names = short_names(list(dict.fromkeys(name for point in points for name in point.parameters)))
    return [Point({names[name]: value for name, value in each.parameters.items()}, each.value) for each in points]


def _study(points: Sequence[Point], mode: str) -> optuna.Study:
    """A study in memory that holds the points, whatever proposed them: a search, a grid, arms, a person."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    names = sorted({name for point in points for name in point.parameters})
    axes = {name: _axis([point.parameters[name] for point in points if name in point.parameters]) for name in names}
    for point in points:
        own = {
            name: value if isinstance(axes[name], FloatDistribution) else str(value)
            for name, value in point.parameters.items()
        }
        study.add_trial(create_trial(params=own, distributions={name: axes[name] for name in own}, value=point.value))
    return study


def _axis(values: Sequence[Any]) -> BaseDistribution:
    """A numeric axis where all values are numbers, else one of texts."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and math.log10(high / low) > DECADES)
    return CategoricalDistribution(sorted({str(value) for value in values}))


def _varied(points: Sequence[Point]) -> list[str]:
    """The parameters that every point has, and not all alike."""
    shared = set.intersection(*(set(point.parameters) for point in points))
    return sorted(name for name in shared if len({str(point.parameters[name]) for point in points}) > 1)
