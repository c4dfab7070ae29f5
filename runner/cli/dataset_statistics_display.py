"""Displays the statistics of a data set as tables."""

from __future__ import annotations

from rich.table import Table

from runner.dataset.dataset_statistics import STATISTIC_NAMES, DatasetStatistics
from runner.dataset_statistics_report import MEASURE_TITLES, format_value

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
