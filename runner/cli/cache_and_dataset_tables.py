"""Tables of the artifact cache and of data-set statistics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from runner.dataset.dataset_statistics import STATISTIC_NAMES, DatasetStatistics
from runner.dataset_statistics_report import MEASURE_TITLES, format_value
from runner.files import SIZE_UNITS
from runner.trial.cache_contents import CachedItem, sum_sizes

AGE_UNITS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


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
    unit = next((name for name, size in reversed(SIZE_UNITS.items()) if num_bytes >= size), "B")
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
