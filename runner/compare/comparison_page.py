"""Writes a comparison as one self-contained HTML page: tables, plots and samples."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from runner import __version__
from runner.compare.comparison import Comparison
from runner.compare.groups import Group
from runner.compare.paper_tables import groups_table, intervals_table, pair_name, subgroups_table, tests_table
from runner.compare.runs import Run
from runner.errors import RequirementError, RunnerError
from runner.files import read_jsonl, write_text
from runner.html_page import page_template
from runner.plan import create_plugin
from runner.records import Answer, Sample
from runner.spec.check import make_section
from runner.stages import Adapter, Data
from runner.trial.events import EventTail
from runner.trial.run_directory import RunDirectory

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
MAX_OPEN_ROWS = 40
"""A table of differences with more rows is folded at first."""
SAMPLES_PER_PAGE = 10
"""Number of samples that the page lists at once."""
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
                    _draw_row_name(axes, row, pair_name(test.pair))
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
    axes.text(0, row - 0.28, name, transform=axes.get_yaxis_transform(), fontsize=8, va="center", clip_on=False)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(TEXT_COLOUR, "currentColor")


THUMBNAIL_PIXELS = 160
"""Length of the longer side of a picture."""

Verdict = Literal["correct", "wrong", "missing"]


@dataclass(frozen=True)
class MarkedItem:
    """A label-entity pair or a segment of an answer, compared with the reference.

    Attributes:
        text: `person: Ann` or `a = Ann`.
        verdict: `wrong`: the reference does not have it; `missing`: only the reference has it.
    """

    text: str
    verdict: Verdict


@dataclass(frozen=True)
class ComparedAnswer:
    """The answer of one group to a sample.

    Attributes:
        output: The generated text.
        summary: The parsed summary; empty if there is none.
        marked: The parsed pairs, then the parsed segments, each compared with the reference.
        problem: Why the answer could not be parsed with the run's adapter; empty if it was, or without the data set.
    """

    output: str
    summary: str = ""
    marked: Sequence[MarkedItem] = ()
    problem: str = ""


@dataclass(frozen=True)
class ComparedSample:
    """A sample on which groups disagree.

    Attributes:
        id: The id of the sample.
        text: The text of the tweet; empty if the data set is not available.
        pictures: The caption and the file of each picture.
        reference: The reference answer by task.
        changes: Index of each pair that disagrees to its metrics: name to the values of `a` and of `b`.
        answers: Index of each group of these pairs to the answer of its first run.
    """

    id: str
    text: str
    pictures: Sequence[tuple[str, Path]]
    reference: Mapping[str, Any]
    changes: Mapping[int, Mapping[str, tuple[float, float]]]
    answers: Mapping[int, ComparedAnswer]

    @property
    def largest_change(self) -> tuple[int, str, float, float]:
        """The pair and metric that differ most, with the values of `a` and of `b`."""
        changes = [(pair, name, *values) for pair, metrics in self.changes.items() for name, values in metrics.items()]
        return max(changes, key=lambda change: abs(change[2] - change[3]))


def write_page(file: Path, comparison: Comparison) -> None:
    """Write the page; missing parent folders are created.

    Raises:
        RequirementError: The file cannot be written.
    """
    test_split = _load_test_split(comparison.runs)
    html = page_template("comparison.html.jinja", THUMBNAIL_PIXELS).render(
        comparison=comparison,
        title=f"Comparison of {', '.join(dict.fromkeys(run.experiment for run in comparison.runs))}",
        version=__version__,
        colours=[group_colour(index) for index in range(len(comparison.groups))],
        groups=groups_table(comparison),
        intervals=intervals_table(comparison),
        tests=tests_table(comparison, as_change=True),
        subgroups=subgroups_table(comparison, as_change=True),
        difference_plots=difference_plots(comparison),
        value_plots=value_plots(comparison),
        curve_plots=curve_plots(comparison),
        samples=list(_compared_samples(comparison, test_split)),
        missing_data=test_split.problem,
        max_open_rows=MAX_OPEN_ROWS,
        samples_per_page=SAMPLES_PER_PAGE,
        pair_changes=[_change_name(comparison, index) for index in range(len(comparison.pairs))],
        pair_groups=json.dumps(
            [[_group_index(comparison, pair.a), _group_index(comparison, pair.b)] for pair in comparison.pairs]
        ),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, html)
    except OSError as error:
        raise RequirementError(f"--html {file}: cannot be written ({error.strerror}); choose another folder") from error


def _change_name(comparison: Comparison, pair_index: int) -> str:
    pair = comparison.pairs[pair_index]
    details = ", ".join(pair.details.values())
    return f"{pair.b.label} → {pair.a.label}" + (f" ({details})" if details else "")


def _group_index(comparison: Comparison, group: Group) -> int:
    return next(index for index, other in enumerate(comparison.groups) if other is group)


@dataclass(frozen=True)
class _TestSplit:
    """The samples of the test split by id, and the labels of the data set; empty if there is a problem."""

    samples: Mapping[str, Sample]
    labels: Sequence[str]
    problem: str = ""


def _load_test_split(runs: Sequence[Run]) -> _TestSplit:
    """Load the test samples of the runs if their data set exists and is unchanged; a missing one is not rebuilt."""
    section = runs[0].plan["data"]
    path = section.get("path")
    if path is not None and not Path(path).exists():
        return _TestSplit({}, (), f"{path} does not exist")
    try:
        data: Data = create_plugin(make_section("data", section))
        info = data.prepare(_SilentReporter())
        if info.fingerprint != runs[0].data_fingerprint:
            return _TestSplit({}, (), "the data set has changed since the runs")
        return _TestSplit({sample.id: sample for sample in data.load("test")}, info.labels)
    except RunnerError as error:
        return _TestSplit({}, (), str(error))


class _SilentReporter:
    """Ignores progress and warnings: the launch of the runs has shown them."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore metrics."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Ignore a warning."""

    def stop_requested(self) -> bool:
        """Never stop."""
        return False


def _compared_samples(comparison: Comparison, test_split: _TestSplit) -> Iterator[ComparedSample]:
    """Yield each sample once, with all pairs that disagree on it."""
    changes: dict[str, dict[int, Mapping[str, tuple[float, float]]]] = {}
    pair_indices = {id(pair): index for index, pair in enumerate(comparison.pairs)}
    for disagreement in comparison.disagreements:
        changes.setdefault(disagreement.id, {})[pair_indices[id(disagreement.pair)]] = disagreement.values
    readers = [_answer_reader(group.runs[0], comparison.parse_mode, test_split.labels) for group in comparison.groups]
    for sample_id, by_pair in changes.items():
        pairs = [comparison.pairs[index] for index in by_pair]
        groups = {_group_index(comparison, group) for pair in pairs for group in (pair.a, pair.b)}
        sample = test_split.samples.get(sample_id)
        yield ComparedSample(
            id=sample_id,
            text=sample.text if sample else "",
            pictures=list(_pictures(sample)) if sample else [],
            reference=_merged_reference(sample_id, comparison.runs),
            changes=by_pair,
            answers={index: readers[index](sample_id) for index in sorted(groups)},
        )


def _answer_reader(run: Run, mode: str, labels: Sequence[str]) -> Callable[[str], ComparedAnswer]:
    """Return a function from a sample id to the run's answer, marked if the labels and the adapter are available."""
    outputs = {row["id"]: row["output"] for row in read_jsonl(RunDirectory(run.folder).predictions)}
    adapter: Adapter | None = None
    problem = ""
    try:
        if labels:
            adapter = create_plugin(make_section("adapter", run.plan["adapter"]), labels)
    except RunnerError as error:
        problem = str(error)

    def read(sample_id: str) -> ComparedAnswer:
        output = outputs.get(sample_id, "")
        if adapter is None:
            return ComparedAnswer(output, problem=problem)
        answer = adapter.parse(output, mode or adapter.parse_modes[0]).answer
        reference = run.scores[sample_id].get("reference") or {}
        return ComparedAnswer(output, answer.summary or "", list(mark_answer(answer, reference)))

    return read


