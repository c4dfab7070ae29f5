"""The tables of a comparison as rows of text, and in Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.compare.comparison import Comparison, GroupMetric
from runner.compare.published import PublishedTable
from runner.compare.reinforcement_table import ReinforcementTable, TaskResult
from runner.compare.statistics import PairedTest

MISSING = "–"
THIS_COMPARISON = "this comparison"
"""The source of the values of the runs, in a table that also has published values."""
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Table:
    """A table of text, independent of the output format.

    Attributes:
        title: The caption.
        headings: Column headings.
        rows: Rows of cells.
        num_text_columns: Number of leading columns that hold text; the others hold numbers.
        num_own_rows: Number of leading rows that hold values of the runs, if the rows below them were published by
            others; a line separates both parts.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_text_columns: int
    num_own_rows: int | None = None


def tables(comparison: Comparison, *, full: bool) -> list[Table]:
    """Return the tables of groups and tests; if `full`, also the intervals of each group, and the subgroups."""
    more = [intervals_table(comparison), subgroups_table(comparison)] if full else []
    first = [*claim_tables(comparison), *reinforcement_tables(comparison)]
    results = (
        *first,
        groups_table(comparison),
        tests_table(comparison, full=full),
        *more,
        *published_tables(comparison),
    )
    return [table for table in results if table.rows]


def groups_table(comparison: Comparison) -> Table:
    """Return the mean over seeds, with the standard deviation where a group has several.

    Groups are rows and metrics are columns, or the other way round, so that the table has fewer columns.
    """
    names = comparison.metric_names
    rows = [
        [group.label, str(len(group.runs)), *(_format_mean(metrics.get(name)) for name in names)]
        for group, metrics in zip(comparison.groups, comparison.group_metrics, strict=True)
    ]
    title = f"mean ± standard deviation over seeds, on {comparison.num_samples:,} samples"
    headings = ["", "runs", *names]
    if len(rows) >= len(names):
        return Table(title, headings, rows, 1)
    transposed_headings, *transposed_rows = zip(headings, *rows, strict=True)
    return Table(title, transposed_headings, transposed_rows, 1)


def published_tables(comparison: Comparison) -> list[Table]:
    """Return the groups' means above each table of published results, without intervals and p-values."""
    return [_published_table(comparison, table) for table in comparison.published]


def _published_table(comparison: Comparison, published: PublishedTable) -> Table:
    names = published.shown_metrics(comparison.options.metrics)
    own = [
        [group.label, THIS_COMPARISON, *(_mean(metrics.get(name)) for name in names)]
        for group, metrics in zip(comparison.groups, comparison.group_metrics, strict=True)
    ]
    others = [
        [method.name, method.source, *(MISSING if name not in row else f"{row[name]:f}" for name in names)]
        for method, row in zip(published.results.methods, published.values, strict=True)
    ]
    results = published.results
    title = f"{results.title}: means of the groups, and below them values that others published for the {results.split}"
    return Table(f"{title}; nothing is tested against them", ["", "source", *names], [*own, *others], 2, len(own))


def _mean(metric: GroupMetric | None) -> str:
    return MISSING if metric is None else format_value(metric.seeds.mean)


def intervals_table(comparison: Comparison) -> Table:
    """Return a row for each group and metric: mean, standard deviation, intervals over seeds and over samples."""
    has_several_groups = len(comparison.groups) > 1
    rows = [
        [*([group.label] if has_several_groups else []), name, *_interval_cells(metric)]
        for group, metrics in zip(comparison.groups, comparison.group_metrics, strict=True)
        for name, metric in metrics.items()
    ]
    percent = _confidence(comparison)
    headings = ["metric", "mean", "deviation", f"{percent} over seeds", f"{percent} over samples"]
    if has_several_groups:
        return Table("intervals of each group", ["group", *headings], rows, 2)
    return Table(f"{comparison.groups[0].label}, {comparison.num_samples:,} samples", headings, rows, 1)


def _interval_cells(metric: GroupMetric) -> list[str]:
    intervals = ((metric.seeds.low, metric.seeds.high), (metric.sample_low, metric.sample_high))
    cells = [MISSING if low is None or high is None else f"{low:.4f} to {high:.4f}" for low, high in intervals]
    return [format_value(metric.seeds.mean), format_value(metric.seeds.std), *cells]


