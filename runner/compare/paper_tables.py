"""The tables of a comparison in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.compare.comparison import Comparison, GroupMetric
from runner.compare.statistics import PairedTest

NONE = "–"
TEX = {
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
    """A table as every way of writing takes it.

    Attributes:
        title: What it shows.
        headings: Of the columns.
        rows: Cells as text.
        num_names: So many columns at the left hold names, the others figures.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int


def tables(found: Comparison, *, full: bool) -> list[Table]:
    """The groups, then the tests; on demand each group's intervals, and the parts of the test split."""
    more = [intervals_table(found), subgroups_table(found)] if full else []
    return [table for table in (groups_table(found), tests_table(found), *more) if table.rows]


def groups_table(found: Comparison) -> Table:
    """Mean over seeds, and the deviation where there are several: the fewer of groups and figures are columns."""
    rows = [
        [group.label, str(len(group.runs)), *(_mean(figures.get(name)) for name in found.metrics)]
        for group, figures in zip(found.groups, found.figures, strict=True)
    ]
    title = f"mean ± standard deviation over seeds, on {found.num_samples:,} samples"
    headings = ["", "runs", *found.metrics]
    if len(rows) >= len(found.metrics):
        return Table(title, headings, rows, 1)
    head, *figures = zip(headings, *rows, strict=True)
    return Table(title, head, figures, 1)


def intervals_table(found: Comparison) -> Table:
    """A row a group and figure: mean, deviation, and what other seeds and other samples could have given."""
    several = len(found.groups) > 1
    rows = [
        [*([group.label] if several else []), name, *_interval_cells(each)]
        for group, figures in zip(found.groups, found.figures, strict=True)
        for name, each in figures.items()
    ]
    percent = f"{found.question.resampling.confidence:.0%}"
    headings = ["metric", "mean", "deviation", f"{percent} over seeds", f"{percent} over samples"]
    if several:
        return Table("intervals of each group", ["group", *headings], rows, 2)
    return Table(f"{found.groups[0].label}, {found.num_samples:,} samples", headings, rows, 1)


def _interval_cells(each: GroupMetric) -> list[str]:
    ends = ((each.seeds.low, each.seeds.high), (each.sample_low, each.sample_high))
    told = [NONE if low is None or high is None else f"{low:.4f} to {high:.4f}" for low, high in ends]
    return [format_value(each.seeds.mean), format_value(each.seeds.std), *told]


def tests_table(found: Comparison) -> Table:
    """A row a test: the figures of both, their difference with both its intervals, p-values, effect size."""
    several = len({(test.pair.a.label, test.pair.b.label) for test in found.tests}) > 1
    baseline = {test.pair.b.label for test in found.tests}
    effects = any(test.pair.told for test in found.tests)
    percent = f"{found.question.resampling.confidence:.0%}"
    title = "differences of means over seeds, p-values over test samples"
    if not several and found.tests:
        title += f": {found.tests[0].pair.a.label} less {found.tests[0].pair.b.label}"
    elif len(baseline) == 1 and not effects:
        title += f": less {next(iter(baseline))}"
    names = ["effect"] if effects else ["comparison"] if several else []
    headings = [
        *names,
        "metric",
        "a",
        "b",
        "a - b",
        f"{percent} over samples",
        "p",
        "p (Holm)",
        "effect size",
        f"{percent} over seeds",
    ]
    rows = [[*([pair_name(test, effects=effects)] if names else []), *_test_cells(test)] for test in found.tests]
    return Table(title, headings, rows, len(names) + 1)


def pair_name(test: PairedTest, *, effects: bool) -> str:
    """What a test compares: the effect that it measures with its budget, or the two groups."""
    if effects:
        return ", ".join(filter(None, (test.pair.told.get("effect"), test.pair.told.get("budget"))))
    return f"{test.pair.a.label} – {test.pair.b.label}"


def _test_cells(test: PairedTest) -> list[str]:
    return [
        test.metric,
        format_value(test.value_a),
        format_value(test.value_b),
        format_signed(test.difference),
        format_interval(test.low, test.high),
        format_p_value(test.p_value),
        format_p_value(test.p_holm),
        NONE if test.effect_size is None else f"{test.effect_size:+.2f}",
        NONE if test.seeds is None else format_interval(test.seeds.low, test.seeds.high),
    ]


def subgroups_table(found: Comparison) -> Table:
    """A row a part of the samples and pair, of the figures that a reader looks at first."""
    several = len(found.pairs) > 1
    rows = [
        [
            f"{part.part.kind} {part.part.value}",
            f"{int(part.part.members.sum()):,}",
            *([f"{part.pair.a.label} – {part.pair.b.label}"] if several else []),
            part.metric,
            format_value(part.value_a),
            format_value(part.value_b),
            format_signed(part.value_a - part.value_b),
            format_interval(part.low, part.high),
        ]
        for part in found.parts
    ]
    percent = f"{found.question.resampling.confidence:.0%}"
    names = ["samples with", "number", *(["comparison"] if several else []), "metric"]
    headings = [*names, "a", "b", "a - b", f"{percent} over samples"]
    return Table("by label and by number of segments", headings, rows, len(names))


def format_value(value: float | None) -> str:
    """A figure between 0 and 1."""
    return NONE if value is None else f"{value:.4f}"


def format_signed(value: float) -> str:
    """A difference of figures."""
    return f"{value:+.4f}"


def format_interval(low: float | None, high: float | None) -> str:
    """An interval."""
    return NONE if low is None or high is None else f"[{format_signed(low)}, {format_signed(high)}]"


def format_p_value(value: float) -> str:
    """A p-value with as many digits as can be read."""
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def _mean(value: GroupMetric | None) -> str:
    if value is None:
        return NONE
    deviation = value.seeds.std
    return format_value(value.seeds.mean) + ("" if deviation is None else f" ± {deviation:.4f}")


def markdown(found: Comparison, *, full: bool = False) -> str:
    """The comparison in Markdown."""
    return "\n".join(
        [*(_markdown(table) for table in tables(found, full=full)), *(f"Note: {each}.\n" for each in found.warnings)]
    )


def _markdown(table: Table) -> str:
    rule = ["---"] * table.num_names + ["---:"] * (len(table.headings) - table.num_names)
    lines = [[cell.replace("|", r"\|") for cell in row] for row in (table.headings, rule, *table.rows)]
    return f"**{table.title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(found: Comparison, *, full: bool = False) -> str:
    """The comparison as LaTeX tables; they need the package booktabs."""
    notes = "".join(f"% {each}\n" for each in found.warnings)
    return notes + "\n".join(_latex(table) for table in tables(found, full=full))


def _latex(table: Table) -> str:
    columns = "l" * table.num_names + "r" * (len(table.headings) - table.num_names)
    head, *body = ([_tex(cell) for cell in row] for row in (table.headings, *table.rows))
    lines = "".join(f"    {' & '.join(row)} \\\\\n" for row in body)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_tex(table.title)}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n"
        f"    {' & '.join(head)} \\\\\n    \\midrule\n{lines}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)