def mark_answer(answer: Answer, reference: Mapping[str, Any]) -> Iterator[MarkedItem]:
    """Compare the pairs and segments of an answer with a reference of `scores.jsonl`.

    A task that the run did not have has the reference None, and is left out.
    """
    if reference.get("pairs") is not None:
        expected = {(label, entity) for label, entity in reference["pairs"]}
        yield from _mark(answer.pairs or (), expected, "{}: {}")
    if reference.get("mapping") is not None:
        yield from _mark((answer.mapping or {}).items(), set(reference["mapping"].items()), "{} = {}")


def _mark(items: Iterable[tuple[str, str]], expected: AbstractSet[tuple[str, str]], form: str) -> Iterator[MarkedItem]:
    actual = set(items)
    for item in sorted(actual):
        yield MarkedItem(form.format(*item), "correct" if item in expected else "wrong")
    for item in sorted(expected - actual):
        yield MarkedItem(form.format(*item), "missing")


def _merged_reference(sample_id: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the reference of every task that at least one run has."""
    merged: dict[str, Any] = {}
    for run in runs:
        reference = (run.scores[sample_id].get("reference") or {}).items()
        merged |= {task: value for task, value in reference if value is not None and task not in merged}
    return merged


def _pictures(sample: Sample) -> Iterator[tuple[str, Path]]:
    if sample.image is not None:
        yield "image", sample.image
    for segment in sample.segments:
        if segment.image is not None:
            yield f"{segment.letter}: {segment.entity}", segment.image