def tests_table(comparison: Comparison, *, as_change: bool = False, full: bool = False) -> Table:
    """Return a row for each test: both values, their difference with two intervals, p-values, and effect size.

    Args:
        comparison: The comparison.
        full: Add the interval over samples and seeds together.
        as_change: Write the values of both groups in one column, as `value of b → value of a`.
    """
    has_several_pairs = len({(test.pair.a.label, test.pair.b.label) for test in comparison.tests}) > 1
    baselines = {test.pair.b.label for test in comparison.tests}
    has_effects = any(test.pair.details for test in comparison.tests)
    percent = _confidence(comparison)
    title = "differences of means over seeds, p-values over test samples"
    if not has_several_pairs and comparison.tests:
        title += f": {comparison.tests[0].pair.a.label} minus {comparison.tests[0].pair.b.label}"
    elif len(baselines) == 1 and not has_effects:
        title += f": minus {next(iter(baselines))}"
    text_headings = ["effect"] if has_effects else ["a vs b"] if has_several_pairs else []
    headings = [
        *text_headings,
        "metric",
        *(["b → a"] if as_change else ["a", "b"]),
        "a - b",
        f"{percent} over samples",
        "p",
        "p (Holm)",
        "effect size",
        f"{percent} over seeds",
        *([f"{percent} over both"] if full else []),
    ]
    rows = [
        [*([test.pair.name] if text_headings else []), *_test_cells(test, as_change=as_change, full=full)]
        for test in comparison.tests
    ]
    return Table(title, headings, rows, len(text_headings) + 1)


def _test_cells(test: PairedTest, *, as_change: bool, full: bool) -> list[str]:
    value_a, value_b = format_value(test.value_a), format_value(test.value_b)
    return [
        test.metric,
        *([f"{value_b} → {value_a}"] if as_change else [value_a, value_b]),
        format_signed(test.difference),
        format_interval(test.low, test.high),
        format_p_value(test.p_value),
        format_p_value(test.p_holm),
        MISSING if test.effect_size is None else f"{test.effect_size:+.2f}",
        *(
            MISSING if interval is None else format_interval(interval.low, interval.high)
            for interval in ((test.seeds, test.both) if full else (test.seeds,))
        ),
    ]


def subgroups_table(comparison: Comparison, *, as_change: bool = False) -> Table:
    """Return a row for each subgroup, pair and metric; for `as_change` see `tests_table`."""
    has_several_pairs = len(comparison.pairs) > 1
    rows = []
    for difference in comparison.subgroups:
        subgroup, pair = difference.subgroup, difference.pair
        value_a, value_b = format_value(difference.value_a), format_value(difference.value_b)
        rows.append(
            [
                f"{subgroup.kind} {subgroup.value}",
                f"{int(subgroup.members.sum()):,}",
                *([pair.name] if has_several_pairs else []),
                difference.metric,
                *([f"{value_b} → {value_a}"] if as_change else [value_a, value_b]),
                format_signed(difference.value_a - difference.value_b),
                format_interval(difference.low, difference.high),
            ]
        )
    text_headings = ["samples with", "number", *(["a vs b"] if has_several_pairs else []), "metric"]
    values = ["b → a"] if as_change else ["a", "b"]
    headings = [*text_headings, *values, "a - b", f"{_confidence(comparison)} over samples"]
    return Table("by label and by number of segments", headings, rows, len(text_headings))


def claim_tables(comparison: Comparison) -> list[Table]:
    """Return the verdicts on the claims, then the comparisons that each claim consists of."""
    return [_verdicts_table(comparison), _claim_parts_table(comparison)] if comparison.claims else []


def _verdicts_table(comparison: Comparison) -> Table:
    """Return a row for each claim: its verdict, its p-values, when it was registered, and what would decide it."""
    headings = ["claim", "statement", "registered", "verdict", "what would decide", "p (Holm)", "p against (Holm)"]
    rows = [
        [
            claim.name,
            str(claim.claim),
            str(claim.standing),
            claim.verdict,
            claim.needed.text if claim.needed else MISSING,
            format_p_value(claim.decision.corrected.greater),
            format_p_value(claim.decision.corrected.less),
        ]
        for claim in comparison.claims
    ]
    levels = ", ".join(f"{level:g}" for level in sorted({claim.claim.level for claim in comparison.claims}))
    num_claims = f"{len(rows)} claim" + ("" if len(rows) == 1 else "s")
    return Table(f"{num_claims}: one-sided tests at the level {levels}, corrected by Holm's method", headings, rows, 5)


def _claim_parts_table(comparison: Comparison) -> Table:
    """Return a row for each comparison of a claim: the difference, its threshold, and the p-values for the claim."""
    has_points = any(part.point for claim in comparison.claims for part in claim.parts)
    rows = []
    for claim in comparison.claims:
        for part in claim.parts:
            names = [claim.name, part.metric, f"{part.arm} vs {part.baseline}", *([part.point] if has_points else [])]
            if part.evidence is None:
                rows.append([*names, *[MISSING] * 6])
                continue
            evidence, test = part.evidence, part.evidence.test
            values = [format_signed(test.difference), f"{evidence.threshold:g}", format_interval(test.low, test.high)]
            tests = (evidence.samples, evidence.seeds, evidence.joint)
            rows.append(
                [*names, *values, *(MISSING if each is None else format_p_value(each.greater) for each in tests)]
            )
    text_headings = ["claim", "metric", "a vs b", *(["point"] if has_points else [])]
    interval = f"{_confidence(comparison)} over samples"
    headings = [*text_headings, "a - b", "must exceed", interval, "p over samples", "p over seeds", "p over both"]
    return Table("what each claim consists of; one-sided p-values", headings, rows, len(text_headings))


