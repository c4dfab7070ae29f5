"""Writes a comparison as one self-contained page: tables, plots and samples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runner import __version__
from runner.compare.comparison import Comparison
from runner.compare.groups import Group
from runner.compare.paper_tables import groups_table, intervals_table, pair_name, subgroups_table, tests_table
from runner.compare.runs import Run
from runner.errors import RequirementError, RunnerError
from runner.files import read_lines, write_text
from runner.html_page import page_template
from runner.plan import implement
from runner.records import Sample
from runner.spec.check import section
from runner.trial.events import EventTail
from runner.trial.run_directory import RunDirectory

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
class Plot:
    """A figure, and what it shows in a line."""

    title: str
    svg: str


def colour(place: int) -> str:
    """The colour of a group, by its place; they repeat."""
    return COLOURS[place % len(COLOURS)]


def difference_plots(found: Comparison) -> list[Plot]:
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
                drawings.append(Plot(metric, _svg(figure)))
    return drawings


def value_plots(found: Comparison) -> list[Plot]:
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
            drawings.append(Plot(metric, _svg(figure)))
    return drawings


def curve_plots(found: Comparison) -> list[Plot]:
    """For the loss, and each figure of samples kept aside: a line a run, in its group's colour."""
    curves: dict[str, list[tuple[int, Sequence[tuple[int, float]]]]] = {}
    for place, group in enumerate(found.groups):
        for run in group.runs:
            for name, points in _curves(RunDirectory(run.folder)).items():
                curves.setdefault(name, []).append((place, points))
    return [Plot(f"{name}, by step", _drawn(lines)) for name, lines in curves.items()]


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


THUMBNAIL = 160
"""The longer side of a picture, in pixels."""


@dataclass(frozen=True)
class ComparedSample:
    """A sample that groups disagree on.

    Attributes:
        id: Its id.
        text: The tweet; empty where the data set is not here.
        pictures: What each shows, and its file.
        reference: What is right, by task.
        pairs: A pair's number to its figures: a name to the values of both groups.
        answers: A group's number to what the first of its runs answered.
    """

    id: str
    text: str
    pictures: Sequence[tuple[str, Path]]
    reference: Mapping[str, Any]
    pairs: Mapping[int, Mapping[str, tuple[float, float]]]
    answers: Mapping[int, str]


def write_page(file: Path, found: Comparison) -> None:
    """Write the page; its folder is made.

    Raises:
        UnmetError: The file cannot be written.
    """
    samples, told = _samples(found.runs)
    text = page_template("comparison.html.jinja", THUMBNAIL).render(
        found=found,
        title=f"Comparison of {', '.join(dict.fromkeys(run.experiment for run in found.runs))}",
        version=__version__,
        colours=[colour(place) for place in range(len(found.groups))],
        groups=groups_table(found),
        intervals=intervals_table(found),
        tests=tests_table(found),
        parts=subgroups_table(found),
        differences=difference_plots(found),
        values=value_plots(found),
        curves=curve_plots(found),
        shown=list(_shown(found, samples)),
        pictures_missing=told,
        pair_names=[_pair_name(found, number) for number in range(len(found.pairs))],
        pair_groups=json.dumps([[_place(found, pair.a), _place(found, pair.b)] for pair in found.pairs]),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise RequirementError(f"--html {file}: cannot be written ({error.strerror}); name another folder") from error


def _pair_name(found: Comparison, number: int) -> str:
    pair = found.pairs[number]
    told = ", ".join(pair.told.values())
    return f"{pair.a.label} – {pair.b.label}" + (f" ({told})" if told else "")


def _place(found: Comparison, group: Group) -> int:
    return next(place for place, each in enumerate(found.groups) if each is group)


def _shown(found: Comparison, samples: Mapping[str, Sample]) -> Iterator[ComparedSample]:
    """Each sample once, with all pairs that disagree on it."""
    figures: dict[str, dict[int, Mapping[str, tuple[float, float]]]] = {}
    numbers = {id(pair): number for number, pair in enumerate(found.pairs)}
    for each in found.disagreements:
        figures.setdefault(each.id, {})[numbers[id(each.pair)]] = each.figures
    outputs = [_outputs(group.runs[0]) for group in found.groups]
    for name, pairs in figures.items():
        sides = {_place(found, side) for number in pairs for side in (found.pairs[number].a, found.pairs[number].b)}
        sample = samples.get(name)
        yield ComparedSample(
            id=name,
            text=sample.text if sample else "",
            pictures=list(_pictures(sample)) if sample else [],
            reference=_reference(name, found.runs),
            pairs=pairs,
            answers={place: outputs[place].get(name, "") for place in sorted(sides)},
        )


def _outputs(run: Run) -> dict[str, str]:
    return {row["id"]: row["output"] for row in read_lines(RunDirectory(run.folder).predictions)}


def _reference(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """What is right, of every task that any run was asked."""
    found: dict[str, Any] = {}
    for run in runs:
        told = (run.rows[name].get("reference") or {}).items()
        found |= {task: right for task, right in told if right is not None and task not in found}
    return found


def _pictures(sample: Sample) -> Iterator[tuple[str, Path]]:
    if sample.image is not None:
        yield "image", sample.image
    for segment in sample.segments:
        if segment.image is not None:
            yield f"{segment.letter}: {segment.entity}", segment.image


class _Quiet:
    """Is told of the progress of a data set that is opened again."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Show nothing; the launch has shown it."""


def _samples(runs: Sequence[Run]) -> tuple[dict[str, Sample], str]:
    """The test samples of the runs, where their data set is here and is still the same; else why not.

    One that is not here is not made for its pictures' sake.
    """
    told = runs[0].plan["data"]
    place = told.get("path")
    if place is not None and not Path(place).exists():
        return {}, f"without texts and pictures: {place} is not here"
    try:
        data = implement(section("data", told))
        if data.prepare(_Quiet()).fingerprint != runs[0].data:
            return {}, "without texts and pictures: the data set has changed since the runs"
        return {sample.id: sample for sample in data.load("test")}, ""
    except RunnerError as error:
        return {}, f"without texts and pictures: {error}"
