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
"""The seed of the random forest that estimates importances, so that the same trials give the same plot."""
MIN_LOG_DECADES = 1.0
"""A parameter whose values span more decades is drawn on a logarithmic axis."""


def write_plots(points: Sequence[Point], metric: str, mode: str, folder: Path) -> list[Path]:
    """Write the plots of a sweep as HTML pages.

    Args:
        points: Trials with a value, at least one.
        metric: The name of the value.
        mode: `min` or `max`.
        folder: The folder to write to.

    Returns:
        `parallel_coordinates.html`, and `importances.html` if importances can be estimated: at least two values differ,
        and at least two parameters vary and are set in all trials.
    """
    points = _shorten_names(points)
    study = _study(points, mode)
    if not any(point.parameters for point in points):
        return []
    plots = {"parallel_coordinates": optuna.visualization.plot_parallel_coordinate(study, target_name=metric)}
    varying = _varying_parameters(points)
    if len({point.value for point in points}) > 1 and len(varying) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
        plots["importances"] = optuna.visualization.plot_param_importances(
            study, evaluator=evaluator, params=varying, target_name=metric
        )
    files = []
    for name, plot in plots.items():
        file = folder / f"{name}.html"
        plot.write_html(file, include_plotlyjs=True)
        files.append(file)
    return files


def _shorten_names(points: Sequence[Point]) -> list[Point]:
    """Name parameters by the last parts of their paths, because Optuna truncates long names at the end."""
    names = short_names(list(dict.fromkeys(name for point in points for name in point.parameters)))
    return [Point({names[name]: value for name, value in point.parameters.items()}, point.value) for point in points]


def _study(points: Sequence[Point], mode: str) -> optuna.Study:
    """Create a study in memory that holds the points. They may come from a search, a grid, arms or the user."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    names = sorted({name for point in points for name in point.parameters})
    axes = {name: _axis([point.parameters[name] for point in points if name in point.parameters]) for name in names}
    for point in points:
        params = {
            name: value if isinstance(axes[name], FloatDistribution) else str(value)
            for name, value in point.parameters.items()
        }
        study.add_trial(
            create_trial(params=params, distributions={name: axes[name] for name in params}, value=point.value)
        )
    return study


def _axis(values: Sequence[Any]) -> BaseDistribution:
    """Return a numeric axis if all values are numbers, else a categorical one."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and math.log10(high / low) > MIN_LOG_DECADES)
    return CategoricalDistribution(sorted({str(value) for value in values}))


def _varying_parameters(points: Sequence[Point]) -> list[str]:
    """List the parameters that every point has and whose values differ."""
    shared = set.intersection(*(set(point.parameters) for point in points))
    return sorted(name for name in shared if len({str(point.parameters[name]) for point in points}) > 1)