def reinforcement_tables(comparison: Comparison) -> list[Table]:
    """Return the arms of each experiment with a criterion: values by task, differences, and verdict."""
    return [_reinforcement_table(table, comparison) for table in comparison.reinforcement]


def _reinforcement_table(table: ReinforcementTable, comparison: Comparison) -> Table:
    criterion = table.criterion
    tasks = [
        (f"{task}: {metric}", f"minus {criterion.single_task_arms[task]}") for task, metric in criterion.metrics.items()
    ]
    headings = ["arm", "verdict", *(heading for each in tasks for heading in each), "p (Holm)"]
    rows = [
        [
            f"{arm.arm} ({arm.point})" if arm.point else arm.arm,
            arm.verdict or MISSING,
            *(cell for task in criterion.metrics for cell in _task_cells(arm.tasks.get(task))),
            MISSING if arm.p_holm is None else format_p_value(arm.p_holm),
        ]
        for arm in table.arms
    ]
    title = (
        f"{table.experiment}: {criterion}; level {criterion.level:g}, corrected by Holm's method; "
        f"{_confidence(comparison)} intervals over samples; criterion registered: {table.standing}"
    )
    return Table(title, headings, rows, 2)


def _task_cells(task: TaskResult | None) -> list[str]:
    if task is None:
        return [MISSING, MISSING]
    interval = "" if task.low is None or task.high is None else f" [{task.low:.4f}, {task.high:.4f}]"
    value = f"{format_value(task.value)}{interval}"
    if task.evidence is None:
        return [value, MISSING]
    effect = "" if task.effect == "undecided" else f" {task.effect}"
    return [value, f"{format_signed(task.evidence.test.difference)}{effect}"]


def _confidence(comparison: Comparison) -> str:
    return f"{comparison.options.resampling.confidence:.0%}"


def format_value(value: float | None) -> str:
    """Format a metric between 0 and 1."""
    return MISSING if value is None else f"{value:.4f}"


def format_signed(value: float) -> str:
    """Format a difference of metrics."""
    return f"{value:+.4f}"


def format_interval(low: float | None, high: float | None) -> str:
    """Format an interval of a difference."""
    return MISSING if low is None or high is None else f"[{format_signed(low)}, {format_signed(high)}]"


def format_p_value(value: float) -> str:
    """Format a p-value with four decimals, or in scientific notation below 0.001."""
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def _format_mean(metric: GroupMetric | None) -> str:
    if metric is None:
        return MISSING
    deviation = metric.seeds.std
    return format_value(metric.seeds.mean) + ("" if deviation is None else f" ± {deviation:.4f}")


def markdown(comparison: Comparison, *, full: bool = False) -> str:
    """Write the tables and notes of a comparison in Markdown."""
    notes = [f"Note: {_escape_markdown(note)}.\n" for note in comparison.notes]
    return "\n".join([*(_markdown_table(table) for table in tables(comparison, full=full)), *notes])


def _markdown_table(table: Table) -> str:
    rule = ["---"] * table.num_text_columns + ["---:"] * (len(table.headings) - table.num_text_columns)
    headings, *rows = ([_escape_markdown(cell) for cell in row] for row in (table.headings, *table.rows))
    if table.num_own_rows is not None:
        rows.insert(table.num_own_rows, ["*published*", *[""] * (len(headings) - 1)])
    lines = [headings, rule, *rows]
    return f"**{_escape_markdown(table.title)}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escape_markdown(text: str) -> str:
    """Escape what would be a column, a line, code, a link or HTML."""
    return re.sub(r"[\\`<|]|(?<=\])\(", r"\\\g<0>", " ".join(text.split()))


def latex(comparison: Comparison, *, full: bool = False) -> str:
    """Write the tables of a comparison in LaTeX, for the package booktabs, with the notes as comments."""
    notes = "".join(f"% {' '.join(note.split())}\n" for note in comparison.notes)
    return notes + "\n".join(_latex_table(table) for table in tables(comparison, full=full))


def _latex_table(table: Table) -> str:
    columns = "l" * table.num_text_columns + "r" * (len(table.headings) - table.num_text_columns)
    headings, *rows = ([_escape_latex(cell) for cell in row] for row in (table.headings, *table.rows))
    lines = "".join(
        ("    \\midrule\n" if index == table.num_own_rows else "") + f"    {' & '.join(row)} \\\\\n"
        for index, row in enumerate(rows)
    )
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escape_latex(table.title)}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n"
        f"    {' & '.join(headings)} \\\\\n    \\midrule\n{lines}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def _escape_latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)
