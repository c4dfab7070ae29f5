"""The figures of a comparison's page: intervals and curves, each small enough for a telephone, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runner.artifacts import RunDirectory
from runner.compare.comparison import Comparison
from runner.compare.written import pair_name
from runner.events import EventTail

WIDTH = 3.5
"""Inches; at 96 pixels an inch a telephone's page of 375 pixels holds it unscaled."""
ROW = 0.36
"""Inches a row of intervals takes."""
TICKS = 4
"""At most so many steps between the marks of an axis, so that their numbers do not touch."""
INK = "#010203"
"""Stands for the colour of the page's text, light or dark, and is put in place of it in the SVG."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f5fd0", "#44aa99")
"""Told apart by the colour-blind (Okabe and Ito 2008, the last two added), on light and on dark."""
POINTS = 200
"""So many steps of a curve are drawn."""
CURVES = ("train/loss", "validation/")
"""What the names of figures by step begin with that are drawn."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compare",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure, and what it shows in a line."""

    title: str
    svg: str


def colour(place: int) -> str:
    """The colour of a group, by its place; they repeat."""
    return COLOURS[place % len(COLOURS)]


def difference_drawings(found: Comparison) -> list[Drawing]:
    """For each figure, a row a pair: the difference and its bootstrap interval, beside zero."""
    effects = any(pair.told for pair in found.pairs)
    drawings = []
    for metric in found.metrics:
        tests = [test for test in found.tests if test.metric == metric]
        if tests:
            with mpl.rc_context(STYLE):
                figure, axes = _rows(len(tests))
                axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
                for row, test in enumerate(tests):
                    _interval(axes, row, test.difference, (test.low, test.high), COLOURS[0])
                    _name(axes, row, pair_name(test, effects=effects))
                drawings.append(Drawing(metric, _svg(figure)))
    return drawings


def value_drawings(found: Comparison) -> list[Drawing]:
    """For each figure, a row a group: its runs as dots, their mean, and its bootstrap interval over samples."""
    drawings = []
    for metric in found.metrics:
        shown = [place for place, figures in enumerate(found.figures) if metric in figures]
        with mpl.rc_context(STYLE):
            figure, axes = _rows(len(shown))
            for row, place in enumerate(shown):
                group, each = found.groups[place], found.figures[place][metric]
                _interval(axes, row, each.seeds.mean, (each.sample_low, each.sample_high), colour(place))
                known = (run.figure(metric, found.mode) for run in group.runs)
                values = [value for value in known if value is not None]
                axes.plot(values, [row + 0.22] * len(values), "|", color=colour(place), markersize=6)
                _name(axes, row, group.label)
            drawings.append(Drawing(metric, _svg(figure)))
    return drawings


def curve_drawings(found: Comparison) -> list[Drawing]:
    """For the loss, and each figure of samples kept aside: a line a run, in its group's colour."""
    curves: dict[str, list[tuple[int, Sequence[tuple[int, float]]]]] = {}
    for place, group in enumerate(found.groups):
        for run in group.runs:
            for name, points in _curves(RunDirectory(run.folder)).items():
                curves.setdefault(name, []).append((place, points))
    return [Drawing(f"{name}, by step", _drawn(lines)) for name, lines in curves.items()]


def _curves(run: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """Each figure by step; of a step that was done again after a kill, what was told last."""
    found: dict[str, dict[int, float]] = {}
    for event in EventTail(run.events).read():
        if event["kind"] == "metrics" and event["step"] is not None:
            for name, value in event["values"].items():
                if name.startswith(CURVES) and value is not None:
                    found.setdefault(name, {})[int(event["step"])] = float(value)
    return {name: _thinned(sorted(points.items())) for name, points in found.items()}


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep so many points, the last among them."""
    every = -(-len(points) // POINTS)
    return list(points[::-1][::every][::-1])


def _drawn(lines: Sequence[tuple[int, Sequence[tuple[int, float]]]]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.2), layout="constrained")
        axes = figure.subplots()
        for place, points in lines:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour(place), linewidth=1, marker="." if len(points) < 3 else None)
        axes.set_xlabel("step")
        return _svg(figure)


def _rows(number: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.45 + ROW * number), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(number - 0.35, -0.75)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    axes.spines["left"].set_visible(False)
    return figure, axes


def _interval(axes: Axes, row: int, value: float, ends: tuple[float | None, float | None], drawn: str) -> None:
    low, high = (value if end is None else end for end in ends)
    axes.plot([low, high], [row, row], color=drawn, linewidth=2, solid_capstyle="butt")
    axes.plot([value], [row], "o", color=drawn, markersize=5)


def _name(axes: Axes, row: int, name: str) -> None:
    """Write a row's name above it: beside it there is no room on a telephone."""
    axes.text(0, row - 0.28, name, transform=axes.get_yaxis_transform(), fontsize=8, va="center", clip_on=False)


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
