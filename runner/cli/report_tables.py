"""Tables of cached artifacts, data-set statistics and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from runner.compare import paper_tables
from runner.compare.comparison import Comparison
from runner.dataset.dataset_statistics import STATISTIC_NAMES, DatasetStatistics
from runner.preflight.dataset_report import MEASURE_TITLES, format_value
from runner.trial.cache_contents import CachedItem, sum_sizes

AGE_UNITS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


SIZE_UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def cache_table(items: Sequence[CachedItem], now: datetime, title: str) -> Table:
    """One row per artifact, with totals in the footer."""
    table = Table(title=title, title_justify="left", show_footer=True)
    totals = sum_sizes(items)
    table.add_column("kind", footer=f"{len(items):,}", no_wrap=True)
    table.add_column("key", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True, footer=format_size(totals["size"]))
    table.add_column("own", justify="right", no_wrap=True, footer=format_size(totals["freed"]))
    table.add_column("last used", justify="right", no_wrap=True)
    table.add_column("made by", overflow="fold")
    table.add_column("used by", overflow="fold")
    for item in items:
        table.add_row(
            item.kind,
            f"{item.key[:12]} (remote)" if item.is_remote else item.key[:12],
            format_size(item.size),
            format_size(item.reclaimable_size),
            f"{format_age((now - item.last_used).total_seconds())} ago",
            item.made_by or "",
            _format_users(item),
        )
    return table


def _format_users(item: CachedItem) -> str:
    if item.used_by is None:
        return "unknown"
    return f"{len(item.used_by):,} trials" if len(item.used_by) > 1 else next(iter(item.used_by), "nobody")


def format_size(num_bytes: int) -> str:
    """Format a number of bytes: `1.5 GB`."""
    unit = next((name for name, size in SIZE_UNITS.items() if num_bytes >= size), "B")
    return f"{num_bytes:,} B" if unit == "B" else f"{num_bytes / SIZE_UNITS[unit]:,.1f} {unit}"


def format_age(seconds: float) -> str:
    """Format a duration in its largest unit: `3 d`."""
    unit = next((name for name, size in AGE_UNITS.items() if seconds >= size), "s")
    return f"{max(0, int(seconds // AGE_UNITS[unit]))} {unit}"


PAPER_HEADING = "in the paper"


def stats_tables(statistics: DatasetStatistics) -> list[Table]:
    """The counts by split, and the distributions of lengths and sizes; with the paper's values where it has them."""
    return [_counts_table(statistics), _distributions_table(statistics)]


def _counts_table(statistics: DatasetStatistics) -> Table:
    published = statistics.published["counts"] if statistics.published else {}
    table = Table(title=statistics.name, title_justify="left")
    table.add_column("number of")
    for column in [*statistics.counts, "all", *([PAPER_HEADING] if published else [])]:
        table.add_column(column, justify="right")
    for name, total in statistics.total.items():
        row = [*(format_value(counts.get(name, 0)) for counts in statistics.counts.values()), format_value(total)]
        if published:
            row.append(format_value(published[name]) if name in published else "")
        table.add_row(name, *row)
    return table


def _distributions_table(statistics: DatasetStatistics) -> Table:
    published = statistics.published["spreads"] if statistics.published else {}
    table = Table(title="lengths and sizes", title_justify="left")
    table.add_column("measure")
    for column in STATISTIC_NAMES:
        table.add_column(column, justify="right")
    distributions = statistics.spreads
    for name in (name for name in MEASURE_TITLES if name in distributions):
        table.add_row(MEASURE_TITLES[name], *(format_value(distributions[name][column]) for column in STATISTIC_NAMES))
        if name in published:
            values = (format_value(published[name][column]) for column in STATISTIC_NAMES)
            table.add_row(f"  {PAPER_HEADING}", *values, style="cyan")
    if statistics.model is not None:
        estimated = "; text tokens are estimated from the number of characters" if statistics.estimated else ""
        table.caption, table.caption_justify = f"tokens for {statistics.model}{estimated}", "left"
    return table


WIDE_TERMINAL = 140
"""Width in characters from which all columns of the tests fit."""


WIDE_ONLY_COLUMNS = ("a", "b", "p", "effect size", "over seeds")
"""Columns of the tests that a narrower terminal omits."""


SIGNIFICANCE = 0.05
"""Differences with a corrected p-value up to this are green or red."""


def comparison_tables(comparison: Comparison, *, full: bool, samples: bool, width: int) -> list[Table]:
    """The tables of groups and tests, and on request of intervals, subgroups and single samples.

    Args:
        comparison: The comparison.
        full: Show the intervals of each group, and the subgroups of samples.
        samples: List the samples on which groups disagree.
        width: Width of the terminal in characters; a narrow one omits some columns of the tests.
    """
    if len(comparison.groups) == 1:
        return [_rich_table(paper_tables.intervals_table(comparison))]
    tables = [_rich_table(paper_tables.groups_table(comparison))]
    if comparison.tests:
        tables.append(_tests_table(comparison, width))
    if full:
        details = (paper_tables.intervals_table(comparison), paper_tables.subgroups_table(comparison))
        tables += [_rich_table(table) for table in details if table.rows]
    if samples and comparison.disagreements:
        tables.append(_disagreements_table(comparison))
    return tables


def _tests_table(comparison: Comparison, width: int) -> Table:
    """One row per test; significant differences are coloured."""
    source = paper_tables.tests_table(comparison)
    table = Table(title=escape(source.title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    columns = [
        index
        for index, heading in enumerate(source.headings)
        # The heading of an interval begins with its confidence level.
        if width >= WIDE_TERMINAL or heading.rsplit("% ", maxsplit=1)[-1] not in WIDE_ONLY_COLUMNS
    ]
    for index in columns:
        justify: Literal["left", "right"] = "left" if index < source.num_text_columns else "right"
        table.add_column(escape(source.headings[index]), justify=justify, no_wrap=index >= source.num_text_columns - 1)
    for test, row in zip(comparison.tests, source.rows, strict=True):
        style = ("green" if test.difference > 0 else "red") if test.p_holm <= SIGNIFICANCE else ""
        table.add_row(*(escape(row[index]) for index in columns), style=style)
    if width < WIDE_TERMINAL:
        omitted = ", ".join(WIDE_ONLY_COLUMNS)
        table.caption = f"omitted: {omitted} (see --json, or use {WIDE_TERMINAL} columns)"
    return table


def _rich_table(source: paper_tables.Table) -> Table:
    table = Table(title=escape(source.title), title_justify="left")
    for index, heading in enumerate(source.headings):
        justify: Literal["left", "right"] = "left" if index < source.num_text_columns else "right"
        table.add_column(escape(heading), justify=justify, overflow="fold")
    for row in source.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _disagreements_table(comparison: Comparison) -> Table:
    table = Table(title="samples with the largest disagreement; metrics as b → a", title_justify="left")
    for heading in ("sample", "a vs b", "metrics"):
        table.add_column(heading, overflow="fold")
    for sample in comparison.disagreements:
        values = [f"{name} {b:.2f} → {a:.2f}" for name, (a, b) in sample.values.items() if a != b]
        table.add_row(escape(sample.id), escape(paper_tables.pair_name(sample.pair)), escape(", ".join(values)))
    return table
