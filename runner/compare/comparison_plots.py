"""Plots of the comparison page as SVG: intervals of differences and values, and training curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from runner.compare.comparison import Comparison
from runner.trial.run_directory_and_events import EventTail, RunDirectory

WIDTH = 3.5
"""Width of a plot in inches; at 96 pixels per inch it fits a phone's page of 375 pixels without scaling."""


ROW_HEIGHT = 0.36
"""Height of a row of an interval plot, in inches."""


MAX_TICKS = 4
"""Largest number of steps between the ticks of an axis, so that their labels do not overlap."""


TEXT_COLOUR = "#010203"
"""Placeholder in the SVG, replaced by the text colour of the page, which depends on its light or dark theme."""


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f5fd0", "#44aa99")
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008; the last two are added), on light and dark."""


MAX_CURVE_POINTS = 200
"""Number of points that a curve is reduced to."""


CURVE_PREFIXES = ("train/loss", "validation/")
"""Prefixes of the metrics that are drawn as curves."""


STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compare",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": TEXT_COLOUR,
    "axes.edgecolor": TEXT_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


Points = Sequence[tuple[int, float]]
"""Step and value of each point of a curve."""


@dataclass(frozen=True)
class Plot:
    """A plot as SVG, with a title of one line."""

    title: str
    svg: str


def group_colour(index: int) -> str:
    """Return the colour of the group with this index; colours repeat."""
    return COLOURS[index % len(COLOURS)]


def difference_plots(comparison: Comparison) -> list[Plot]:
    """Draw a plot for each metric: for each pair the difference and its bootstrap interval, with a line at zero."""
    plots = []
    for metric in comparison.metric_names:
        tests = [test for test in comparison.tests if test.metric == metric]
        if tests:
            with mpl.rc_context(STYLE):
                figure, axes = _interval_axes(len(tests))
                axes.axvline(0, color=TEXT_COLOUR, linewidth=0.8, linestyle=":")
                for row, test in enumerate(tests):
                    _draw_interval(axes, row, test.difference, (test.low, test.high), COLOURS[0])
                    _draw_row_name(axes, row, test.pair.name)
                plots.append(Plot(metric, _svg(figure)))
    return plots


def value_plots(comparison: Comparison) -> list[Plot]:
    """Draw a plot for each metric: for each group its mean, the bootstrap interval over samples, and a mark per run."""
    plots = []
    for metric in comparison.metric_names:
        indices = [index for index, metrics in enumerate(comparison.group_metrics) if metric in metrics]
        with mpl.rc_context(STYLE):
            figure, axes = _interval_axes(len(indices))
            for row, index in enumerate(indices):
                group, values = comparison.groups[index], comparison.group_metrics[index][metric]
                interval = (values.sample_low, values.sample_high)
                _draw_interval(axes, row, values.seeds.mean, interval, group_colour(index))
                by_run = (run.metric_value(metric, comparison.parse_mode) for run in group.runs)
                known = [value for value in by_run if value is not None]
                axes.plot(known, [row + 0.22] * len(known), "|", color=group_colour(index), markersize=6)
                _draw_row_name(axes, row, group.label)
            plots.append(Plot(metric, _svg(figure)))
    return plots


def curve_plots(comparison: Comparison) -> list[Plot]:
    """Draw the training loss and each validation metric by step: a line per run, in the colour of its group.

    A loss has a logarithmic axis, unless a value is zero or negative.
    """
    curves: dict[str, list[tuple[int, Points]]] = {}
    for index, group in enumerate(comparison.groups):
        for run in group.runs:
            for name, points in _read_curves(RunDirectory(run.folder)).items():
                curves.setdefault(name, []).append((index, points))
    plots = []
    for name, lines in curves.items():
        is_log = "loss" in name.rsplit("/", 1)[-1] and all(value > 0 for _, points in lines for _, value in points)
        plots.append(Plot(f"{name} by step{', log scale' if is_log else ''}", _draw_curves(lines, is_log=is_log)))
    return plots


def _read_curves(run: RunDirectory) -> dict[str, Points]:
    """Read metrics by step; for a step that was repeated after a restart, the last value counts."""
    values_by_step: dict[str, dict[int, float]] = {}
    for event in EventTail(run.events).read():
        if event["kind"] == "metrics" and event["step"] is not None:
            for name, value in event["values"].items():
                if name.startswith(CURVE_PREFIXES) and value is not None:
                    values_by_step.setdefault(name, {})[int(event["step"])] = float(value)
    return {name: _thin_out(sorted(values.items())) for name, values in values_by_step.items()}


def _thin_out(points: Points) -> Points:
    """Reduce the number of points evenly, and keep the last one."""
    stride = -(-len(points) // MAX_CURVE_POINTS)
    return points[::-1][::stride][::-1]


def _draw_curves(lines: Sequence[tuple[int, Points]], *, is_log: bool) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.2), layout="constrained")
        axes = figure.subplots()
        for group, points in lines:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=group_colour(group), linewidth=1, marker="." if len(points) < 3 else None)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True))
        if is_log:
            all_values = [value for _, points in lines for _, value in points]
            axes.set_yscale("log")
            # Over less than a decade, powers of ten would leave the axis without labels.
            is_narrow = max(all_values) < 10 * min(all_values)
            axes.yaxis.set_major_locator(MaxNLocator(MAX_TICKS) if is_narrow else LogLocator(numticks=MAX_TICKS + 2))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        return _svg(figure)


def _interval_axes(num_rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.45 + ROW_HEIGHT * num_rows), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(num_rows - 0.35, -0.75)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS))
    axes.spines["left"].set_visible(False)
    return figure, axes


def _draw_interval(
    axes: Axes, row: int, value: float, interval: tuple[float | None, float | None], line_colour: str
) -> None:
    low, high = (value if end is None else end for end in interval)
    axes.plot([low, high], [row, row], color=line_colour, linewidth=2, solid_capstyle="butt")
    axes.plot([value], [row], "o", color=line_colour, markersize=5)


def _draw_row_name(axes: Axes, row: int, name: str) -> None:
    """Write the name of a row above it, because a phone has no space beside it."""
    axes.text(
        0,
        row - 0.28,
        name,
        transform=axes.get_yaxis_transform(),
        fontsize=8,
        va="center",
        clip_on=False,
        parse_math=False,
    )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(TEXT_COLOUR, "currentColor")
