"""Displays the artifact cache as a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

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
